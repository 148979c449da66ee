"""The lines of the performance report: what was measured, what was wanted, and the file that keeps both.

A section can be measured alone, in a quiet hour of its own; `keep` puts its lines into the file of the day beside those
of the other sections, and a section that is measured again replaces its own.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rios.reporting.bench import Interval, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line. `target` is what was promised, `moonshot` what was dreamt of; None where nothing was."""

    section: str
    what: str
    found: Interval | None
    """None where it was not measured; `why` says the reason."""
    target: float | None = None
    moonshot: float | None = None
    at_least: bool = True
    """Whether more is better."""
    why: str = ""

    @property
    def state(self) -> str:
        """met, missed, open (the target lies inside the interval), not measured, or "" without a target."""
        if self.found is None:
            return "not measured"
        if self.target is None:
            return ""
        low, high = self.found.low, self.found.high
        if not self.at_least:
            low, high = -high, -low
        target = self.target if self.at_least else -self.target
        return "met" if low >= target else "missed" if high < target else "open"

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.what}: not measured: {self.why}"
        if self.target is None:
            return f"{self.what}: {self.found}"
        wanted = f"wanted at {'least' if self.at_least else 'most'} {self.target:g}"
        return f"{self.what}: {self.found}, {wanted}: {self.state}"

    def to_dict(self) -> dict[str, Any]:
        """The line as the file has it."""
        said = {"what": self.what, **(asdict(self.found) if self.found else {"why": self.why})}
        wanted = {name: getattr(self, name) for name in ("target", "moonshot", "at_least", "state")}
        return {**said, **wanted}


@dataclass(slots=True)
class Figures:
    """The lines of one run of the report, by sections."""

    machine: Machine = field(default_factory=Machine.here)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, figure: Figure) -> Figure:
        """Keep a line; returns it."""
        self._of(figure.section)["rows"].append(figure.to_dict())
        return figure

    def note(self, section: str, name: str, value: Any) -> None:
        """Keep something beside a section's lines: tokens per second, milliseconds."""
        self._of(section).setdefault("beside", {})[name] = value

    def done(self, section: str, *, pairs: int, seconds: float) -> None:
        """Say how long a section took, and with how many pairs."""
        self._of(section).update(pairs=pairs, seconds=round(seconds))

    def rows(self) -> list[dict[str, Any]]:
        """All lines, with their section."""
        return [{"section": name, **row} for name, said in self.sections.items() for row in said["rows"]]

    def keep(self, folder: Path) -> Path:
        """Write the sections into the folder's file of today, beside those that are there; returns its path.

        Where the file was measured on another kind of machine it begins anew.
        """
        path = folder / f"performance-{_today()}.json"
        machine, before = asdict(self.machine), {}
        if path.exists() and (kept := json.loads(path.read_text()))["machine"] == machine:
            before = kept["sections"]
        merged = {"date": _today(), "machine": machine, "sections": {**before, **self.sections}}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text(json.dumps(merged, indent=1) + "\n")
        temporary.replace(path)
        return path

    def _of(self, section: str) -> dict[str, Any]:
        load = [round(value, 1) for value in os.getloadavg()]
        return self.sections.setdefault(section, {"load_at_start": load, "rows": []})


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()
