"""Who is a member of a secured network: holders of a certificate of its authority that nobody revoked, over TLS 1.3.

The files are looked at again while the process runs: a certificate that is replaced, and a list of revoked ones that
grows, count from the next connection on, and connections of who was revoked are ended within a second or two.
"""

from __future__ import annotations

import functools
import logging
import os
import ssl
import threading
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

from rios.words.config import Settings
from rios.words.errors import InvalidRequest

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often the files are looked at

CA, CERTIFICATE, KEY, REVOKED = "ca.pem", "host.pem", "host.key", "crl.pem"
"""The files of a member's directory (RIOS_TLS)."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A member's files: who certifies, what it is certified by, and who is revoked (which may not be there yet)."""

    ca: Path
    certificate: Path
    key: Path
    revoked: Path

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes when a file does."""
        return tuple(_stamp(path) for path in (self.ca, self.certificate, self.key, self.revoked))


def files_of(settings: Settings) -> TlsFiles | None:
    """The files that the settings name; None where the network is not secured.

    Raises InvalidRequest where only some of them are named.
    """
    ca, certificate, key = settings.tls_ca, settings.tls_cert, settings.tls_key
    if settings.tls is not None:
        ca, certificate, key = (
            given or settings.tls / name for given, name in ((ca, CA), (certificate, CERTIFICATE), (key, KEY))
        )
    if ca is None and certificate is None and key is None:
        return None
    if ca is None or certificate is None or key is None:
        raise InvalidRequest(
            "RIOS_TLS_CA, RIOS_TLS_CERT and RIOS_TLS_KEY go together; or set RIOS_TLS to a directory that "
            "`rios certs worker` made"
        )
    return TlsFiles(ca, certificate, key, ca.parent / REVOKED)


def trust_of(settings: Settings) -> Trust | None:
    """Whom this process trusts; None where the network is not secured. Raises InvalidRequest for files without use."""
    files = files_of(settings)
    return None if files is None else _trust(files)


@functools.lru_cache(maxsize=64)
def _trust(files: TlsFiles) -> Trust:
    return Trust(files)


# The threads of a trust do not live on in a forked process, nor does the state of its locks.
os.register_at_fork(after_in_child=_trust.cache_clear)


class Ended(Protocol):
    """A connection that can be ended from another thread."""

    serial: int | None

    def abort(self) -> None:
        """End it now."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the files held when they were last read. `certificate` is the own one, in DER."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    certificate: bytes
    revoked: frozenset[int]


class Trust:
    """The contexts for both ends of a connection, as the files want them now."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._stamp = files.stamp()
        self._now = read(files)
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[Ended] = weakref.WeakSet()
        self._watched = False

    def __repr__(self) -> str:
        return f"<Trust {self.files.ca}>"

    def now(self) -> Identity:
        """The identity for a new connection."""
        if time.monotonic() - self._looked_at > LOOK_S:
            self.look()
        return self._now

    def look(self) -> None:
        """Read the files again where they changed; what cannot be used is not taken."""
        with self._lock:
            self._looked_at = time.monotonic()
            stamp = self.files.stamp()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if not self.files.certificate.exists():  # the network has ended, and taken its files along
                return
            try:
                self._now = read(self.files)
            except InvalidRequest as error:  # half of them is written: what was read before serves until all are
                log.warning("new certificates are not taken", extra={"reason": str(error)})
                return
            log.info("new certificates are taken", extra={"certificate": str(self.files.certificate)})
        self._end_revoked()

    def keep_watch(self, connection: Ended) -> None:
        """End this connection once its peer's certificate is revoked."""
        with self._lock:
            self._open.add(connection)
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, name="rios-trust", daemon=True).start()
        if connection.serial in self._now.revoked:
            connection.abort()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                if not self._open:  # nobody to watch over
                    self._watched = False
                    return
            self.look()

    def _end_revoked(self) -> None:
        with self._lock:
            found = list(self._open)
        for connection in found:
            if connection.serial in self._now.revoked:
                log.warning("connection of a revoked certificate ended", extra={"serial": f"{connection.serial:x}"})
                connection.abort()


def read(files: TlsFiles) -> Identity:
    """The contexts that the files make. Raises InvalidRequest where they cannot be used."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        revoked = revoked_of(files)
        sides = [_context(files, side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)]
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InvalidRequest(
            f"{files.certificate}, {files.key} and {files.ca} are no certificate, its key and who certified it: {error}"
        ) from error
    if certificate.not_valid_after_utc < datetime.now(UTC):
        log.error("the certificate has ended; others refuse it", extra={"certificate": str(files.certificate)})
    return Identity(sides[0], sides[1], _der(certificate), revoked)


def revoked_of(files: TlsFiles) -> frozenset[int]:
    """The serial numbers of revoked certificates, from a list that the authority signed; none without a list."""
    if not files.revoked.exists():
        return frozenset()
    found = x509.load_pem_x509_crl(files.revoked.read_bytes())
    check_list(found, x509.load_pem_x509_certificate(files.ca.read_bytes()))
    return frozenset(one.serial_number for one in found)


def check_list(found: x509.CertificateRevocationList, ca: x509.Certificate) -> int:
    """The number of a list of revoked certificates. Raises ValueError where another authority signed it."""
    if not found.is_signature_valid(ca.public_key()):  # type: ignore[arg-type]
        raise ValueError("the list of revoked certificates is not signed by the authority")
    return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def name_of(certificate: x509.Certificate) -> str:
    """The name that a certificate was made for."""
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _context(files: TlsFiles, side: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    # Members are told by the authority alone: machines of a lab change their addresses. That the process which answers
    # is the one that was meant is proved by the key of its greeting.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key)
    if files.revoked.exists():
        context.load_verify_locations(files.revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if side is ssl.PROTOCOL_TLS_SERVER:
        # A ticket would make a connection readable that has no frame to read; and sessions are not taken up again, so
        # that every connection is checked against the list of revoked certificates.
        context.num_tickets = 0
    return context


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)
