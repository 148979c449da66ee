"""Folding: the same records from the same events, however they arrive, and nothing counted twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.usage import Request, UsageRecord, Work, fold, minimum_record, resource_record
from rios.words.canonical import EXACT_MAX, canonical
from rios.words.errors import InvalidRequest, LedgerConflict
from tests.billing import make
from tests.billing.make import DEMO, HOSTS, event

REQUEST = Request(request_id="r1", model="demo", trunk="a", tokens_in=5, tokens_out=3)
# 5 prompt tokens in one step; then each new token but the last is read.
EVENTS = [
    event("r1", step, layer, host, rows)
    for step, read in ((5, 5), (6, 1), (7, 1))
    for layer in range(4)
    for host, rows in (("a", read), ("c", read))
]
FLOPS = 2 * 3 * 192 * 128


def _fold(events: Any = EVENTS, request: Request = REQUEST, work: Work = DEMO) -> tuple[UsageRecord, ...]:
    return fold(request, events, work=work, hosts=HOSTS)


def test_one_record_for_each_worker_and_line() -> None:
    records = _fold()
    assert [(r.worker, r.resource, r.quantity) for r in records] == [
        ("a", "bytes", 28 * 900),
        ("a", "expert", 28 * FLOPS),
        ("a", "tokens_in", 5),
        ("a", "tokens_out", 3),
        ("c", "bytes", 28 * 900),
        ("c", "expert", 28 * FLOPS),
    ]
    expert = records[1]
    assert (expert.owner, expert.device_class, expert.ask_bp) == (make.OWNERS[0], "cpu", 10_000)
    assert (expert.rows, expert.measured_ns, expert.events, expert.hold_step) == (28, 28_000, 12, 0)
    assert len({record.usage_id for record in records}) == len(records)


def test_the_digest_is_of_the_events() -> None:
    """Anybody who has the events can compute it: whose they are, and five numbers for each."""
    mine = sorted((e.step, e.layer, e.rows, e.compute_ns, e.wire_bytes) for e in EVENTS if e.host == "c")
    hashed = b'["r1","demo","c"]\n' + b"".join(struct.pack("<5q", *numbers) for numbers in mine)
    expected = hashlib.sha256(hashed).hexdigest()
    assert {record.events_digest for record in _fold() if record.worker == "c"} == {expected}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_order_and_duplicates_do_not_matter(data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(EVENTS), max_size=10))
    assert _fold(data.draw(st.permutations(EVENTS + again))) == _fold()


@pytest.mark.parametrize("field", ["rows", "compute_ns", "wire_bytes", "model"])
def test_one_id_with_two_payloads_is_a_conflict(field: str) -> None:
    changed = dataclasses.replace(EVENTS[7], **{field: "x" if field == "model" else 2})
    with pytest.raises(LedgerConflict, match=EVENTS[7].event_id):
        _fold([*EVENTS, changed])


def test_measurements_change_no_quantity_and_padding_pays_nothing() -> None:
    slow = [dataclasses.replace(e, compute_ns=e.compute_ns * 1000, wire_bytes=2**40) for e in EVENTS]
    priced = {(r.worker, r.resource): r.quantity for r in _fold()}
    padded = {(r.worker, r.resource): r.quantity for r in _fold(slow)}
    bound = 28 * DEMO.row_bytes_max
    assert padded == {**priced, ("a", "bytes"): bound, ("c", "bytes"): bound}
    assert sum(r.measured_ns for r in _fold(slow)) == 56_000_000


@pytest.mark.parametrize("field", ["rows", "compute_ns", "wire_bytes"])
def test_sums_are_exact_beyond_64_bits(field: str) -> None:
    largest = 2**63 - 1
    records = _fold([dataclasses.replace(e, **{field: largest}) for e in EVENTS])
    expert = next(r for r in records if (r.worker, r.resource) == ("c", "expert"))
    if field == "rows":
        assert (expert.rows, expert.quantity) == (12 * largest, 12 * largest * FLOPS)
    elif field == "compute_ns":
        assert expert.measured_ns == 12 * largest
    else:
        carried = next(r.quantity for r in records if (r.worker, r.resource) == ("c", "bytes"))
        assert carried == 28 * DEMO.row_bytes_max


def test_hold_steps() -> None:
    """New token n is chosen when 5 + n - 1 positions were read: a hold over 2 new tokens ends with position 6."""
    request = dataclasses.replace(REQUEST, hold_tokens=(2, 4))
    records = _fold(request=request)
    rows = {(r.hold_step, r.worker): r.rows for r in records if r.resource == "expert"}
    assert rows == {(0, "a"): 24, (0, "c"): 24, (1, "a"): 4, (1, "c"): 4}
    tokens = {(r.hold_step, r.resource): r.quantity for r in records if r.resource.startswith("tokens")}
    assert tokens == {(0, "tokens_in"): 5, (0, "tokens_out"): 2, (1, "tokens_out"): 1}
    assert {r.usage_id for r in records}.isdisjoint(r.usage_id for r in _fold() if r.resource == "none")
    assert request.hold_steps(np.array([1, 99])).tolist() == [0, 1]  # beyond the last hold: the last step's


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_steps_divide_the_whole(data: st.DataObject) -> None:
    holds = tuple(sorted(data.draw(st.sets(st.integers(1, 6), max_size=4))))
    stepped = _fold(request=dataclasses.replace(REQUEST, hold_tokens=holds))
    for whole in _fold():
        mine = [r for r in stepped if (r.worker, r.resource) == (whole.worker, whole.resource)]
        for field in ("quantity", "rows", "measured_ns", "events"):
            assert sum(getattr(r, field) for r in mine) == getattr(whole, field)


def test_what_was_not_used_has_no_record() -> None:
    nothing = Request(request_id="r1", model="demo", trunk="a", tokens_in=0, tokens_out=0)
    assert _fold([], nothing) == ()
    assert _fold([event("r1", 5, 0, "c", 0, wire_bytes=500)], nothing) == ()
    assert [r.resource for r in _fold([])] == ["tokens_in", "tokens_out"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"host": "z"}, "who owns host z"),
        ({"request_id": "r2"}, "not of request r1"),
        ({"layer": 4}, "has 4 layers"),
        ({"layer": -1}, "layer of usage event"),
        ({"layer": 1.0}, "layer of usage event"),
        ({"rows": -1}, "rows of usage event"),
        ({"rows": 1.0}, "rows of usage event"),
        ({"compute_ns": True}, "compute_ns of usage event"),
    ],
)
def test_events_that_cannot_be_are_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        _fold([dataclasses.replace(EVENTS[0], **changed)])


def test_records_round_trip() -> None:
    rented = resource_record("d1", HOSTS["b"], "memory", 10**20, period=7, measured_ns=2**60)
    for record in (*_fold(), rented, minimum_record(REQUEST, HOSTS["a"], 5)):
        assert UsageRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        odd = dataclasses.replace(record, model='a "quoted"\n\u00e9\u2028\x7f', worker="", rows=EXACT_MAX)
        for one in (record, odd):
            assert one.to_json() == canonical(one.to_dict()).decode()
        with pytest.raises(TypeError, match="travels as text"):
            dataclasses.replace(record, rows=EXACT_MAX + 1).to_json()
    good = rented.to_dict()
    for name in good:
        for wrong in (None, -1, 0.5, True, [], {}):
            with pytest.raises(InvalidRequest):
                UsageRecord.from_dict({**good, name: wrong})
    for wrong in ("-1", "01", "x", "1" * 79, ""):
        with pytest.raises(InvalidRequest, match="quantity of the usage record"):
            UsageRecord.from_dict({**good, "quantity": wrong})
    with pytest.raises(InvalidRequest, match="'more' is unknown"):
        UsageRecord.from_dict({**good, "more": 1})


def test_rented_resources() -> None:
    record = resource_record("d1", HOSTS["b"], "gpu", 3600 * 10**9, period=7)
    assert (record.source, record.hold_step, record.worker) == ("d1", 7, "b")
    assert record.usage_id != resource_record("d1", HOSTS["b"], "gpu", 1, period=8).usage_id
    assert record.usage_id == resource_record("d1", HOSTS["b"], "gpu", 1, period=7).usage_id
    with pytest.raises(InvalidRequest, match="not what a deployment uses"):
        resource_record("d1", HOSTS["b"], "expert", 1, period=1)
    with pytest.raises(InvalidRequest, match="quantity of d1"):
        resource_record("d1", HOSTS["b"], "gpu", -1, period=1)


def test_work_of_the_demo_model() -> None:
    assert DEMO.rows_per_position == 8
    assert DEMO.flops_per_position == 8 * FLOPS
    assert DEMO.row_bytes_max == 2048
