"""Many rows added up by what they are about, column by column: exact, in a fraction of the time of a row at a time.

What a row is about becomes a number, and numpy adds up whole columns. An amount may pass 64 bits, and so may a sum of
amounts that do not: these are added in two halves, those as Python's own whole numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Amounts = NDArray[Any]
"""Whole numbers: of 64 bits where all fit, else objects."""
Key = TypeVar("Key", bound=Hashable)
_HALF = 31
ROWS_MAX = 1 << 20
"""In one group: so many halves of 32 bits and a sign are added up within 64."""


class Names(dict[Key, int]):
    """Numbers things in the order in which they come."""

    def __missing__(self, key: Key) -> int:
        self[key] = number = len(self)
        return number

    def numbers(self, column: Sequence[Key]) -> Ints:
        """The numbers of a column."""
        return np.fromiter(map(self.__getitem__, column), np.int64, count=len(column))


def whole(column: Iterable[str | int]) -> Amounts:
    """A column of whole numbers, given as decimal text."""
    found = list(map(int, column))
    try:
        return np.array(found, np.int64)
    except OverflowError:
        return np.array(found, object)


def total(column: Amounts) -> int:
    """What all of a column add up to."""
    return sum(column.tolist())


class Group:
    """Rows that belong together, by one key or by two: numbers of at least 0."""

    def __init__(self, key: Ints, other: Ints | None = None) -> None:
        assert len(key) <= ROWS_MAX
        self._width = 1 if other is None else int(other.max(initial=0)) + 1
        joined = key if other is None else key * self._width + other
        self._found, self._place = np.unique(joined, return_inverse=True)

    @property
    def keys(self) -> list[int]:
        """One for each group, ascending; of two keys, the first."""
        found: list[int] = (self._found // self._width).tolist()
        return found

    @property
    def others(self) -> list[int]:
        """The second keys of the same groups."""
        found: list[int] = (self._found % self._width).tolist()
        return found

    def counts(self, where: NDArray[np.bool_] | None = None) -> list[int]:
        """How many rows each has. where: count these alone."""
        place = self._place if where is None else self._place[where]
        found: list[int] = np.bincount(place, minlength=len(self._found)).tolist()
        return found

    def sums(self, column: Amounts, where: NDArray[np.bool_] | None = None) -> list[int]:
        """What each adds up to, exactly. where: add these rows alone."""
        place, values = (self._place, column) if where is None else (self._place[where], column[where])
        if values.dtype == object:
            found = [0] * len(self._found)
            for group, value in zip(place.tolist(), values, strict=True):
                found[group] += value
            return found
        return [
            (high << _HALF) + low
            for high, low in zip(
                self._added(place, values >> _HALF), self._added(place, values & ((1 << _HALF) - 1)), strict=True
            )
        ]

    def _added(self, place: Ints, values: Ints) -> Iterator[int]:
        sums = np.zeros(len(self._found), np.int64)
        np.add.at(sums, place, values)
        return iter(sums.tolist())


def firsts(column: Ints, seen: set[int]) -> NDArray[np.bool_]:
    """Which rows have a number that is in no row before them, nor in `seen`, which they are added to."""
    found, places = np.unique(column, return_index=True)
    new = np.zeros(len(column), bool)
    fresh = [number not in seen for number in found.tolist()]
    new[places[fresh]] = True
    seen.update(found[fresh].tolist())
    return new
