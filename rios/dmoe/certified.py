"""A host's own certificate: renewed through control connections, by a key that never leaves the host.

CALL    meta {op: "certificate"}            -> ANSWER {ends, revocations, request}
        meta {op: "certified"}, body a certificate in PEM, made for the last request -> ANSWER {}
        meta {op: "revocations"}            -> ANSWER {list}: who is revoked, in PEM, or null
        meta {op: "revoked"}, body a list in PEM, which the authority signed -> ANSWER {revocations}

`revocations` is the number of the list that the host has, `request` a certificate signing request in PEM, or null while
the certificate is good for a month.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rios.dmoe.authority import RENEW_DAYS, pem_of, write, write_pair
from rios.dmoe.trust import Trust, check_list
from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.dmoe.wire import Frame

log = logging.getLogger(__name__)

Operation = Callable[[dict[str, Any], "Frame", str], dict[str, Any]]


class OwnCertificate:
    """The files of this process's trust, and the key that is to replace theirs."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._files = trust.files
        self._lock = threading.Lock()
        self._key: ec.EllipticCurvePrivateKey | None = None

    def operations(self) -> dict[str, Operation]:
        """By their names."""
        return {
            "certificate": lambda request, frame, session: self.said(),
            "certified": lambda request, frame, session: self.take(bytes(frame.body)),
            "revocations": lambda request, frame, session: {"list": self.revocations()},
            "revoked": lambda request, frame, session: {"revocations": self.take_list(bytes(frame.body))},
        }

    def said(self) -> dict[str, Any]:
        """When it ends, which list is here, and a request for another one where it ends soon."""
        certificate = self._certificate()
        ends = certificate.not_valid_after_utc
        request = None
        if ends < datetime.now(UTC) + timedelta(days=RENEW_DAYS):
            with self._lock:
                if self._key is None:
                    self._key = ec.generate_private_key(ec.SECP256R1())
                made = x509.CertificateSigningRequestBuilder().subject_name(certificate.subject)
                request = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        return {"ends": ends.isoformat(), "revocations": self._number(), "request": request}

    def take(self, data: bytes) -> dict[str, Any]:
        """A certificate for the last request's key. Raises InvalidRequest for any other."""
        try:
            made = x509.load_pem_x509_certificate(data)
            made.verify_directly_issued_by(self._ca())
        except (InvalidSignature, TypeError, ValueError) as error:
            raise InvalidRequest(f"a certificate that the authority did not make: {error}") from error
        with self._lock:
            if self._key is None or made.public_key() != self._key.public_key():
                raise InvalidRequest("a certificate for a key that is not this host's")
            if made.subject != self._certificate().subject:
                raise InvalidRequest("a certificate of another name")
            write_pair(self._files, pem_of(self._key), data)
            self._key = None
        self._trust.look()
        log.info("certificate renewed", extra={"ends": made.not_valid_after_utc.isoformat()})
        return {}

    def revocations(self) -> str | None:
        """The list of revoked certificates, in PEM."""
        return self._files.revoked.read_text() if self._files.revoked.exists() else None

    def take_list(self, data: bytes) -> int:
        """A list of revoked certificates, kept where it is newer than the one here; returns the number of that.

        Raises InvalidRequest for one that the authority did not sign.
        """
        try:
            number = check_list(x509.load_pem_x509_crl(data), self._ca())
        except ValueError as error:
            raise InvalidRequest(f"a list of revoked certificates that cannot be used: {error}") from error
        with self._lock:
            if number > self._number():
                write(self._files.revoked, data)
        self._trust.look()
        return self._number()

    def _number(self) -> int:
        found = self.revocations()
        return 0 if found is None else check_list(x509.load_pem_x509_crl(found.encode()), self._ca())

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._files.certificate.read_bytes())

    def _ca(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._files.ca.read_bytes())
