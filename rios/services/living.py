"""Which processes of a home are alive, and what those that died had held for their requests.

A process is alive as long as it has the lock on a file of its own, which the kernel takes from whoever dies. Requests
carry its mark at their end, so what it held is found by their ids.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from rios.billing.ledger.holds import LIVE
from rios.storage.models import HoldRow

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

DIRECTORY = "running"
"""In a home."""
_MARK_BYTES = 8


class Living:
    """That this process is alive, for the others of its home. Close it; who does not has died."""

    def __init__(self, home: Path) -> None:
        self._directory = home / DIRECTORY
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mark = secrets.token_hex(_MARK_BYTES)
        self._path = self._directory / self._mark
        # Nobody may find it before it is locked, and take this process for dead.
        draft = self._directory / f".{self._mark}"
        self._file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        draft.rename(self._path)

    def __repr__(self) -> str:
        return f"<Living {self._mark}>"

    def request_id(self) -> str:
        """A new id of a request of this process."""
        return secrets.token_hex(_MARK_BYTES) + self._mark

    def bury(self, ledger: Ledger, post: Callable[[], None]) -> int:
        """Release what processes of this home that died had held; how many holds there were. Raises LedgerUnavailable.

        What a request had done before is lost with its process and not charged, unless it was posted or kept.

        post: posts what was kept; called for each process once it is known to be dead, and so to keep nothing more.
        """
        count = 0
        for path, file in self._dead():
            try:
                post()
                with ledger.database.reading() as connection:
                    marked = (HoldRow.request_id.endswith(path.name), HoldRow.state.in_([str(one) for one in LIVE]))
                    found = connection.scalars(select(HoldRow.id).where(*marked)).all()
                for hold_id in found:
                    ledger.release(hold_id)
                count += len(found)
                path.unlink(missing_ok=True)
            finally:
                os.close(file)
        if count:
            log.warning("%d holds of requests whose process died are released", count)
        return count

    def _dead(self) -> Iterator[tuple[Path, int]]:
        """The files of processes that died, each with its lock."""
        for path in sorted(self._directory.glob("[0-9a-f]*")):
            try:
                file = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue  # closed meanwhile, or buried by another
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                yield path, file

    def close(self, *, owing: bool) -> None:
        """End. owing: something is held that could not be posted, so whoever opens the home next sees to it."""
        if not owing:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
