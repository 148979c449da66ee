"""Prices that could not be posted when they were due, because the ledger did not answer: kept until they are posted.

With a home directory each is a file there, so that it outlives the process. A file has the records alone: what they
cost follows from the terms pinned at their hold, and their ids make a repetition harmless.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios.billing.usage import UsageRecord
from rios.words.durable import sync_names
from rios.words.errors import InvalidRequest
from rios.words.reading import read_object, read_text

log = logging.getLogger(__name__)

_FIELDS = ("hold", "deployment", "records")


@dataclass(frozen=True, slots=True)
class Posting:
    """What one request used, to be posted against its hold. Without records the hold is only released."""

    hold_id: str
    deployment: str
    records: tuple[UsageRecord, ...]

    def to_json(self) -> str:
        """The posting as text."""
        records = [record.to_dict() for record in self.records]
        return json.dumps({"hold": self.hold_id, "deployment": self.deployment, "records": records})

    @classmethod
    def from_json(cls, text: str) -> Posting:
        """The posting that `to_json` wrote. Raises InvalidRequest for anything else."""
        try:
            raw: Any = json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"the late posting is no JSON: {error}") from error
        found: Mapping[str, Any] = read_object("the late posting", raw, _FIELDS)
        if not isinstance(found["records"], list):
            raise InvalidRequest("the late posting: records are no list")
        return cls(
            read_text("its hold", found["hold"]),
            read_text("its deployment", found["deployment"]),
            tuple(UsageRecord.from_dict(record) for record in found["records"]),
        )


class Late:
    """The postings that wait."""

    def __init__(self, directory: Path | None) -> None:
        """directory: where they are kept, made with the first of them; None for this process only."""
        self._directory = directory
        self._lock = threading.Lock()
        self._waiting: dict[str, Posting] = {}
        self.look()

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> list[Posting]:
        """All of them."""
        with self._lock:
            return list(self._waiting.values())

    def look(self) -> None:
        """Know of those that other processes have kept meanwhile, too."""
        with self._lock:
            for path in sorted(self._directory.glob("*.json")) if self._directory is not None else ():
                try:
                    posting = Posting.from_json(path.read_text())
                except FileNotFoundError:
                    continue  # posted meanwhile, by whoever kept it
                except (OSError, InvalidRequest) as error:
                    log.error("a late posting cannot be read", extra={"path": str(path), "reason": str(error)})
                else:
                    self._waiting[posting.hold_id] = posting

    def keep(self, posting: Posting) -> None:
        """Keep one until it is dropped; on the disk when this returns."""
        with self._lock:
            self._waiting[posting.hold_id] = posting
            if self._directory is not None:
                try:
                    self._write(self._directory, posting)
                except OSError as error:
                    # It is still in memory, and whoever runs this should know that it is nowhere else.
                    log.error("a late posting is not on disk", extra={"hold": posting.hold_id, "reason": str(error)})

    def drop(self, hold_id: str) -> None:
        """It is posted."""
        with self._lock:
            self._waiting.pop(hold_id, None)
            if self._directory is not None:
                self._path(self._directory, hold_id).unlink(missing_ok=True)

    def refuse(self, hold_id: str) -> None:
        """The ledger will never take it. Its file stays, as *.refused, for somebody to look at."""
        with self._lock:
            self._waiting.pop(hold_id, None)
            if self._directory is not None:
                path = self._path(self._directory, hold_id)
                if path.exists():
                    path.replace(path.with_suffix(".refused"))

    @staticmethod
    def _path(directory: Path, hold_id: str) -> Path:
        # A hold's id may be no name of a file.
        return directory / f"{hashlib.sha256(hold_id.encode()).hexdigest()[:40]}.json"

    def _write(self, directory: Path, posting: Posting) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(directory, posting.hold_id)
        draft = path.with_suffix(".draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(posting.to_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_names(directory)
