"""Who is chosen with whom: counted in some steps, told in part, believed when it is enough."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from rios.dmoe.pairs import EVERY, PARTNERS, TOKENS, MeasuredPairs, Pairs
from rios.words.errors import ProtocolError


def test_a_step_in_sixteen_is_counted() -> None:
    pairs = Pairs([4])
    seen = []
    for _ in range(2 * EVERY + 1):
        pairs.begin()
        seen.append(pairs.counting)
    assert [at for at, counting in enumerate(seen) if counting] == [0, EVERY, 2 * EVERY]


def test_pairs_are_those_of_the_tokens() -> None:
    """Against counting one by one: several choices, padding, and ids that are no expert's."""
    chance = np.random.default_rng(1)
    pairs = Pairs([3, 12])
    expected = np.zeros((12, 12), dtype=np.int64)
    for _ in range(20):
        index = np.stack([chance.permutation(13)[:4] for _ in range(9)]) - (chance.random() < 0.5)
        owner = chance.integers(-1, 3, 9).astype(np.int32)
        pairs.take(1, index, owner)
        for row in index[owner >= 0]:
            real = [expert for expert in row.tolist() if 0 <= expert < 12]
            for one, other in itertools.product(real, real):
                expected[one, other] += 1
    assert (pairs.counts[1] == expected).all()
    assert not pairs.counts[0].any()
    pairs.take(0, np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int32))
    assert not pairs.counts[0].any()


def test_of_many_tokens_some_are_counted_evenly() -> None:
    for tokens, counted in ((TOKENS, TOKENS), (TOKENS + 1, TOKENS // 2 + 1), (1024, TOKENS)):
        pairs = Pairs([2])
        index = np.zeros((tokens, 1), dtype=np.int64)
        index[tokens // 2 :] = 1
        pairs.take(0, index, np.zeros(tokens, dtype=np.int32))
        first, second = pairs.counts[0].diagonal().tolist()
        assert first + second == counted
        assert abs(first - second) <= 1


def test_what_is_told_comes_back_as_tables() -> None:
    """Few experts: every pair. Many: the most frequent partners of each."""
    chance = np.random.default_rng(2)
    pairs = Pairs([5, 40])
    for layer, experts in ((0, 5), (1, 40)):
        for _ in range(80):
            index = np.stack([chance.permutation(experts)[:3] for _ in range(50)])
            pairs.take(layer, index, np.zeros(len(index), dtype=np.int32))
    measured = MeasuredPairs([5, 40])
    measured.take(pairs.strongest())
    assert measured.tables is not None
    few, many = measured.tables
    whole = pairs.counts[0].copy()
    np.fill_diagonal(whole, 0)
    assert (few == whole).all()
    assert (many == many.T).all()
    assert not many.diagonal().any()
    counts = pairs.counts[1].copy()
    np.fill_diagonal(counts, 0)
    assert (many[many > 0] == counts[many > 0]).all()
    for expert in range(40):
        strongest = np.sort(counts[expert])[::-1][:PARTNERS].sum()
        assert many[expert].sum() >= strongest


def test_little_is_not_believed_and_more_is_news() -> None:
    measured = MeasuredPairs([2])
    assert not measured.news()
    measured.take([[[0, 1, 7]]])
    assert measured.tables is None, "seven tokens say nothing"
    measured.take([[[0, 1, 8]]])
    assert measured.tables is not None
    assert measured.news()
    assert not measured.news()
    for count, news in ((31, False), (32, True), (40, False)):
        measured.take([[[0, 1, count]]])
        assert measured.news() == news
    measured.take([[]])  # another trunk, that has counted nothing yet
    assert measured.tables[0].tolist() == [[0, 40], [40, 0]]


@pytest.mark.parametrize(
    "told", [[], [[[0, 1]]], [[[0, 2, 5]]], [[[-1, 1, 5]]], [[[0, 1, -5]]], [[["a", 1, 5]]], [[[0, 1, 1 << 70]]], [5]]
)
def test_pairs_that_make_no_sense_are_refused(told: Any) -> None:
    measured = MeasuredPairs([2])
    with pytest.raises(ProtocolError, match="pairs of experts"):
        measured.take(told)
    assert measured.tables is None
