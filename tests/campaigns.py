"""Long campaigns that resume: each finished case is kept as JSON until the sources change.

`python -m tests.campaigns` prints what the kept ones came to, as rows for docs/campaigns.md.
"""

from __future__ import annotations

import datetime as dt
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
        self.cases: dict[str, Any] = kept["cases"] if kept.get("sources") == digest else {}
        self._figures: dict[str, Any] = kept.get("figures", {}) if self.cases else {}

    def once(self, case: str, run: Callable[[], Any]) -> Any:
        """Return what `run` returned for `case`, now or in an earlier session over the same sources.

        The result is JSON: tuples come back as lists. A case that raises is not kept.
        """
        if case not in self.cases:
            self.cases[case] = json.loads(json.dumps(run()))
            self._keep()
        return self.cases[case]

    def conclude(self, **figures: Any) -> None:
        """Keep what the cases so far come to, with the day and how busy the machine was: a row to commit."""
        day, load = dt.datetime.now(tz=dt.UTC).date().isoformat(), round(os.getloadavg()[1], 1)
        self._figures = {"day": day, "load": load, **figures}
        self._keep()

    def _keep(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that a killed session never leaves half a file.
        draft = self._path.with_suffix(f".{os.getpid()}")
        kept = {"sources": self._digest, "figures": self._figures, "cases": self.cases}
        draft.write_text(json.dumps(kept, indent=1))
        draft.replace(self._path)


def rows(folder: Path) -> list[str]:
    """A row of Markdown for each kept campaign that has come to something: day, name, load, sources, figures."""
    found = []
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text())
        figures = dict(kept.get("figures") or {})
        if figures:
            day, load = figures.pop("day"), figures.pop("load")
            said = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
            found.append(f"| {day} | `{path.stem}` | {load} | `{kept['sources'][:12]}` | {said} |")
    return found


if __name__ == "__main__":
    print("\n".join(rows(ROOT / ".make" / "long")))
