"""Sizes as people write them: "512MiB", "2GiB", or a number of bytes."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
_WRITTEN = re.compile(r"\s*(\d{1,18})(?:\.(\d{1,9}))?\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(value: Any) -> int:
    """The bytes that a person means: an int, or text such as "64MiB", "1.5 GiB" or "500 MB".

    Raises ValueError for anything else; a fraction of a byte is rounded down.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[3].upper() not in UNITS:
        raise ValueError(f'{value!r} is no size; write bytes, or a number and a unit such as "64MiB" or "2GiB"')
    unit = UNITS[match[3].upper()]
    fraction = match[2] or ""
    return int(match[1]) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def format_size(size_bytes: int) -> str:
    """`size_bytes` in the largest binary unit that writes it exactly: "64MiB". `parse_size` gives it back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = UNITS[unit.upper()]
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


Bytes = Annotated[int, BeforeValidator(parse_size)]
"""A number of bytes in a specification, written as `parse_size` reads it."""
