"""Column types on which both databases agree, to the last digit.

SQLite keeps a NUMERIC of more than 15 digits as a float and an INTEGER of at most 64 bits, which ends at 9.2 ROS. There
an amount is decimal text: it is compared for equality by the database and summed and sorted in Python, never in SQL.
PostgreSQL keeps NUMERIC(78, 0), which holds 2^256. To have one behaviour, we sum in Python there too.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Numeric, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from rios.words.errors import InvalidAmount

DIGITS = 78
_LIMIT = 10**DIGITS


class Whole(TypeDecorator[int]):
    """A Python int of up to 78 digits and any sign: amounts in wei, quantities in base units.

    Raises InvalidAmount for a float, a bool, a Decimal, text, or more digits.
    """

    impl = Numeric(DIGITS, 0)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, NUMERIC(78, 0) elsewhere."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric(DIGITS, 0))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """What the database is given for `value`."""
        if value is None:
            return None
        checked = check_whole(value)
        return str(checked) if dialect.name == "sqlite" else checked

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """The int that the database kept."""
        return None if value is None else check_stored(value)


def check_whole(value: Any) -> int:
    """`value` if it is an int of at most 78 digits, else InvalidAmount."""
    if type(value) is not int:
        raise InvalidAmount(
            f"a column of whole numbers was given {value!r} of type {type(value).__name__}; it takes an int alone"
        )
    if not -_LIMIT < value < _LIMIT:
        raise InvalidAmount(f"a column of whole numbers was given more than {DIGITS} digits")
    return value


def check_stored(value: Any) -> int:
    """The int that `value`, as a driver gives it, stands for. A float is InvalidAmount: the database was damaged."""
    if isinstance(value, float):
        raise InvalidAmount(f"the database holds the float {value!r} as an amount; something else wrote to it")
    return int(value)


Big = BigInteger().with_variant(Integer, "sqlite")
"""64 bits: numbers, counts, moments in microseconds of UTC since 1970. On SQLite a primary key of it is the rowid."""
