"""Where commands on the gateway's machine find it: a file in its home, for the home's owner alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "gateway.json"
"""URL of the gateway and the first admin's token."""


def read_file(home: Path) -> dict[str, str]:
    """URL and token of the gateway of a home; nothing where it never had one."""
    try:
        found = json.loads((home / FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_file(home: Path, *, url: str, token: str) -> None:
    """Keep URL and token of the gateway of a home, for its owner alone."""
    new = home / f"{FILE}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": url, "token": token}, file)
    new.replace(home / FILE)
