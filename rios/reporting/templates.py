"""Which notebooks reports are made from: whoever puts one into the folder has a report of that name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rios.reporting.run import PACKAGE_ROOT, parameters_of
from rios.words.errors import InvalidRequest

SHIPPED = Path(__file__).parent / "templates"
"""Where an installed rios has its own."""
DATA = "cost"
"""The data that a notebook gets which asks for none: `metadata.rios.data` names another."""
_SIZE_MAX = 1 << 20
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError)
"""What reading JSON or Python that somebody wrote raises, and looking for what is not there in it."""


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
        return [one.name for one in self.all()]

    def all(self) -> list[Template]:
        """All that can be read, by their names."""
        found = []
        for name, path in sorted(self._paths().items()):
            with suppress(InvalidRequest, OSError):  # who asks for it by its name is told why
                found.append(_read(name, path))
        return found

    def get(self, name: str) -> Template:
        """The notebook of this name. Raises InvalidRequest, also for one that is no report's, or cannot be read."""
        path = self._paths().get(name)
        if path is None:
            there = ", ".join(self.names()) or "none"
            raise InvalidRequest(
                f"there is no report {name!r}; there are {there}. A notebook in {self.folders[0]} becomes one"
            )
        return _read(name, path)

    def _paths(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in reversed(self.folders):
            found |= {path.stem: path for path in sorted(folder.glob("*.ipynb")) if not path.stem.startswith(".")}
        return found


def _read(name: str, path: Path) -> Template:
    source = path.read_bytes()
    if len(source) > _SIZE_MAX:
        raise InvalidRequest(f"{path} has {len(source)} bytes; a notebook without outputs has at most {_SIZE_MAX}")
    try:
        document = json.loads(source)
        parameters = parameters_of(path)
        data = str(document["metadata"].get("rios", {}).get("data", DATA))
        summary = _summary(document)
    except _BROKEN as error:
        why = f"{type(error).__name__}: {error}"
        raise InvalidRequest(f"the notebook of report {name!r} cannot be read, {why}; mend {path}") from error
    if "data" not in parameters:  # it would read nothing of what is given to it, and do something else
        raise InvalidRequest(f"{name!r} is no report: no cell of {path} tagged `parameters` assigns `data`")
    return Template(
        name=name,
        source=source,
        digest=hashlib.sha256(source).hexdigest(),
        parameters=parameters,
        data=data,
        summary=summary,
    )


def _summary(document: dict[str, object]) -> str:
    cells = document.get("cells")
    first = cells[0] if isinstance(cells, list) and cells else {}
    text = "".join(first.get("source", ())) if isinstance(first, dict) else ""
    body = " ".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return body.partition(". ")[0].strip(".")
