"""What runtimes share: the operator's rules for egress, what a command needs, and waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rios.deploy.runtimes.protocol import Allowed, Status
from rios.words.errors import DeadlineExceeded, InvalidRequest

T = TypeVar("T")

_EVERY_S, _AT_FIRST_S = 0.05, 0.005


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator of a host allows beyond the rules of egress; a specification cannot."""

    private: tuple[str, ...] = ()
    """Networks, such as 10.20.0.0/16, that allowed hosts may lie in although they are not public."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of hosts that no name server knows, as /etc/hosts has them."""
    ways: Mapping[str, Path] = field(default_factory=dict)
    """Names that lead to the sockets in a directory (`doors`), whatever the port; no name of a network is like them."""

    def relay(self, port: int | None, egress: Iterable[Allowed], outside_port: int | None = None) -> dict[str, Any]:
        """What `relaying.Wanted` reads."""
        return {
            "port": port,
            "egress": [[allowed.host, allowed.port] for allowed in egress],
            "private": list(self.private),
            "names": {name: list(addresses) for name, addresses in self.names.items()},
            "ways": {name: str(directory) for name, directory in self.ways.items()},
            "outside_port": outside_port,
        }


def must_run(status: Status) -> None:
    """Raises InvalidRequest where no command can be run in an instance."""
    if status.state != "running":
        raise InvalidRequest(f"the instance {status.instance} is {status.state}: commands run in what runs")


def begun(call: Callable[[], T], name: str) -> Future[T]:
    """A call that may never return, made by a thread of that name: what it returns or raises, for who waits so long."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever waits
            answer.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer


class _HasStatus(Protocol):
    def status(self, instance: str) -> Status: ...


def until_exited(runtime: _HasStatus, instance: str, timeout_s: float, *, every_s: float = _EVERY_S) -> Status:
    """The status of an instance once it has exited. DeadlineExceeded by then. every_s: it is asked for, in the end."""
    deadline, pause_s = time.monotonic() + timeout_s, _AT_FIRST_S
    while (status := runtime.status(instance)).state != "exited":
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the instance {instance} is {status.state} still after {timeout_s:g} s")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, every_s)
    return status
