"""A local certificate authority, for gateways that no public one certifies: kept in a home, for its owner alone."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rios.words.errors import InvalidRequest

CA_DAYS, SERVER_DAYS = 3650, 90
_RENEW_DAYS = 30
_CLOCKS = timedelta(minutes=5)  # clocks of clients may be late
ALWAYS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of a gateway: its certificate and key, and the certificate of who certified it."""

    certificate: Path
    key: Path
    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with these. Raises InvalidRequest where they cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have new connections use what the files hold now."""
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                f"{self.certificate} and {self.key} are no certificate and its key: {error}"
            ) from error

    def stamp(self) -> tuple[int, ...]:
        """Changes when a file does."""
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in (self.certificate, self.key))


def init(home: Path, *, names: Sequence[str] = ()) -> Certificates:
    """The authority of a home and a certificate for its gateway; what is there and good for a month stays.

    names: host names and addresses that clients use, besides those of this machine itself.
    """
    directory = home / "certs"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = Certificates(directory / "gateway.pem", directory / "gateway.key", directory / "ca.pem")
    wanted = tuple(dict.fromkeys((*ALWAYS, *names)))
    ca_key = directory / "ca.key"
    assert found.ca is not None
    if not (found.ca.exists() and ca_key.exists()):
        _make_ca(found.ca, ca_key)
        found.certificate.unlink(missing_ok=True)
    if not _is_good(found.certificate, found.key, wanted):
        _make_server(found, ca_key, wanted)
    return found


def _make_ca(certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rios local authority")])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = (
        _begun(name, name, key.public_key(), now, days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _pem(key))
    _write(certificate, made.public_bytes(serialization.Encoding.PEM))


def _make_server(files: Certificates, ca_key_file: Path, names: Sequence[str]) -> None:
    assert files.ca is not None
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rios gateway")])
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        _begun(name, ca.subject, key.public_key(), datetime.now(UTC), days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(files.key, _pem(key))
    _write(files.certificate, made.public_bytes(serialization.Encoding.PEM))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, *, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + timedelta(days=days))
    )


def _is_good(certificate: Path, key: Path, names: Sequence[str]) -> bool:
    """Whether a certificate is for all `names` and good for a month."""
    if not (certificate.exists() and key.exists()):
        return False
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=_RENEW_DAYS)
    return lasts and {_alternative(one) for one in names} <= set(alternatives)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise InvalidRequest(f"{name!r} is no host name and no address") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    """Replace a file that is for its owner alone, whole or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    new.replace(path)
