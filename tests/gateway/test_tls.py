"""TLS: 1.3 alone, by a local authority; certificates that are replaced are taken without a restart."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

import rios
from rios.gateway import certs
from rios.gateway.certs import Certificates, init
from rios.words.errors import GatewayLost, InvalidRequest
from tests.gateway.servers import Door, lean


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return init(tmp_path_factory.mktemp("tls") / "home", names=["rios.lab.example", "10.0.0.7"])


@pytest.fixture(scope="module")
def secured(files: Certificates) -> Iterator[Door]:
    with lean(files.certificate.parent.parent, certificates=files) as found:
        yield found


def _handshake(door: Door, context: ssl.SSLContext) -> tuple[str | None, bytes]:
    import socket

    host, port = door.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return wrapped.version(), wrapped.getpeercert(binary_form=True) or b""


def test_clients_that_trust_the_authority_are_served(secured: Door, files: Certificates) -> None:
    with rios.connect(secured.url, token=secured.token, ca=files.ca) as network:
        assert network.wallet.held == 0
        response = network._http._client.get("/live")
        assert response.headers["strict-transport-security"] == "max-age=31536000"
    assert _handshake(secured, ssl.create_default_context(cafile=files.ca))[0] == "TLSv1.3"


def test_others_are_not(secured: Door, files: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.client.http.RETRY_S", 0.0)
    with pytest.raises(GatewayLost, match=r"(?i)certificate"):
        rios.connect(secured.url, token=secured.token)
    with pytest.raises(GatewayLost, match=r"(?i)certificate"):
        rios.connect(secured.url, token=secured.token, ca=init(tmp_path).ca)
    with pytest.raises(InvalidRequest, match="no certificate of an authority"):
        rios.connect(secured.url, token=secured.token, ca=tmp_path / "none")
    with pytest.raises(GatewayLost):
        rios.connect(secured.url.replace("https", "http"), token=secured.token)
    old = ssl.create_default_context(cafile=files.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        _handshake(secured, old)


def test_what_the_authority_makes(files: Certificates, tmp_path: Path) -> None:
    assert files.ca is not None
    for path in files.ca.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    made = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "rios.lab.example"}
    assert "10.0.0.7" in map(str, names.get_values_for_type(x509.IPAddress))
    assert made.not_valid_after_utc - made.not_valid_before_utc < dt.timedelta(days=91)
    home = files.ca.parent.parent
    before = files.certificate.read_bytes()
    assert init(home).certificate.read_bytes() == before, "what is good stays"
    with pytest.raises(InvalidRequest, match="no host name"):
        init(tmp_path, names=["ünicode.example"])
    (tmp_path / "x").write_text("nonsense")
    with pytest.raises(InvalidRequest, match="no certificate and its key"):
        Certificates(tmp_path / "x", tmp_path / "x").context()


def test_new_certificates_are_taken_without_a_restart(
    secured: Door, files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(cafile=files.ca)
    _, before = _handshake(secured, context)
    monkeypatch.setattr(certs, "_RENEW_DAYS", 1000)  # so the one that is there is too old
    init(files.certificate.parent.parent, names=["rios.lab.example", "10.0.0.7"])
    deadline = time.monotonic() + 30
    while (found := _handshake(secured, context)[1]) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == ssl.PEM_cert_to_DER_cert(files.certificate.read_text()) != before
