"""Reading documents that others wrote: each reader names the place of what is wrong, with InvalidRequest."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rios.words.errors import InvalidRequest

# As many digits as 2^256 has: nothing that is read is larger, and int() of endless text takes endless time.
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_SHOWN_MAX = 80


def read_object(place: str, raw: Any, fields: Collection[str], *, more: bool = False) -> Mapping[str, Any]:
    """A mapping with exactly these fields; with `more`, at least these."""
    found = read_mapping(place, raw)
    missing, unknown = sorted(set(fields) - found.keys()), sorted(found.keys() - set(fields))
    if missing:
        raise InvalidRequest(f"{place}: {missing[0]!r} is missing")
    if unknown and not more:
        raise InvalidRequest(f"{place}: {unknown[0]!r} is unknown")
    return found


def read_mapping(place: str, raw: Any) -> Mapping[str, Any]:
    """A mapping with text as keys."""
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) for key in raw):
        raise _wrong(place, raw, "a JSON object")
    return raw


def read_list(place: str, raw: Any) -> list[tuple[str, Any]]:
    """The items of a list, each with its place."""
    if not isinstance(raw, list):
        raise _wrong(place, raw, "a list")
    return [(f"{place}[{number}]", item) for number, item in enumerate(raw)]


def read_text(place: str, raw: Any) -> str:
    """Text."""
    if not isinstance(raw, str):
        raise _wrong(place, raw, "text")
    return raw


def read_count(place: str, raw: Any) -> int:
    """An int of at least 0 that is no bool."""
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 0:
        raise _wrong(place, raw, "a whole number of at least 0")
    return raw


def read_decimal(place: str, raw: Any) -> int:
    """The whole number that decimal text stands for; each has one text."""
    if not isinstance(raw, str) or not _DECIMAL.fullmatch(raw):
        raise _wrong(place, raw, "decimal text without a sign or leading zeros")
    return int(raw)


def read_bytes32(place: str, raw: Any) -> bytes:
    """32 bytes from hex in lower case."""
    if not isinstance(raw, str) or not _HEX32.fullmatch(raw):
        raise _wrong(place, raw, "64 hex digits in lower case")
    return bytes.fromhex(raw)


def _wrong(place: str, raw: Any, what: str) -> InvalidRequest:
    huge = isinstance(raw, int) and raw.bit_length() > 1024
    shown = "a very large number" if huge else repr(raw)
    return InvalidRequest(
        f"{place} is {shown if len(shown) <= _SHOWN_MAX else shown[:_SHOWN_MAX] + '...'}; it must be {what}"
    )
