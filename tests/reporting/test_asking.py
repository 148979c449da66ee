"""The client of the gateway's benchmark reads answers as they are, whole or in pieces."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rios.reporting.asking import all_of, ask, request
from rios.reporting.bench_gateway import PATH, Gets, bare, opened
from rios.words.errors import GatewayLost, RiosError
from tests.waiting import until


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def heard(self) -> bool:
        """Whether the first piece was read; else it may come together with the others."""
        return True

    def do_GET(self) -> None:
        if self.path == "/busy":
            self.send_response(429)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/pieces":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nfirst\r\n")
            until(self.heard, "the first piece to be read", deadline_s=60)
            for piece in (b"4\r\nthen\r\n", b"0\r\n\r\n"):
                self.wfile.write(piece)
        else:
            self._say(
                {"path": self.path, "token": self.headers["authorization"], "for": self.headers["x-forwarded-for"]}
            )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._say({"body": body, "key": self.headers["idempotency-key"]})

    def _say(self, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_asked_and_answered(url: str) -> None:
    assert ask(url, "/x", "t") == {"path": "/x", "token": "Bearer t", "for": None}
    assert ask(url, "/x", body={"a": 1}, key="k") == {"body": {"a": 1}, "key": "k"}
    with pytest.raises(GatewayLost, match="429"):
        ask(url, "/busy")


def test_many_at_once_each_again_and_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {0: ["/busy", "/pieces"], 1: ["/one", "/two", "/three"]}

    def following(place: int) -> bytes | None:
        return request(url, wanted[place].pop(0), address=f"10.0.0.{place}") if wanted[place] else None

    with opened(url, 2) as ways:
        monkeypatch.setattr(_Handler, "heard", lambda _: ways[0]._first_at is not None)
        answers = all_of(ways, following)
    assert sorted(one.status for one in answers) == [200, 200, 200, 200, 429]
    (busy,) = (one for one in answers if one.status == 429)
    assert busy.retry_after_s == 7
    (pieces,) = (one for one in answers if b"first" in one.body)
    assert b"then" in pieces.body
    assert pieces.asked_at < pieces.first_at < pieces.ended_at
    assert {json.loads(one.body)["for"] for one in answers if b'"path"' in one.body} == {"10.0.0.1"}


def test_a_bare_route_answers_as_the_gateway_does() -> None:
    with bare() as at:
        assert ask(at, PATH) == {"data": [], "next": None}
        assert Gets(at, connections=2, count=10)() > 0
        wrong = Gets(at, count=1)
        wrong._request = request(at, "/nothing")
        with pytest.raises(RiosError, match="404"):
            wrong()
