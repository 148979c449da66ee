"""The relay of an engine's container, as a process of its own: it makes the network namespace that the container joins.

Told to, it enters the namespace of a running container instead, whose relay has died. It ends when it is told to.
"""

from __future__ import annotations

import os
import selectors
import signal
from pathlib import Path

from rios.deploy.runtimes import kernel
from rios.deploy.runtimes.durable import write_json
from rios.deploy.runtimes.relay import Inside, run_ready
from rios.deploy.runtimes.relaying import Wanted, be_silent, enter_namespaces, say, set_up, told


def _make_namespace() -> None:
    kernel.unshare(kernel.CLONE_NEWNET)
    kernel.loopback_up()


def main() -> None:
    """Relay what its starter tells of until the instance has ended."""
    task = told()
    for signal_number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    directory = Path(task["directory"])
    wanted = Wanted.of(task["relay"])
    joined = task["join"]
    selector = selectors.DefaultSelector()
    try:
        enter = _make_namespace if joined is None else lambda: enter_namespaces(joined)
        inside = Inside(enter, wanted.listens(), close=[task["life"]])  # only this process holds the lock
        port = set_up(wanted, inside, selector, directory / "bytes")
    except OSError as error:
        say("failed", why=str(error))
        raise SystemExit(1) from error
    relay = {"watcher": os.getpid(), "inside": inside.pid, "port": port}
    write_json(directory / "relay.json", relay)
    say("started", **relay)
    be_silent()
    while True:
        run_ready(selector, None)
