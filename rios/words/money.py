"""Money: whole numbers of wei, and how people write them.

1 ROS is 10^18 wei. An amount is a Python int of wei everywhere inside; text appears only where a person reads or types
one. Floats are refused, for 0.1 + 0.2 is not 0.3 in them, and bools, for True is 1.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NewType

from rios.words.errors import InvalidAmount

Wei = NewType("Wei", int)
"""A whole number of 10^-18 ROS."""

NOTHING = Wei(0)
DECIMALS = 18
WEI_PER_ROS = 10**DECIMALS
WEI_MAX = 2**256 - 1
"""What a contract can hold in one number."""

_WRITTEN = re.compile(r"\s*([0-9]{1,78})(?:\.([0-9]+))?\s*(ros|wei)?\s*", re.IGNORECASE)
_SHOWN_MAX = 60  # of what was given, in an error


def parse_ros(value: str | int | Decimal, *, name: str = "the amount") -> Wei:
    """The wei that a person means by `value`.

    value: text such as "25 ROS", "25", "0.5 ROS" or "7 wei" (a bare number is ROS); a Decimal of ROS; an int of wei.
    name: what the amount is for, as an error should call it.

    Raises InvalidAmount for a float, a bool, NaN, a negative amount, more than 18 decimals, or 2^256 wei and more.
    """
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise _refused(value, name, "is not a number; give a finite one")
        # Far beyond both bounds; writing it out could take any amount of memory.
        if not -80 <= value.adjusted() <= 80 and value:
            raise _refused(value, name, f"is not between 10^-{DECIMALS} ROS and 2^256 wei")
        value = f"{value:f}"
    if not isinstance(value, str):
        return check_wei(value, name=name)
    match = _WRITTEN.fullmatch(value)
    if match is None:
        remedy = "may not be negative" if value.lstrip().startswith("-") else "is not an amount"
        raise _refused(value, name, f'{remedy}; write "25 ROS", "0.5 ROS" or "7 wei"')
    whole, fraction, unit = match[1], (match[2] or "").rstrip("0"), (match[3] or "ros").lower()
    if unit == "wei":
        if match[2] is not None:
            raise _refused(value, name, "has a fraction of a wei; there is nothing smaller than 1 wei")
        return check_wei(int(whole), name=name)
    if len(fraction) > DECIMALS:
        raise _refused(value, name, f"has {len(fraction)} decimals; ROS has {DECIMALS}: round it to them yourself")
    return check_wei(int(whole) * WEI_PER_ROS + int(fraction.ljust(DECIMALS, "0")), name=name)


def format_ros(wei: int, *, unit: bool = True) -> str:
    """`wei` in ROS, exact and without trailing zeros: "24.731 ROS". `parse_ros` gives the same wei back.

    unit: whether " ROS" follows the number. A negative amount, as in a posting, gets a minus sign.
    """
    _whole_number(wei, "the amount")
    whole, fraction = divmod(abs(wei), WEI_PER_ROS)
    text = f"{'-' if wei < 0 else ''}{whole}"
    if fraction:
        text += "." + f"{fraction:0{DECIMALS}d}".rstrip("0")
    return f"{text} ROS" if unit else text


def check_wei(value: object, *, name: str, minimum: int = 0, maximum: int = WEI_MAX) -> Wei:
    """`value` if it is a whole number of wei from `minimum` to `maximum`, else InvalidAmount that calls it `name`."""
    wei = _whole_number(value, name)
    if wei < minimum:
        bound = "may not be negative" if minimum == 0 else f"must be at least {minimum} wei"
        raise _refused(wei, name, bound)
    if wei > maximum:
        raise _refused(wei, name, f"may be at most {maximum} wei")
    return Wei(wei)


def _whole_number(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        kind = type(value).__name__
        raise _refused(
            value, name, f'is of type {kind}, which is no money; give text such as "0.5 ROS" or an int of wei'
        )
    return value


def _refused(value: object, name: str, why: str) -> InvalidAmount:
    # An int of more than 4,300 digits has no decimal text in Python.
    huge = isinstance(value, int) and value.bit_length() > 1024
    shown = "an int of more than 1,024 bits" if huge else repr(value)
    return InvalidAmount(f"{name} {shown if len(shown) <= _SHOWN_MAX else shown[:_SHOWN_MAX] + '...'} {why}")
