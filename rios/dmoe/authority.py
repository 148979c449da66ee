"""A local certificate authority: makes, renews and revokes the certificates of a network's members and its gateway.

    ca.pem ca.key            who certifies; whoever has the key makes members
    crl.pem                  who is revoked
    gateway.pem gateway.key  the gateway's, for servers alone: no member
    issued/SERIAL.pem        every certificate that was made
    hosts/NAME/              a member's directory, to be copied to its machine: ca.pem, host.pem, host.key, crl.pem

All of it is for its owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rios.dmoe.trust import CA, CERTIFICATE, KEY, REVOKED, TlsFiles, check_list, name_of
from rios.words.durable import sync_names
from rios.words.errors import InvalidRequest

CA_DAYS, DAYS = 3650, 90
RENEW_DAYS = 30  # a certificate that ends sooner is made again
_CLOCKS = timedelta(minutes=5)  # clocks of others may be late
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that the authority made."""

    name: str
    serial: int
    ends: datetime
    revoked: bool


class Authority:
    """The authority in a directory. `Authority.made` makes one where there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file, self._key_file, self._list_file = folder / CA, folder / "ca.key", folder / REVOKED
        if not self.exists(folder):
            raise InvalidRequest(f"{folder} holds no authority (ca.pem, ca.key): make one by `rios certs init`")
        self._ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())

    def __repr__(self) -> str:
        return f"<Authority {self.folder}>"

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is an authority in this directory."""
        return (folder / CA).exists() and (folder / "ca.key").exists()

    @classmethod
    def made(cls, folder: Path) -> Authority:
        """The authority of a directory, made where there is none."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            if not cls.exists(folder):
                _make_ca(folder / CA, folder / "ca.key")
                (folder / REVOKED).unlink(missing_ok=True)
            found = cls(folder)
            if not found._list_file.exists():
                found._write_list((), number=1)
        return found

    # --- certificates ----------------------------------------------------------------------------------------

    def host(self, name: str, *, days: float = DAYS) -> TlsFiles:
        """A member's directory with a new key and a certificate for `days` days. Raises InvalidRequest."""
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name of a host: letters, digits, '.', '_' and '-', at most 63")
        folder = self.folder / "hosts" / name
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certify(name, key.public_key(), names=[name], usages=_BOTH, days=days)
        files = member_files(folder)
        write_pair(files, pem_of(key), certificate)
        write(files.ca, self.ca_file.read_bytes())
        write(files.revoked, self.revocations())
        return files

    def renewed(self, request: bytes, *, name: str) -> bytes:
        """A certificate, in PEM, for a member's own new key.

        request: a certificate signing request in PEM. name: whom its sender has proved to be.
        Raises InvalidRequest where it asks for another name's.
        """
        try:
            found = x509.load_pem_x509_csr(request)
            asked = str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        except (IndexError, ValueError) as error:
            raise InvalidRequest(f"a certificate signing request that cannot be read: {error}") from error
        key = found.public_key()
        if not found.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidRequest("a certificate signing request that its own key did not sign")
        if asked != name:
            raise InvalidRequest(f"{name} asks for a certificate of {asked}")
        return self.certify(name, key, names=[name], usages=_BOTH, days=DAYS)

    def certify(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        *,
        names: Sequence[str],
        usages: Sequence[x509.ObjectIdentifier],
        days: float,
    ) -> bytes:
        """A certificate in PEM for `name`, reached by `names`, and a record of it."""
        ca_key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        identifier = self._ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        made = (
            _begun(subject, self._ca.subject, key, days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([alternative(one) for one in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        data = made.public_bytes(serialization.Encoding.PEM)
        record = self.folder / "issued"
        record.mkdir(mode=0o700, exist_ok=True)
        write(record / f"{made.serial_number:x}.pem", data)
        return data

    def issued(self) -> list[Issued]:
        """Every certificate that was made, those that end last first."""
        revoked = {one.serial_number for one in x509.load_pem_x509_crl(self.revocations())}
        found = []
        for path in (self.folder / "issued").glob("*.pem"):
            one = x509.load_pem_x509_certificate(path.read_bytes())
            found.append(Issued(name_of(one), one.serial_number, one.not_valid_after_utc, one.serial_number in revoked))
        return sorted(found, key=lambda one: one.ends, reverse=True)

    # --- revocation ------------------------------------------------------------------------------------------

    def revocations(self) -> bytes:
        """The list of revoked certificates, in PEM."""
        return self._list_file.read_bytes()

    def revoke(self, name: str) -> int:
        """Revoke all certificates of a name; returns how many were revoked now. Raises InvalidRequest for none."""
        with _locked(self.folder):
            old = x509.load_pem_x509_crl(self.revocations())
            number = check_list(old, self._ca)
            found = [one for one in self.issued() if one.name == name]
            if not found:
                raise InvalidRequest(f"no certificate was made for {name!r}; `rios certs list` shows all")
            new = [one.serial for one in found if not one.revoked]
            if new:
                self._write_list([*(one.serial_number for one in old), *new], number=number + 1)
        for folder in (self.folder / "hosts").glob("*"):  # what runs on this machine by these files
            write(folder / REVOKED, self.revocations())
        return len(new)

    def _write_list(self, serials: Sequence[int], *, number: int) -> None:
        ca_key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        now = datetime.now(UTC)
        # It ends with the authority: a list that nobody brings must not stop the network. Who is to know is told.
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._ca.subject)
            .last_update(now - _CLOCKS)
            .next_update(self._ca.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(one)
        write(self._list_file, builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def member_files(folder: Path) -> TlsFiles:
    """The files of a member's directory."""
    return TlsFiles(folder / CA, folder / CERTIFICATE, folder / KEY, folder / REVOKED)


def ends_soon(certificate: Path, *, days: float = RENEW_DAYS) -> bool:
    """Whether a certificate has to be made again. Raises InvalidRequest for what is no certificate."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{certificate} is no certificate: {error}") from error
    return found.not_valid_after_utc < datetime.now(UTC) + timedelta(days=days)


def alternative(name: str) -> x509.GeneralName:
    """A host name or address as certificates have it. Raises InvalidRequest for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise InvalidRequest(f"{name!r} is no host name and no address") from error


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_pair(files: TlsFiles, key: bytes, certificate: bytes) -> None:
    """Replace key and certificate; whoever reads between the two finds that they do not fit, and reads again."""
    with _locked(files.key.parent):
        write(files.key, key)
        write(files.certificate, certificate)


def write(path: Path, data: bytes) -> None:
    """Replace a file that is for its owner alone, whole or not at all, also where the machine loses power."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_names(path.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_ca(certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rios local authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = (
        _begun(name, name, key.public_key(), days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write(key_file, pem_of(key))
    write(certificate, made.public_bytes(serialization.Encoding.PEM))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - _CLOCKS)
        .not_valid_after(ends)
    )
