"""Long campaigns that resume: each finished case is kept as JSON until the sources change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def sources_digest(*extra: Path) -> str:
    """SHA-256 over all Python files of rios and the files `extra`: results of other code are not results of this."""
    digest = hashlib.sha256()
    for path in sorted({*(ROOT / "rios").rglob("*.py"), *extra}):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


class Campaign:
    """The kept cases of one long test."""

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        self._digest = digest
        kept = json.loads(path.read_text()) if path.exists() else {}
        self._cases: dict[str, Any] = kept["cases"] if kept.get("sources") == digest else {}

    def once(self, case: str, run: Callable[[], Any]) -> Any:
        """Return what `run` returned for `case`, now or in an earlier session over the same sources.

        The result is JSON: tuples come back as lists. A case that raises is not kept.
        """
        if case not in self._cases:
            self._cases[case] = json.loads(json.dumps(run()))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed into place, so that a killed session never leaves half a file.
            draft = self._path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps({"sources": self._digest, "cases": self._cases}, indent=1))
            draft.replace(self._path)
        return self._cases[case]
