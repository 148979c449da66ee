"""One text for one value, so that a digest of it means the same to everybody.

JSON with sorted ASCII keys, no blanks, UTF-8, and no number but integers: RFC 8785 for such documents. Whole numbers
that may pass 2^53 travel as decimal strings, because many readers of JSON hold numbers as floats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

EXACT_MAX = 2**53
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

_HEX = frozenset("0123456789abcdef")


def canonical(value: Any) -> bytes:
    """The canonical JSON of `value`: text, ints, bools, None, lists and mappings; TypeError at anything else."""
    if not _is_plain(value):
        _check(value, "value")
        value = _plain(value)
    return _encode(value).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether `value` is nothing but what it may be, in Python's own types: nearly always, and quickly seen."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-EXACT_MAX <= value <= EXACT_MAX)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii() or not (type(item) is str or _is_plain(item)):
                return False
        return True
    return (kind is list or kind is tuple) and all(_is_plain(item) for item in value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _check(value: Any, place: str) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if abs(value) > EXACT_MAX:
            raise TypeError(f"{place} is {value}: above 2^53 a number travels as text")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise TypeError(f"{place} has the key {key!r}: keys are ASCII text")
            _check(item, f"{place}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]")
    else:
        raise TypeError(f"{place} is of type {type(value).__name__}, which has no canonical text")


def is_sha256(text: str) -> bool:
    """Whether it is one, in hexadecimal of lower case: it may become the name of a file."""
    return len(text) == 64 and _HEX.issuperset(text)
