"""The gateway's certificate: files that are given, or that the local authority of a home makes."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from rios.dmoe.authority import DAYS, RENEW_DAYS, Authority, alternative, pem_of, write_pair
from rios.dmoe.trust import REVOKED, TlsFiles
from rios.gateway.places import is_everywhere
from rios.words.errors import InvalidRequest

ALWAYS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of a gateway: its certificate and key, and the certificate of who certified it."""

    certificate: Path
    key: Path
    ca: Path | None = None
    names: tuple[str, ...] = ()  # that the local authority certifies; none where the files are somebody else's

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with these. Raises InvalidRequest where they cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have new connections use what the files hold now; of files that do not belong together nothing is used."""
        try:
            # A context takes the certificate before it finds that the key is another one's, and has neither then.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                f"{self.certificate} and {self.key} are no certificate and its key: {error}"
            ) from error

    def stamp(self) -> tuple[int, ...]:
        """Changes when a file does."""
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in (self.certificate, self.key))

    def certified(self) -> tuple[str, ...]:
        """The names and addresses that the certificate is for, those of every machine last; none that stands for all
        addresses of one."""
        found = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        try:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return ()
        addresses = map(str, names.get_values_for_type(x509.IPAddress))
        found_names = (*names.get_values_for_type(x509.DNSName), *addresses)
        return tuple(sorted((name for name in found_names if not is_everywhere(name)), key=ALWAYS.__contains__))

    def host(self, host: str) -> str:
        """What to call a gateway that listens at `host`, so that its certificate is for that; `host` where it has no
        name that could be asked for."""
        names = self.certified()
        return host if host in names else next((name for name in names if "*" not in name), host)

    def renew(self) -> None:
        """Have the local authority, where it is its, make the certificate again before it ends."""
        if self.names and self.ca is not None and not _is_good(self.certificate, self.key, self.names):
            _make(self, Authority(self.ca.parent))


def init(home: Path, *, names: Sequence[str] = ()) -> Certificates:
    """The authority of a home and a certificate for its gateway; what is there and good for a month stays.

    names: host names and addresses that clients use, besides those of this machine itself, and those that the
        certificate has already: who starts a gateway need not know what it was made for.
    """
    directory = home / "certs"
    found = Certificates(directory / "gateway.pem", directory / "gateway.key", directory / "ca.pem")
    if not Authority.exists(directory):
        found.certificate.unlink(missing_ok=True)
    Authority.made(directory)
    before = found.certified() if found.certificate.exists() else ()
    found = replace(found, names=tuple(dict.fromkeys((*ALWAYS, *before, *names))))
    found.renew()
    return found


def _make(files: Certificates, authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # For servers alone: who has it cannot take part in the network.
    certificate = authority.certify(
        "rios gateway", key.public_key(), names=files.names, usages=[ExtendedKeyUsageOID.SERVER_AUTH], days=DAYS
    )
    pair = TlsFiles(authority.ca_file, files.certificate, files.key, authority.folder / REVOKED)
    write_pair(pair, pem_of(key), certificate)


def _is_good(certificate: Path, key: Path, names: Sequence[str]) -> bool:
    """Whether a certificate is for all `names` and good for a month."""
    if not (certificate.exists() and key.exists()):
        return False
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=RENEW_DAYS)
    return lasts and {alternative(one) for one in names} <= set(alternatives)
