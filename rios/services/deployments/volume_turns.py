"""Whose turn it is with a deployment's volumes on a host: those who start replicas make them, until it was deleted.

A start may be under way, or be asked for again by somebody whose answer was lost, while the deployment is deleted by
whoever leads by then. What it made after that would lie on the host for ever, for nobody knows of it. So a deployment
whose volumes were taken away is remembered for a day, over restarts, and makes none any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rios.deploy.runtimes.records import try_lock
from rios.words.errors import DeadlineExceeded, InvalidRequest

_WAIT_S, _LOOK_S = 60.0, 0.02
_REMEMBERED_S = 86_400.0
"""Nobody asks again for so long."""
_DELETED = b"deleted"


class VolumeTurns:
    """Those of one host and network, across processes."""

    def __init__(self, directory: Path) -> None:
        """directory: made when the first volume is."""
        self._directory = directory

    def __repr__(self) -> str:
        return f"<VolumeTurns {self._directory}>"

    @contextlib.contextmanager
    def making(self, app_id: str) -> Iterator[None]:
        """While volumes of a deployment are made. Raises InvalidRequest where it was deleted, and DeadlineExceeded."""
        with self._turn(app_id, fcntl.LOCK_SH) as fd:
            if os.pread(fd, len(_DELETED), 0) == _DELETED:
                raise InvalidRequest(f"the deployment {app_id} was deleted: no volume is made for it any more")
            yield

    @contextlib.contextmanager
    def ending(self, app_id: str) -> Iterator[None]:
        """While those of a deleted deployment are taken away: none is made then or later. Raises DeadlineExceeded."""
        with self._turn(app_id, fcntl.LOCK_EX) as fd:
            os.pwrite(fd, _DELETED, 0)
            yield
        self._sweep()

    def knows(self, app_id: str) -> bool:
        """Whether volumes of a deployment have been made here, or taken away not long ago."""
        return (self._directory / app_id).exists()

    @contextlib.contextmanager
    def _turn(self, app_id: str, how: int) -> Iterator[int]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + _WAIT_S
        fd = os.open(self._directory / app_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not try_lock(fd, how):
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"volumes of {app_id} are being made or taken away for {_WAIT_S:g} s")
                time.sleep(_LOOK_S)
            yield fd
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        before = time.time() - _REMEMBERED_S
        for path in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before and path.read_bytes() == _DELETED:
                    path.unlink()
