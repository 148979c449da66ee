"""TLS: 1.3 alone, by a local authority; certificates renewed and taken without a restart; HTTP sent on to HTTPS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

import rios
from rios.client import where
from rios.dmoe.authority import Authority
from rios.gateway import certs, places, serve
from rios.gateway.certs import Certificates, init
from rios.gateway.certs_commands import chosen
from rios.gateway.redirect import Redirect
from rios.gateway.settings import GatewaySettings
from rios.services.gate_file import write_file
from rios.words.errors import GatewayLost, InvalidRequest
from tests.gateway.servers import Door, lean
from tests.waiting import until

NAMES = ("rios.lab.example", "10.0.0.7")
EVIL = b"GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"https://rios.lab.example:"
NONSENSE = b"\x16\x03\x01" + bytes(100)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return init(tmp_path_factory.mktemp("tls") / "home", names=NAMES)


@pytest.fixture(scope="module")
def secured(files: Certificates) -> Iterator[Door]:
    with lean(files.certificate.parent.parent, certificates=files) as found:
        yield found


def _handshake(door: Door, context: ssl.SSLContext) -> tuple[str | None, bytes]:
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
        rios.connect(secured.url, token=secured.token).close()
    with pytest.raises(GatewayLost, match=r"(?i)certificate"):
        rios.connect(secured.url, token=secured.token, ca=init(tmp_path).ca).close()
    with pytest.raises(InvalidRequest, match="no certificate of an authority"):
        rios.connect(secured.url, token=secured.token, ca=tmp_path / "none").close()
    with pytest.raises(GatewayLost):
        rios.connect(secured.url.replace("https", "http"), token=secured.token).close()
    old = ssl.create_default_context(cafile=files.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        _handshake(secured, old)


def test_what_the_authority_makes(files: Certificates, tmp_path: Path) -> None:
    assert files.ca is not None
    for path in files.ca.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
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
    monkeypatch.setattr(certs, "RENEW_DAYS", 1000)  # so the one that is there is too old
    monkeypatch.setattr(serve, "_RENEW_TICKS", 20)  # and the gateway looks soon

    def taken() -> bool:  # it makes another one at each look, and both are read before the next
        found = _handshake(secured, context)[1]
        return found == ssl.PEM_cert_to_DER_cert(files.certificate.read_text()) != before

    until(taken, "the new certificate", deadline_s=30, pause_s=0.1)


def test_half_of_a_new_pair_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate is replaced, and its key is not yet."""
    files = init(tmp_path / "home")
    with lean(tmp_path / "home", certificates=files) as door:
        context = ssl.create_default_context(cafile=files.ca)
        before = _handshake(door, context)
        files.certificate.write_bytes(init(tmp_path / "other").certificate.read_bytes())
        until(lambda: "new certificates are not taken" in caplog.text, "a look at the files", deadline_s=30)
        assert _handshake(door, context) == before


def test_names_that_a_certificate_has_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rios certs init --name`, and then `rios up --tls --host`, which knows its own address alone."""
    init(tmp_path, names=NAMES)
    for _ in range(2):
        again = init(tmp_path, names=["10.0.0.8"])
        assert set(again.certified()) >= {*NAMES, "10.0.0.8", "localhost"}
        monkeypatch.setattr(certs, "RENEW_DAYS", 1000)  # then it is made again


def test_a_gateway_is_called_by_a_name_that_it_is_certified_for(tmp_path: Path, files: Certificates) -> None:
    settings = GatewaySettings()
    authority = Authority.made(tmp_path / "lab")
    key = ec.generate_private_key(ec.SECP256R1())
    given = Certificates(tmp_path / "given.pem", tmp_path / "given.key")
    for names, url in (
        (("rios.lab.example", "*.lab.example"), "https://rios.lab.example:8443"),
        (("127.0.0.1", "rios.lab.example"), "https://127.0.0.1:8443"),
        (("*.lab.example",), "https://127.0.0.1:8443"),
    ):
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        given.certificate.write_bytes(authority.certify("x", key.public_key(), names=names, usages=usages, days=1))
        assert places.url_of("127.0.0.1", 8443, settings, given) == url
    elsewhere = settings.model_copy(update={"url": "https://rios.example"})
    given.certificate.write_bytes(files.certificate.read_bytes())
    assert places.url_of("10.9.9.9", 8443, elsewhere, given) == "https://rios.example"
    assert places.url_of("::1", 80, elsewhere, None) == "http://[::1]:80"


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_a_gateway_at_all_addresses_is_shown_by_one_that_a_browser_can_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everywhere: str
) -> None:
    """`rios up --host 0.0.0.0`, with and without --tls: no browser opens https://0.0.0.0."""
    settings, here = GatewaySettings(url=""), "[::1]" if ":" in everywhere else "127.0.0.1"
    monkeypatch.setattr(socket, "gethostname", lambda: "trunk-7")
    assert places.own_names("192.168.7.8") == ("192.168.7.8",)
    assert places.own_names(everywhere)[0] == "trunk-7"
    assert places.shown_url(everywhere, 8080, settings, None) == "http://trunk-7:8080"
    assert places.url_of(everywhere, 8080, settings, None) == f"http://{here}:8080"
    made = chosen(tmp_path, everywhere, tls=True, certificate=None, key=None, redirect=None)
    assert made is not None
    assert "trunk-7" in made.certified()
    assert not any(map(places.is_everywhere, made.certified()))
    assert places.shown_url(everywhere, 8443, settings, made) == "https://trunk-7:8443"
    assert places.url_of(everywhere, 8443, settings, made) == f"https://{here}:8443"
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")  # the certificate is still for the name before
    assert places.shown_url(everywhere, 8443, settings, made).partition(":8443")[0] in {
        f"https://{name}" for name in made.certified()
    }
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert not any(map(places.is_everywhere, places.own_names(everywhere)))
    published = settings.model_copy(update={"url": "https://rios.lab.example/"})
    assert places.shown_url(everywhere, 8443, published, made) == "https://rios.lab.example"


def test_the_authority_of_a_running_gateway_may_be_named(
    secured: Door, files: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is no system's and not the home's."""
    write_file(tmp_path, url=secured.url, token=secured.token)
    monkeypatch.setattr(where, "home", lambda: tmp_path)
    monkeypatch.delenv("RIOS_URL", raising=False)
    assert where.find() is None
    monkeypatch.setenv("RIOS_CA", str(files.ca))
    found = where.find()
    assert found is not None
    assert (found.url, found.ca) == (secured.url, str(files.ca))


@contextlib.contextmanager
def beside(secured: Door, files: Certificates) -> Iterator[tuple[str, int]]:
    """A port of plain HTTP beside the gateway."""
    port = int(secured.url.rpartition(":")[2])
    with serve.bind("127.0.0.1", 0) as place:
        redirect = Redirect(place, names=files.certified(), port=port)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        asyncio.run_coroutine_threadsafe(redirect.start(), loop).result(30)
        try:
            yield place.getsockname()
        finally:
            asyncio.run_coroutine_threadsafe(redirect.close(), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
            loop.close()


@pytest.fixture
def redirected(secured: Door, files: Certificates) -> Iterator[tuple[str, int]]:
    with beside(secured, files) as found:
        yield found


def _ask(place: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(place, timeout=30) as sock:
        with contextlib.suppress(OSError):  # it may have answered and gone before all of it is said
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(1 << 16):
            answer += data
        return answer


def test_plain_http_is_sent_on(redirected: tuple[str, int], secured: Door, files: Certificates) -> None:
    port = secured.url.rpartition(":")[2]
    place = f"http://127.0.0.1:{redirected[1]}"
    with httpx2.Client(verify=ssl.create_default_context(cafile=files.ca)) as client:
        answer = client.get(f"{place}/live?a=b")
        assert (answer.status_code, answer.headers["location"]) == (308, f"https://127.0.0.1:{port}/live?a=b")
        assert client.get(f"{place}/live", follow_redirects=True).json() == {"status": "live"}
        assert client.post(f"{place}/v1/sessions", content=b"x").status_code == 308


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        EVIL,
        (b"GET //evil.example/a HTTP/1.1\r\nHost: localhost:80\r\n\r\n", b"https://localhost:"),
        (b"GET http://evil.example/a HTTP/1.1\r\nHost: localhost\r\n\r\n", b"https://localhost:"),
        (b"GET /a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b"https://[::1]:"),
        (b"GET /a HTTP/1.0\r\n\r\n", b"https://rios.lab.example:"),
    ],
)
def test_nobody_is_sent_elsewhere(redirected: tuple[str, int], request_: bytes, expected: bytes) -> None:
    answer = _ask(redirected, request_)
    assert answer.startswith(b"HTTP/1.1 308")
    (location,) = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"location: ")]
    assert location.split(b" ", 1)[1].startswith(expected)


@pytest.mark.parametrize("request_", [NONSENSE, b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000, b"GET /\r\n\r\n"])
def test_nonsense_is_no_reason_to_redirect(redirected: tuple[str, int], request_: bytes) -> None:
    with contextlib.suppress(ConnectionResetError):  # no answer is an answer
        assert b"308" not in _ask(redirected, request_)
    assert b" 308 " in _ask(redirected, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
