"""Owners share threads, and a replica that answers byte by byte holds one for a while: nobody else waits for it."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rios.deploy.spec import GRACE_MAX_S, PROBE_MAX_S, App
from rios.services.deployments.gauges import Gauges, metric_of
from rios.services.deployments.health import Prober, ask
from rios.services.deployments.metering import RESERVE_S
from rios.services.deployments.shares import Shares
from tests.waiting import until

WAIT_S = 30.0


def test_an_owner_has_no_more_than_a_share() -> None:
    pool, free, done = Shares(8, 2, name="test"), threading.Event(), list[str]()
    try:
        assert [pool.begin("slow", lambda: free.wait(WAIT_S) and None) for _ in range(3)] == [True, True, False]  # type: ignore[func-returns-value]
        assert pool.begin("other", lambda: done.append("other"))
        until(lambda: done == ["other"], "the other one does not wait", deadline_s=WAIT_S)
        free.set()
        until(lambda: pool.begin("slow", lambda: done.append("slow")), "what ends makes room", deadline_s=WAIT_S)
        until(lambda: done == ["other", "slow"], deadline_s=WAIT_S)
    finally:
        free.set()
        pool.close(wait=True)
    assert not pool.begin("late", lambda: done.append("late"))


@contextlib.contextmanager
def dripping(first: bytes, ended: threading.Event) -> Iterator[str]:
    """A server that answers with so much, and then with a byte now and then: its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WAIT_S)

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(first)
            while not ended.wait(0.05):
                connection.sendall(b"x")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def probe(**fields: Any) -> dict[str, Any]:
    health = {"http": "/", "interval": 0.1, "timeout": 0.3, **fields}
    app = App.model_validate({"name": "x", "command": ["x"], "port": 1, "health": health})
    found: dict[str, Any] = app.stored()["health"]
    return found


def no_command(*_: object) -> int:
    raise AssertionError("nothing is run")


def _within(call: Callable[[], Any], seconds: float) -> Any:
    begun = time.monotonic()
    try:
        return call()
    finally:
        assert time.monotonic() - begun < seconds


def test_a_probe_has_a_deadline_for_all_of_it() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\nX-Long: ", threading.Event()) as address:
        assert "timed out" in _within(lambda: ask(address, probe(), no_command), WAIT_S / 2)
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", threading.Event()) as address:
        assert ask(address, probe(), no_command) == "", "the status is all that is asked for"
        with pytest.raises(TimeoutError):
            _within(metric_of(address, "/metrics"), WAIT_S / 2)
    with dripping(b"no HTTP\r\n", threading.Event()) as address:
        assert ask(address, probe(), no_command)
    for wrong in ({"timeout": PROBE_MAX_S + 1}, {"live": {"http": "/", "timeout": 86_400}}):
        with pytest.raises(ValueError, match="less than or equal to 10"):
            probe(**wrong)


class Good(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


def test_replicas_that_do_not_answer_delay_no_other_owners() -> None:
    prober, gauges = Prober(), Gauges()
    asked, free = threading.Event(), threading.Event()

    def hang(*_: object) -> Any:
        free.wait(10 * WAIT_S)
        raise TimeoutError

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Good)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        for number in range(100):
            slow = probe(http=None, command=["hangs"])
            prober.watch(f"slow-{number}", "", slow, hang, owner="slow", ready=False)
            gauges.watch(f"slow-{number}", hang, owner="slow")
        good = f"127.0.0.1:{server.server_address[1]}"
        prober.watch("good", good, probe(timeout=10), no_command, owner="good", ready=False)
        gauges.watch("good", lambda: asked.set() or hang(), owner="good")  # type: ignore[func-returns-value]
        until(lambda: prober.verdict("good").ready, "an answer of the other owner's", deadline_s=WAIT_S)
        until(asked.is_set, "a question for its metric, while none of the slow ones is given up", deadline_s=WAIT_S)
    finally:
        free.set()
        prober.close()
        gauges.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_ends_is_held_for_as_long_as_it_may_take() -> None:
    assert GRACE_MAX_S <= RESERVE_S
    with pytest.raises(ValueError, match="less than or equal to 60"):
        App.model_validate({"name": "x", "command": ["x"], "grace": GRACE_MAX_S + 1})
