"""What a notebook says while it is executed: which cell it is at, under which heading, and the lines it printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Say = Callable[[str], None]


def hooks(say: Say) -> dict[str, Callable[..., None]]:
    """For nbclient, which calls them by name as it executes: https://nbclient.readthedocs.io (hooks)."""
    told = _Told(say)
    return {"on_cell_start": told.start, "on_cell_execute": told.execute, "on_cell_executed": told.executed}


class _Told:
    def __init__(self, say: Say) -> None:
        self._say = say
        self._count = 0
        self._heading = ""

    def start(self, cell: Any, **_: Any) -> None:
        """Any cell: one of prose may begin a part of the report."""
        if cell.cell_type == "markdown":
            self._heading = next(_headings(cell.source), self._heading)

    def execute(self, **_: Any) -> None:
        """A cell of code begins."""
        self._count += 1
        self._say(f"cell {self._count}" + (f": {self._heading}" if self._heading else ""))

    def executed(self, cell: Any, **_: Any) -> None:
        """It has ended."""
        for output in cell.outputs:
            if output.output_type == "stream":
                for line in output.text.splitlines():
                    self._say(line)


def _headings(source: str) -> Iterator[str]:
    for line in source.splitlines():
        if line.startswith("#"):
            yield line.lstrip("#").strip()
