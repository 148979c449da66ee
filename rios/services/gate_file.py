"""Where commands on the gateway's machine find it: a file in its home, for the home's owner alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "gateway.json"
"""URL of the gateway and the first admin's token."""


def read_file(home: Path, name: str = FILE) -> dict[str, str]:
    """URL and token that a file of a home names; nothing where there is none. No URL: the gateway has ended."""
    try:
        found = json.loads((home / name).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def write_file(home: Path, *, url: str, token: str, ca: str = "", name: str = FILE) -> None:
    """Keep URL and token in a file of a home, for its owner alone; and the file of who certified the gateway."""
    new = home / f"{name}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": url, "token": token, "ca": ca}, file)
    new.replace(home / name)
