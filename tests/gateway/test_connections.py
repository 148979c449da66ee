"""Connections: who asks for nothing, or for too many, keeps nobody out."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from rios.gateway.certs import init
from rios.gateway.connections import Connection, Together, bounded
from rios.gateway.settings import GatewaySettings
from tests.gateway.servers import UNLIMITED, Door, lean
from tests.waiting import until

_PER_ADDRESS = 12
_LARGE = 24 << 20
_STEP = 4 << 20
_REQUEST = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    settings = UNLIMITED.model_copy(update={"header_timeout_s": 0.5})
    with lean(tmp_path_factory.mktemp("hasty") / "home", settings) as found:
        yield found


def _open(door: Door) -> socket.socket:
    host, port = door.url.rpartition("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def _ended(connection: socket.socket) -> bytes:
    """What came until the gateway ended a connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def _answered(door: Door) -> bool:
    try:
        with closing(_open(door)) as connection:
            connection.sendall(_REQUEST)
            return b" 200 " in connection.recv(65536)
    except ConnectionError:  # it was refused, and is ended
        return False


@contextmanager
def _nobody_looks() -> Iterator[None]:
    """For as long as a client does what it has to do in time, which on a busy machine takes as long as it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "look", lambda *_: None)
        yield


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        _REQUEST + b"GET /",
        b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["nothing", "half a request", "a request and the beginning of another", "half a body that nobody reads"],
)
def test_who_does_not_ask_is_ended(hasty: Door, said: bytes) -> None:
    answered = said.startswith((_REQUEST, b"POST"))
    with closing(_open(hasty)) as connection:
        with _nobody_looks():
            connection.sendall(said)
            answers = connection.recv(65536) if answered else b""
        answers += _ended(connection)
        assert answers.count(b"HTTP/1.1 ") == answered


def test_who_dribbles_headers_is_ended(hasty: Door) -> None:
    with closing(_open(hasty)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")

        def refused() -> bool:
            try:
                connection.sendall(b"X: y\r\n")
            except ConnectionError:
                return True
            return False

        until(refused, "the end of the connection", deadline_s=30, pause_s=0.1)


def test_who_begins_no_tls_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.gateway.connections.HANDSHAKE_S", 0.3)
    with lean(tmp_path / "home", certificates=init(tmp_path / "home")) as door, closing(_open(door)) as connection:
        assert not _ended(connection)


def test_who_asks_now_and_then_stays() -> None:
    """However long an answer takes, and however many there are; what counts is the time without a question."""
    ended: list[bool] = []
    kind: Any = bounded(GatewaySettings(header_timeout_s=2.0))
    one = kind.__new__(kind)
    one._seen, one._waited_s, one._unsent, one.refused = None, 0.0, 0, False
    one.transport = SimpleNamespace(abort=lambda: ended.append(True), get_write_buffer_size=lambda: 0)
    for answered in (True, False, True):
        one.cycle = SimpleNamespace(response_complete=answered)
        one.look(1.5)
        one.look(1.5)
    one.cycle.response_complete = False
    for _ in range(10):
        one.look(1.5)
    assert not ended
    one.cycle.response_complete = True
    one.look(1.5)
    assert not ended
    one.look(1.5)
    assert ended


async def _large(_: Any, __: Any, send: Any) -> None:
    """An application whose answer fits into no buffer of the system."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(_LARGE)})


@pytest.mark.parametrize("stalls", [False, True], ids=["slow", "stalled"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_who_takes_a_large_answer_slowly_gets_all_of_it(tmp_path: Path, tls: bool, stalls: bool) -> None:
    """An answer that is over for uvicorn is still sent; only who takes nothing more of it is ended."""
    kind: Any = bounded(GatewaySettings(header_timeout_s=2.0))
    certificates = init(tmp_path) if tls else None

    async def case() -> None:
        state, config = ServerState(), Config(_large, http=kind, lifespan="off", log_config=None)
        ours = None if certificates is None else certificates.context()
        theirs = None if certificates is None else ssl.create_default_context(cafile=certificates.ca)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: kind(config, state, {}), "127.0.0.1", 0, ssl=ours)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=theirs)
            writer.write(_REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            (one,) = state.connections
            assert isinstance(one, kind)
            assert one.cycle.response_complete
            for _ in range(_LARGE // _STEP):
                one.look(1.5)
                one.timeout_keep_alive_handler()
                if not stalls:
                    await reader.readexactly(_STEP)
            if stalls:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await reader.readexactly(_LARGE)
            writer.transport.abort()

    asyncio.run(asyncio.wait_for(case(), 60))


def test_an_address_has_so_many(tmp_path: Path) -> None:
    settings = UNLIMITED.model_copy(update={"address_connections_max": _PER_ADDRESS})
    with lean(tmp_path / "home", settings) as narrow, ExitStack() as stack:
        first = [stack.enter_context(closing(_open(narrow))) for _ in range(_PER_ADDRESS)]
        for one in first:
            one.sendall(_REQUEST)
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
        refused = _ended(stack.enter_context(closing(_open(narrow))))
        assert refused.startswith(b"HTTP/1.1 429")
        assert b"urn:rios:error:TooManyRequests" in refused
        first[0].close()
        until(lambda: _answered(narrow), "a place, after one was closed", deadline_s=30)


def test_who_is_refused_can_read_why_whatever_it_sends(tmp_path: Path) -> None:
    """It is not waited for for long, and takes nobody's place."""
    settings = UNLIMITED.model_copy(update={"connections_max": 1})
    with lean(tmp_path / "home", settings) as door, ExitStack() as stack:
        first, second = stack.enter_context(closing(_open(door))), stack.enter_context(closing(_open(door)))
        with _nobody_looks():
            second.sendall(b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % _STEP + bytes(_STEP))
            assert _ended(second).startswith(b"HTTP/1.1 503")
        first.close()
        until(lambda: _answered(door), "a place, after one was closed", deadline_s=30)

        def ended() -> bool:
            try:
                second.sendall(b"x")
            except ConnectionError:
                return True
            return False

        until(ended, "the end of the connection", deadline_s=30, pause_s=0.1)


def test_all_together_are_bounded(tmp_path: Path) -> None:
    settings = UNLIMITED.model_copy(update={"connections_max": 2})
    with lean(tmp_path / "home", settings) as door, ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(closing(_open(door)))
            connection.sendall(_REQUEST)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert _ended(stack.enter_context(closing(_open(door)))).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize(("descriptors", "connections"), [(1024, 512), (200, 100), (65536, 4096), (-1, 4096)])
def test_file_descriptors_are_left_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, connections: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (descriptors, descriptors))
    assert bounded(GatewaySettings()).count_max == connections


def test_connections_of_a_proxy_are_its_own_to_bound(tmp_path: Path) -> None:
    """They come from one address."""
    settings = UNLIMITED.model_copy(update={"address_connections_max": 1, "proxies": "127.0.0.1"})
    with lean(tmp_path / "home", settings) as door, closing(_open(door)) as one, closing(_open(door)) as other:
        for connection in (one, other):
            connection.sendall(_REQUEST)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


class _Recorded:
    """A transport that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.said.append((name, *given))

    def get_write_buffer_size(self) -> int:
        return 7


def test_what_is_written_together_is_sent_together() -> None:
    """Head, body and end of an answer are one packet; nothing is sent late, twice, or after the end."""

    async def run() -> None:
        loop, below = asyncio.get_running_loop(), _Recorded()
        one: Any = Together(below, loop)  # type: ignore[arg-type]
        for part in (b"head", b"body", b""):
            one.write(part)
        assert (below.said, one.get_write_buffer_size()) == ([], 15)
        await asyncio.sleep(0)
        assert (below.said, one.get_write_buffer_size()) == ([("write", b"headbody")], 7)
        below.said.clear()
        one.write(b"first")
        one.write(b"x" * 70_000)
        assert below.said == [("write", b"first"), ("write", b"x" * 70_000)], "much does not wait"
        below.said.clear()
        one.write(b"last")
        assert one.below() is below
        one.write(b"eof")
        one.write_eof()
        one.write(b"end")
        one.close()
        await asyncio.sleep(0)
        assert below.said == [("write", b"last"), ("write", b"eof"), ("write_eof",), ("write", b"end"), ("close",)]
        below.said.clear()
        one.write(b"dropped")
        one.abort()
        await asyncio.sleep(0)
        assert below.said == [("abort",)]

    asyncio.run(run())


def test_an_answer_is_one_packet(hasty: Door) -> None:
    with closing(_open(hasty)) as connection, _nobody_looks():
        connection.sendall(_REQUEST)
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert body


async def _small(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"whole"})


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_who_says_no_more_gets_the_answer(tmp_path: Path, tls: bool) -> None:
    """The end of what its client says comes with the question; in TLS without a word of that."""
    kind: Any = bounded(GatewaySettings())
    certificates = init(tmp_path) if tls else None

    def ask(port: int) -> bytes:
        context = None if certificates is None else ssl.create_default_context(cafile=certificates.ca)
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as plain:
            spoken = plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")
            with closing(spoken), closing(socket.socket(fileno=os.dup(spoken.fileno()))) as below:
                spoken.sendall(_REQUEST)
                below.shutdown(socket.SHUT_WR)
                found = b""
                while b"whole" not in found and (part := spoken.recv(65536)):
                    found += part
                return found

    async def case() -> None:
        state, config = ServerState(), Config(_small, http=kind, lifespan="off", log_config=None)
        ours = None if certificates is None else certificates.context()
        server = await asyncio.get_running_loop().create_server(
            lambda: kind(config, state, {}), "127.0.0.1", 0, ssl=ours
        )
        async with server:
            for _ in range(20):
                assert b"whole" in await asyncio.to_thread(ask, server.sockets[0].getsockname()[1])

    asyncio.run(asyncio.wait_for(case(), 120))
