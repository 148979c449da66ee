"""The relay that leads connections into a sandbox and out of it."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from rios.deploy.runtimes.relay import Counters, Inside, Relay, run_ready
from tests.waiting import until

WAIT_S = 60.0


def test_who_waits_for_a_busy_application_holds_up_nobody(tmp_path: Path) -> None:
    """An application whose queue is full takes nobody for a while; each of those who knock is let in when it does."""
    made: list[socket.socket] = []

    class Here:
        """This machine's own network, as that of a sandbox."""

        def socket(self) -> socket.socket:
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            return made[-1]

    stop = threading.Event()
    with ExitStack() as stack:
        application = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        before = stack.enter_context(socket.create_connection(application.getsockname(), WAIT_S))
        selector = stack.enter_context(selectors.DefaultSelector())
        relay = Relay(selector, Counters(tmp_path / "counted"))
        for one in (relay._wake, relay._waker):
            stack.enter_context(one)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        relay.listen_outside(listener, cast(Inside, Here()), application.getsockname()[1])

        def turn() -> None:
            while not stop.is_set():
                run_ready(selector, 0.05)

        thread = threading.Thread(target=turn)
        thread.start()
        stack.callback(thread.join, WAIT_S)
        stack.callback(stop.set)
        knocking = [stack.enter_context(socket.create_connection(listener.getsockname(), WAIT_S)) for _ in range(2)]
        until(lambda: len(made) == 2, "both knock", deadline_s=WAIT_S)
        for one in knocking:
            one.sendall(b"it is me")
        application.settimeout(WAIT_S)
        heard = []
        for _ in range(3):
            inside = stack.enter_context(application.accept()[0])
            if inside.getpeername() != before.getsockname():
                inside.settimeout(WAIT_S)
                heard.append(inside.recv(100))
            inside.close()
        assert heard == [b"it is me"] * 2
        for one in knocking:
            one.close()
        until(lambda: not relay._flows, "the end of both", deadline_s=WAIT_S)
