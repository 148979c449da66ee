"""Certificates: made for members, renewed for nobody else, revoked; what a host takes of them, and what it refuses."""

from __future__ import annotations

import os
import ssl
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner

from rios.cli import app
from rios.dmoe.authority import Authority, ends_soon, member_files
from rios.dmoe.certified import OwnCertificate
from rios.dmoe.certifying import certifier_of
from rios.dmoe.trust import Trust, files_of
from rios.words.config import Settings
from rios.words.errors import InvalidRequest


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.made(tmp_path / "home" / "certs")


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def request(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = made.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def test_a_members_certificate(authority: Authority) -> None:
    files = authority.host("host-1")
    found = certificate(files.certificate)
    assert found.not_valid_after_utc - datetime.now(UTC) < timedelta(days=90)
    assert found.not_valid_after_utc - datetime.now(UTC) > timedelta(days=89)
    usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    found.verify_directly_issued_by(certificate(authority.ca_file))
    for path in authority.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not (files.ca.parent / "ca.key").exists()
    with pytest.raises(InvalidRequest, match="no name of a host"):
        authority.host("../elsewhere")
    before = authority.ca_file.read_bytes()
    assert Authority.made(authority.folder).ca_file.read_bytes() == before
    with pytest.raises(InvalidRequest, match="certs init"):
        Authority(authority.folder / "none")


def test_the_commands(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    home = ["--home", str(authority.folder.parent)]
    made = CliRunner().invoke(app, ["certs", "worker", "host-1", *home]).output.strip()
    assert Path(made) == authority.folder / "hosts" / "host-1"
    listed = CliRunner().invoke(app, ["certs", "list", *home]).output
    assert listed.endswith("good     host-1\n")
    said = CliRunner().invoke(app, ["certs", "env", made]).output
    for line in said.splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    assert files_of(Settings()) == member_files(Path(made))
    assert os.environ["DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION"] == "1.3"
    assert CliRunner().invoke(app, ["certs", "revoke", "host-1", *home]).output.startswith("1 certificates")
    assert "revoked  host-1" in CliRunner().invoke(app, ["certs", "list", *home]).output
    with pytest.raises(InvalidRequest, match="no certificate was made for 'nobody'"):
        authority.revoke("nobody")


def test_the_files_go_together(tmp_path: Path) -> None:
    assert files_of(Settings()) is None
    with pytest.raises(InvalidRequest, match="go together"):
        files_of(Settings(tls_ca=tmp_path / "ca.pem"))
    with pytest.raises(InvalidRequest, match="no certificate, its key"):
        Trust(member_files(tmp_path))


def test_only_ones_own_name_is_renewed(authority: Authority) -> None:
    assert certificate_of(authority.renewed(request("a"), name="a")) == "a"
    with pytest.raises(InvalidRequest, match="a asks for a certificate of b"):
        authority.renewed(request("b"), name="a")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        authority.renewed(b"nonsense", name="a")
    spoiled = bytearray(x509.load_pem_x509_csr(request("a")).public_bytes(serialization.Encoding.DER))
    spoiled[-1] ^= 1
    broken = ssl.DER_cert_to_PEM_cert(bytes(spoiled)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(InvalidRequest, match="its own key did not sign"):
        authority.renewed(broken.encode(), name="a")


def certificate_of(data: bytes) -> str:
    found = x509.load_pem_x509_certificate(data)
    return str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_what_a_host_takes(authority: Authority, tmp_path: Path) -> None:
    files = authority.host("a", days=10)
    own = OwnCertificate(Trust(files))
    asked = own.said()["request"]
    assert asked == own.said()["request"] or x509.load_pem_x509_csr(asked.encode()).is_signature_valid
    foreign = Authority.made(tmp_path / "foreign").renewed(asked.encode(), name="a")
    before = files.certificate.read_bytes()
    key_before = files.key.read_bytes()
    for wrong, why in (
        (foreign, "did not make"),
        (b"nonsense", "did not make"),
        (authority.renewed(request("a"), name="a"), "not this host's"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            own.take(wrong)
    assert files.certificate.read_bytes() == before
    own.take(authority.renewed(asked.encode(), name="a"))
    assert not ends_soon(files.certificate, days=80)
    assert files.key.read_bytes() != key_before
    assert own.said()["request"] is None
    Trust(files)  # they fit
    with pytest.raises(InvalidRequest):  # nothing was asked for
        own.take(authority.renewed(request("a"), name="a"))


def test_lists_of_revoked_ones_only_grow(authority: Authority, tmp_path: Path) -> None:
    own = OwnCertificate(Trust(authority.host("a")))
    old = authority.revocations()
    authority.host("b")
    assert authority.revoke("b") == 1
    assert authority.revoke("b") == 0
    new = authority.revocations()
    assert own.take_list(new) == own.take_list(old) == 2
    assert own.revocations() == new.decode()
    with pytest.raises(InvalidRequest, match="not signed by the authority"):
        own.take_list(Authority.made(tmp_path / "foreign").revocations())
    with pytest.raises(InvalidRequest):
        own.take_list(b"nonsense")


def test_what_lies_beside_the_authority_is_renewed_but_for_the_revoked(authority: Authority) -> None:
    files = authority.host("a", days=10)
    revoked = authority.host("b", days=10)
    authority.revoke("b")
    before = revoked.certificate.read_bytes()
    certifier = certifier_of(dict, Settings(tls=files.ca.parent, tls_authority=authority.folder))
    assert certifier is not None
    try:
        deadline = time.monotonic() + 30
        while ends_soon(files.certificate):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        certifier.close()
    assert revoked.certificate.read_bytes() == before
    assert certifier_of(dict, Settings()) is None


def test_half_written_files_are_not_taken(authority: Authority) -> None:
    files = authority.host("a")
    trust = Trust(files)
    now = trust.now()
    good = files.certificate.read_bytes()
    files.certificate.write_bytes(authority.renewed(request("a"), name="a"))  # not this key's
    trust.look()
    assert trust.now() is now
    files.certificate.write_bytes(good)
    later = files.certificate.stat().st_mtime + 1.0  # than what was written within one tick of the file system's clock
    os.utime(files.certificate, (later, later))
    trust.look()
    assert trust.now() is not now
