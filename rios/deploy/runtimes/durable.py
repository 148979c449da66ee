"""Small JSON files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all, whichever process is killed meanwhile.

    Not synced to the disk: when the machine itself stops, what these files are about has stopped with it.
    """
    new = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    with open(new, "x", opener=_private) as file:
        json.dump(value, file)
    new.replace(path)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def read_json(path: Path) -> dict[str, Any] | None:
    """What was written; None where there is no such file, or one that a stop of the machine has left empty."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
