"""Pausing and measuring the processes of a sandbox one by one, where no control group can be made."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable

import psutil

from rios.deploy.runtimes.protocol import Metrics
from rios.words.errors import DeadlineExceeded

_WITHIN_S = 15.0


def metrics(processes: Iterable[psutil.Process], sent_bytes: int, received_bytes: int) -> Metrics:
    """What living processes used so far; what ended ones used is not known."""
    seconds = resident = count = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
            resident += process.memory_info().rss
            count += 1
    return Metrics(
        at=time.time(),
        cpu_seconds=seconds,
        memory_bytes=int(resident),
        memory_peak_bytes=int(resident),
        pids=int(count),
        egress_bytes=sent_bytes,
        ingress_bytes=received_bytes,
    )


def frozen(first: int) -> bool:
    """Whether all children of a sandbox's first process are stopped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        processes = psutil.Process(first).children()
        return bool(processes) and all(process.status() == psutil.STATUS_STOPPED for process in processes)
    return False


def freeze(
    processes: Callable[[], Iterable[psutil.Process]], frozen: bool, *, done: Callable[[], bool], name: str
) -> None:
    """Stop processes, or let them go on, until `done` says that they do: a signal takes its time. DeadlineExceeded."""
    deadline = time.monotonic() + _WITHIN_S
    while not done():
        for process in processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{name} is not {'paused' if frozen else 'running'} after {_WITHIN_S:g} s")
        time.sleep(0.01)
