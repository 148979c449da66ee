"""Report notebooks for tests, without charts: they execute in a few seconds."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SMALL = ("from rios.reporting import page", "report = page.read_data(data)", "page.note(report['totals']['net_wei'])")


def write(folder: Path, name: str, *sources: str) -> None:
    """A template of this name whose cells are `sources`."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        new_markdown_cell(f"# {name}\n\nA small report."),
        new_code_cell('data = "data.json"\nwanted = 1', metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    (folder / f"{name}.ipynb").write_text(nbformat.writes(new_notebook(cells=cells)))
