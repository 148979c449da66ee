"""Which notebooks reports are made from: whoever puts one into the folder has a report of that name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rios.reporting.run import PACKAGE_ROOT, parameters_of
from rios.words.errors import InvalidRequest

SHIPPED = Path(__file__).parent / "templates"
"""Where an installed rios has its own."""
DATA = "cost"
"""The data that a notebook gets which asks for none: `metadata.rios.data` names another."""
_SIZE_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A notebook that reports are made from."""

    name: str
    source: bytes
    digest: str
    """SHA-256 of the source."""
    parameters: tuple[str, ...]
    """What its `parameters` cell assigns."""
    data: str
    """Which data it wants: the name of a kind of report."""
    summary: str
    """Its first sentence."""


class Templates:
    """The notebooks in some folders; of two of one name, the one of the earlier folder."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    @classmethod
    def of(cls, home: Path | None, *, beside: Path | None = None) -> Templates:
        """Those of the home, of the directory `beside`, of this checkout, and those that came with rios."""
        found = [None if home is None else home / "reports", beside, PACKAGE_ROOT / "reports", SHIPPED]
        return cls([path for path in found if path is not None])

    def names(self) -> list[str]:
        """The names of all that can be read."""
        return sorted(name for name, path in self._paths().items() if _reads(path))

    def get(self, name: str) -> Template:
        """The notebook of this name. Raises InvalidRequest."""
        path = self._paths().get(name)
        if path is None:
            there = ", ".join(self.names()) or "none"
            raise InvalidRequest(
                f"there is no report {name!r}; there are {there}. A notebook in {self.folders[0]} becomes one"
            )
        source = path.read_bytes()
        if len(source) > _SIZE_MAX:
            raise InvalidRequest(f"{path} has {len(source)} bytes; a notebook without outputs has at most {_SIZE_MAX}")
        document = json.loads(source)
        return Template(
            name=name,
            source=source,
            digest=hashlib.sha256(source).hexdigest(),
            parameters=parameters_of(path),
            data=str(document.get("metadata", {}).get("rios", {}).get("data", DATA)),
            summary=_summary(document),
        )

    def _paths(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in reversed(self.folders):
            found |= {path.stem: path for path in sorted(folder.glob("*.ipynb")) if not path.stem.startswith(".")}
        return found


def _reads(path: Path) -> bool:
    """Whether it is a notebook for reports: it reads its data from a file that its parameters name."""
    try:
        return "data" in parameters_of(path)
    except (OSError, ValueError, KeyError, SyntaxError):
        return False


def _summary(document: dict[str, object]) -> str:
    cells = document.get("cells")
    first = cells[0] if isinstance(cells, list) and cells else {}
    text = "".join(first.get("source", ())) if isinstance(first, dict) else ""
    body = " ".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return body.partition(". ")[0].strip(".")
