"""Names of things that money touches, and the one spelling of an address."""

from __future__ import annotations

import re
from typing import NewType

from rios.words.canonical import digest
from rios.words.errors import InvalidRequest
from rios.words.keccak import keccak256

Address = NewType("Address", str)
"""An account on the chain: 0x and 40 hex digits, their case as EIP-55 has it."""
UserId = NewType("UserId", str)
RequestId = NewType("RequestId", str)
UsageId = NewType("UsageId", str)

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def check_address(value: object, *, name: str = "the address") -> Address:
    """`value` in the spelling of EIP-55. All digits of one case carry no checksum and are taken as they are.

    Raises InvalidRequest where it is no address, or where the case of its digits shows a typing error.
    """
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise InvalidRequest(f"{name} {value!r} is no address: it needs 0x and 40 hex digits")
    digits = value[2:]
    low = digits.lower()
    # EIP-55: a letter is upper case where the same digit of the hash of the lower-case address is 8 or more.
    marks = keccak256(low.encode()).hex()
    spelt = "".join(c.upper() if mark >= "8" else c for c, mark in zip(low, marks, strict=False))
    if digits not in (spelt, low, low.upper()):
        raise InvalidRequest(f"{name} {value} has a wrong checksum (EIP-55): a digit is mistyped; copy it again")
    return Address(f"0x{spelt}")


def derived_id(kind: str, *parts: str | int) -> str:
    """An id that is a pure function of `parts`: the same thing named twice has one id, on any machine."""
    return f"{kind}-{digest([kind, *parts])[:32]}"
