"""Shares of measured replies: whole numbers that add up, whatever the sizes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.metering import SHARE, Reply, events, packed, shares, split
from rios.words.events import UsageEvents

TOTALS = st.one_of(st.integers(0, 1000), st.integers(0, 2**48), st.sampled_from([2**62 - 1, 2**62, 2**63 - 1]))
WEIGHTS = st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**40)), min_size=1, max_size=40).filter(any)


@settings(max_examples=400)
@given(TOTALS, WEIGHTS)
def test_split_is_hamiltons(total: int, weights: list[int]) -> None:
    parts = split(total, np.array(weights, dtype=np.int64)).tolist()
    whole = sum(weights)
    exact = [Fraction(total * weight, whole) for weight in weights]
    assert sum(parts) == total
    assert all(part - int(quota) in (0, 1) for part, quota in zip(parts, exact, strict=True))
    # Who was rounded up had no smaller fraction than who was not; of equals the earlier.
    up = [(-(quota % 1), place) for place, quota in enumerate(exact) if parts[place] > int(quota)]
    down = [(-(quota % 1), place) for place, quota in enumerate(exact) if parts[place] == int(quota)]
    assert not up or not down or max(up) < min(down)


def test_both_ways_of_computing_agree() -> None:
    """The fast one in 64 bits and the exact one beyond them meet where the product just fits."""
    weights = np.array([3, 1 << 20, 7, 0, 1 << 20], dtype=np.int64)
    for total in range((1 << 42) - 3, (1 << 42) + 4):
        whole = int(weights.sum())
        parts = split(total, weights).tolist()
        assert sum(parts) == total
        assert all(abs(part - Fraction(total * int(w), whole)) < 1 for part, w in zip(parts, weights, strict=True))


@pytest.mark.parametrize("requests", [1, 2, 5])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_shares_add_up(requests: int, data: st.DataObject) -> None:
    replies = [
        Reply(
            layer=data.draw(st.integers(0, 60)),
            host=data.draw(st.integers(0, 9)),
            compute_ns=data.draw(st.one_of(st.integers(0, 2**48), st.sampled_from([2**61, 2**62, 2**63 - 1]))),
            wire_bytes=data.draw(st.integers(0, 2**30)),
            rows=np.array(data.draw(st.lists(st.integers(0, 9), min_size=requests, max_size=requests)), dtype=np.int64),
        )
        for _ in range(data.draw(st.integers(0, 5)))
    ]
    handles = np.arange(100, 100 + requests, dtype=np.uint32)
    steps = np.arange(requests, dtype=np.uint32) + 7
    records = shares(replies, handles, steps)
    assert records.dtype == SHARE
    served = [reply for reply in replies if reply.rows.sum()]
    for field in ("compute_ns", "wire_bytes"):
        assert sum(records[field].tolist()) == sum(getattr(reply, field) for reply in served)
        parts = [split(getattr(reply, field), reply.rows)[reply.rows > 0].tolist() for reply in served]
        assert sorted(records[field].tolist()) == sorted(part for of_reply in parts for part in of_reply)
    # By request, so that a client has those of each together.
    each = [reply.rows.tolist() for reply in served]
    assert records["rows"].tolist() == [rows[place] for place in range(requests) for rows in each if rows[place]]
    assert records["handle"].tolist() == sorted(records["handle"].tolist())
    if requests == 1:
        assert packed(replies, 100, 7) == records.tobytes()
    assert all(step == 7 + handle - 100 for handle, step in zip(records["handle"], records["step"], strict=True))


def test_a_record_travels_as_it_is() -> None:
    rows = np.array([1, 3], dtype=np.int64)
    records = shares([Reply(2, 1, 10, 7, rows)], np.array([8, 9], np.uint32), np.array([5, 6], np.uint32))
    assert SHARE.itemsize == 32
    assert np.frombuffer(records.tobytes(), dtype=SHARE).tolist() == [(8, 5, 2, 1, 1, 3, 2), (9, 6, 2, 1, 3, 7, 5)]


NAMES = st.sampled_from((("a", "b"), ("b", "a", "c")))  # another trunk, after a failover, numbers hosts otherwise
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(0, 1),
        st.integers(1, 9),
        st.integers(0, 2**64 - 1),
        st.integers(0, 99),
    ),
    max_size=6,
)


@given(st.lists(st.tuples(NAMES, RECORDS), max_size=4))
def test_events_add_up_what_one_host_did_for_one_layer_of_one_step(found: Any) -> None:
    expected: dict[tuple[int, int, str], list[int]] = {}
    for names, records in found:
        for step, layer, place, rows, ns, carried in records:
            sums = expected.setdefault((step, layer, names[place]), [0, 0, 0])
            for index, value in enumerate((rows, min(ns, 2**50), carried)):
                sums[index] += value
    arrays = [(names, np.array([(7, *record) for record in records], dtype=SHARE)) for names, records in found]
    made = events("r", "m", arrays)
    assert [(e.step, e.layer, e.host, [e.rows, e.compute_ns, e.wire_bytes]) for e in made] == [
        (*key, expected[key]) for key in sorted(expected)
    ]
    assert made == UsageEvents.of(list(made)) or not made
    assert {(e.request_id, e.model) for e in made} <= {("r", "m")}
