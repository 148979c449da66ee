"""Columns add up to what a row at a time does, whatever the amounts."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rios.services.reports.columns import Group, Names, firsts, total, whole

LARGE = 1 << 256
AMOUNT = st.one_of(
    st.integers(-LARGE, LARGE),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([(1 << 63) - 1, 1 << 63, -(1 << 63), (1 << 31) - 1, 1 << 31, -1, 0]),
)
ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), AMOUNT, st.booleans()), max_size=60)
SMALL = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans()),
    max_size=60,
)


@given(st.one_of(ROWS, SMALL))
def test_sums_are_exact(rows: list[tuple[str, str, int, bool]]) -> None:
    names, others = Names[str](), Names[str]()
    keys, other = names.numbers([row[0] for row in rows]), others.numbers([row[1] for row in rows])
    column, chosen = whole(str(row[2]) for row in rows), np.array([row[3] for row in rows], bool)
    wanted: Counter[tuple[str, str]] = Counter()
    some: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for one, two, amount, is_chosen in rows:
        wanted[one, two] += amount
        counts[one] += 1
        some[one] += amount * is_chosen
    both, group = Group(keys, other), Group(keys)
    texts, seconds = list(names), list(others)
    pairs = [(texts[one], seconds[two]) for one, two in zip(both.keys, both.others, strict=True)]
    assert dict(zip(pairs, both.sums(column), strict=True)) == wanted
    found = [texts[number] for number in group.keys]
    assert dict(zip(found, group.sums(column, chosen), strict=True)) == some
    assert dict(zip(found, group.counts(), strict=True)) == counts
    assert sum(group.counts(chosen)) == sum(row[3] for row in rows)
    assert total(column) == sum(row[2] for row in rows)


@given(st.lists(st.lists(st.integers(0, 20), max_size=30), max_size=5))
def test_each_is_new_once(pages: list[list[int]]) -> None:
    seen: set[int] = set()
    before: set[int] = set()
    for page in pages:
        new = firsts(np.array(page, np.int64), seen)
        for number, is_new in zip(page, new.tolist(), strict=True):
            assert is_new == (number not in before)
            before.add(number)
    assert seen == before
