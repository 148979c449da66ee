"""Calls of libraries that run a program for credentials and wait for it as long as it likes, given a deadline.

Such a program is a kubeconfig's (KEP-541, exec credential plugins), or a helper of registries (docker-credential-NAME).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TypeVar

import psutil

from rios.deploy.runtimes.watching import begun
from rios.words.errors import DeadlineExceeded

T = TypeVar("T")

_CHECKED_S = 0.2
_OF_KUBERNETES, _OF_REGISTRIES = "KUBERNETES_EXEC_INFO", "docker-credential-"


def within(
    call: Callable[[], T],
    timeout_s: float,
    *,
    late: str,
    also: int | None = None,
    check: Callable[[], None] | None = None,
) -> T:
    """What `call` returns or raises. DeadlineExceeded(late) where it does not within timeout_s.

    check: made several times a second meanwhile; what it raises is raised, and the call not waited for any more.

    Programs for credentials that hang are ended then, so that the thread which waits for one ends too: this process's,
    and those of the process `also`.
    """
    answer, deadline = begun(call, "rios-credentials"), time.monotonic() + timeout_s
    while True:
        left_s = max(deadline - time.monotonic(), 0.0)
        try:
            return answer.result(left_s if check is None else min(left_s, _CHECKED_S))
        except TimeoutError as error:
            if answer.done():  # its own, or it has just come
                return answer.result()
            if check is not None and left_s > _CHECKED_S:
                check()
                continue
            for asks in {os.getpid(), also or os.getpid()}:
                _end_hung(asks, timeout_s)
            raise DeadlineExceeded(late) from error


def _end_hung(asks: int, waited_s: float) -> None:
    """End the programs for credentials of a process that have run for as long as one is waited for."""
    before = time.time() - 0.9 * waited_s  # it was started a while after the wait began
    with contextlib.suppress(psutil.NoSuchProcess):
        for program in psutil.Process(asks).children():
            with contextlib.suppress(psutil.Error):
                if program.create_time() < before and _gives_credentials(program):
                    # What it started holds the pipe that is read to its end.
                    for process in (program, *program.children(recursive=True)):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()


def _gives_credentials(process: psutil.Process) -> bool:
    if any(PurePosixPath(word).name.startswith(_OF_REGISTRIES) for word in process.cmdline()[:2]):
        return True
    return _OF_KUBERNETES in process.environ()
