"""What the processes that stand beside a sandbox have in common: being told what to do, and setting its relay up."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rios.deploy.runtimes import kernel
from rios.deploy.runtimes.relay import Counters, Inside, Relay, inside_address

_TOLD_MAX = 8 << 20


class Wanted(NamedTuple):
    """What a relay shall do, as JSON between the two processes."""

    port: int | None
    egress: list[tuple[str, int]]
    private: list[str]
    names: dict[str, list[str]]
    ways: dict[str, str]
    """By name, the directory whose sockets it leads to."""
    outside_port: int | None
    """The loopback port that an earlier relay of the instance had."""

    @classmethod
    def of(cls, data: dict[str, Any]) -> Wanted:
        """What JSON said."""
        egress = [(str(host), int(port)) for host, port in data["egress"]]
        return cls(
            data["port"], egress, list(data["private"]), dict(data["names"]), dict(data["ways"]), data["outside_port"]
        )

    @property
    def needed(self) -> bool:
        """Whether there is anything to relay."""
        return self.port is not None or bool(self.egress)

    def listens(self) -> list[tuple[str, int]]:
        """Where to listen inside, one for each of `egress`."""
        names = list(dict.fromkeys(host for host, _ in self.egress))
        return [(inside_address(names.index(host)), port) for host, port in self.egress]


def told() -> dict[str, Any]:
    """What the starter wrote: one line of JSON on standard input. Ends this process where the starter is gone."""
    line = sys.stdin.buffer.readline(_TOLD_MAX)
    if not line.endswith(b"\n"):
        raise SystemExit(1)
    data: dict[str, Any] = json.loads(line)
    os.set_inheritable(int(data["life"]), False)
    return data


def say(word: str, **details: Any) -> None:
    """One line of JSON to the starter, which may be gone by now."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"said": word, **details}).encode() + b"\n")


def be_silent() -> None:
    """Let go of the starter's pipes."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)


def enter_namespaces(pid: int) -> None:
    """Move this process into the network namespace of another; its user namespace first, where that is needed."""
    with Path(f"/proc/{pid}/ns/net").open() as network:
        if os.getuid() != 0:
            kernel.setns(kernel.owner_of(network.fileno()), kernel.CLONE_NEWUSER)
        kernel.setns(network.fileno(), kernel.CLONE_NEWNET)


def set_up(wanted: Wanted, inside: Inside, selector: selectors.BaseSelector, counted: Path) -> int | None:
    """Begin to relay. The loopback port that leads to the application, or None where it serves nobody."""
    relay = Relay(selector, Counters(counted), private=wanted.private, names=wanted.names, ways=wanted.ways)
    for listener, (host, port) in zip(inside.listeners, wanted.egress, strict=True):
        relay.listen_inside(listener, host, port)
    if wanted.port is None:
        return None
    outside = _listening_outside(wanted.outside_port)
    relay.listen_outside(outside, inside, wanted.port)
    number: int = outside.getsockname()[1]
    return number


def _listening_outside(port: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port or 0))
    except OSError:  # somebody has it by now
        listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener
