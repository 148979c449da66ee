"""What a webhook may not reach, however its address is written, and whatever its name says a moment later."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from rios.services import outbound
from rios.services.outbound import NotDelivered, check_url, networks, post, resolve
from rios.words.errors import InvalidRequest

FORBIDDEN = [
    "https://127.0.0.1/", "https://127.1.2.3/", "https://[::1]/", "https://10.0.0.1/", "https://172.16.0.1/",
    "https://192.168.1.1/", "https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/",
    "https://100.100.100.200/", "https://0.0.0.0/", "https://[::]/", "https://224.0.0.1/", "https://[ff02::1]/",
    "https://255.255.255.255/", "https://[fe80::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:10.0.0.1]/",
    "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[2002:a9fe:a9fe::]/", "https://192.0.2.1/",
    "https://198.18.0.1/", "https://[2001:db8::1]/", "https://168.63.129.16/", "https://192.0.0.192/",
    "https://[64:ff9b::a83f:8110]/", "https://[2002:a83f:8110::]/", "https://[fec0::1]/", "https://[3fff::1]/",
]  # fmt: skip
MALFORMED = [
    "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "https:///x", "", "x",
    "https://user:password@example.com/", "https://user@example.com/", "https://example.com:0/",
    "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\r\nX-Evil: yes", "https://[::1/",
    "https://example.com/" + "a" * 2000, "https://ex\u00e4mple.com/", "javascript:alert(1)",
]  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN)
def test_addresses_that_are_not_public_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="not public"):
        check_url(url, allowed=())


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_such_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url, allowed=())


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
def test_names_and_spellings_of_this_machine_are_refused(host: str) -> None:
    assert check_url(f"https://{host}/", allowed=()).hostname == host, "it is found out when it is resolved"
    with pytest.raises(InvalidRequest, match="not public"):
        resolve(host, 443, allowed=())
    with pytest.raises(InvalidRequest, match="not public"):
        post(f"https://{host}/", b"{}", {}, allowed=())


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InvalidRequest, match="not public"):
        resolve("two.example", 443, allowed=())


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: the address that was checked is the one that is connected to, whatever the name says afterwards."""
    asked: list[str] = []

    def lookup(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    reached: list[Any] = []

    def connect(address: Any, timeout: float) -> Any:
        reached.append(address)
        raise ConnectionRefusedError("a test goes nowhere")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(NotDelivered):
        post("https://rebound.example/", b"{}", {}, allowed=())
    assert asked == ["rebound.example"]
    assert reached == [("93.184.216.34", 443)]


class Dribbling:
    """Accepts one connection and sends `head`, then a byte now and then, until it is cut or a minute is over."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.was_cut = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.sendall(self._head)
            for _ in range(1200):
                try:
                    connection.sendall(b"a")
                except OSError:
                    self.was_cut = True
                    return
                time.sleep(0.05)

    def close(self) -> None:
        self._thread.join(90)
        self._server.close()


@pytest.mark.parametrize(
    ("scheme", "head"),
    [("http", b"HTTP/1.1 200 OK\r\nX-Long: "), ("https", b"\x16\x03\x03\x40\x00")],
    ids=["an answer", "a handshake"],
)
def test_who_dribbles_bytes_is_cut_off(scheme: str, head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TIMEOUT_S", 0.4)
    with closing(Dribbling(head)) as reader, pytest.raises(NotDelivered):
        post(f"{scheme}://127.0.0.1:{reader.port}/", b"{}", {}, allowed=networks("127.0.0.0/8"))
    assert reader.was_cut


def test_an_operator_may_allow_a_network() -> None:
    allowed = networks("10.1.0.0/16, fd00::/8")
    assert check_url("http://10.1.2.3/", allowed=allowed)
    assert check_url("https://[fd00::1]/", allowed=allowed)
    for url in ("http://10.2.0.1/", "https://[::ffff:10.2.0.1]/"):
        with pytest.raises(InvalidRequest):
            check_url(url, allowed=allowed)
    assert list(networks("")) == []
    with pytest.raises(InvalidRequest):
        networks("10.0.0.1/8")
