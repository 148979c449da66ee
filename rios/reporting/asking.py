"""A client of HTTP that costs next to nothing: what it measures is the server."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rios.words.errors import DeadlineExceeded, GatewayLost

_END, _LAST_CHUNK = b"\r\n\r\n", b"0\r\n\r\n"
_ANSWER_S = 120.0
_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What came to one request. Moments are of `time.perf_counter`."""

    status: int
    body: bytes
    asked_at: float
    first_at: float
    """When the first byte of the body came."""
    ended_at: float
    retry_after_s: float = 0.0


@dataclass(slots=True)
class Way:
    """One connection that is kept open."""

    url: str
    socket: socket.socket = field(init=False)
    _got: bytearray = field(init=False, default_factory=bytearray)
    _asked_at: float = field(init=False, default=0.0)
    _first_at: float | None = field(init=False, default=None)
    _begins: int = field(init=False, default=0)
    """Where the body begins; 0 until the head has come."""
    _status: int = field(init=False, default=0)
    _fields: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        place = (parts.hostname or "", parts.port or 80)
        self.socket = socket.create_connection(place, timeout=_ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> None:
        """Send a request; `read` until it answers something."""
        self._got.clear()
        self._first_at, self._begins = None, 0
        self._asked_at = time.perf_counter()
        self.socket.sendall(request)

    def read(self) -> Answer | None:
        """Take what has come; the answer once it is whole. Raises GatewayLost."""
        part = self.socket.recv(_READ)
        if not part:
            raise GatewayLost(f"{self.url} closed a connection that was to be kept")
        self._got += part
        if not self._begins:
            end = self._got.find(_END)
            if end < 0:
                return None
            self._begins = end + len(_END)
            lines = self._got[:end].decode("latin-1").split("\r\n")
            self._status = int(lines[0].split()[1])
            pairs = (line.partition(":") for line in lines[1:])
            self._fields = {name.lower(): value.strip() for name, _, value in pairs}
        now = time.perf_counter()
        length = len(self._got) - self._begins
        if length and self._first_at is None:
            self._first_at = now
        chunked = self._fields.get("transfer-encoding") == "chunked"
        if not (self._got.endswith(_LAST_CHUNK) if chunked else length >= int(self._fields.get("content-length", 0))):
            return None
        body, wait_s = bytes(self._got[self._begins :]), float(self._fields.get("retry-after", 0))
        return Answer(self._status, body, self._asked_at, self._first_at or now, now, wait_s)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def request(url: str, path: str, token: str = "", body: Any = None, *, method: str = "", address: str = "") -> bytes:
    """A request as it is sent. address: whom it is said to be forwarded for, "" for nobody."""
    content = b"" if body is None else json.dumps(body).encode()
    head = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    head += [f"Authorization: Bearer {token}"] if token else []
    head += [f"X-Forwarded-For: {address}"] if address else []
    head += ["Content-Type: application/json", f"Content-Length: {len(content)}"] if body is not None else []
    return "\r\n".join(head).encode() + _END + content


def all_of(ways: Sequence[Way], requests: Callable[[int], bytes | None]) -> list[Answer]:
    """Ask on all connections, each anew as soon as it was answered; all answers, in the order in which they came.

    requests: what a connection asks next, by its number; None when it has asked enough. Raises DeadlineExceeded.
    """
    answers: list[Answer] = []
    with selectors.DefaultSelector() as selector:
        for place, way in enumerate(ways):
            wanted = requests(place)
            if wanted is not None:
                way.ask(wanted)
                selector.register(way.socket, selectors.EVENT_READ, (place, way))
        while selector.get_map():
            ready = selector.select(_ANSWER_S)
            if not ready:
                raise DeadlineExceeded(f"nothing came within {_ANSWER_S:g} s")
            for key, _ in ready:
                place, way = key.data
                answer = way.read()
                if answer is None:
                    continue
                answers.append(answer)
                wanted = requests(place)
                if wanted is None:
                    selector.unregister(way.socket)
                else:
                    way.ask(wanted)
    return answers


def ask(url: str, path: str, token: str = "", body: Any = None, *, method: str = "", key: str = "") -> Any:
    """What a gateway answers to one request, as JSON. Raises GatewayLost for a refusal."""
    way = Way(url)
    try:
        wanted = request(url, path, token, body, method=method)
        if key:
            wanted = wanted.replace(_END, f"\r\nIdempotency-Key: {key}".encode() + _END, 1)
        (answer,) = all_of([way], _once(wanted))
    finally:
        way.close()
    if not 200 <= answer.status < 300:
        raise GatewayLost(f"{url}{path} answers {answer.status}: {answer.body[:500].decode(errors='replace')}")
    return json.loads(answer.body) if answer.body else None


def _once(wanted: bytes) -> Callable[[int], bytes | None]:
    left = [wanted]
    return lambda _: left.pop() if left else None
