"""Calls of experts as bytes: exact there and back, and no number is believed that another contradicts."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.calls import PARTIAL, SLOTS, decode_exec, decode_result, encode_exec, encode_result, weighted_sum
from rios.dmoe.tensors import CODES, from_bytes, to_bytes
from rios.dmoe.wire import Frame, Kind
from rios.words.errors import ProtocolError

WIDTH = 6


def frame_of(kind: Kind, meta: bytes, bodies: list[Any]) -> Frame:
    return Frame(kind, 1, meta, memoryview(bytearray(b"".join(bytes(body) for body in bodies))))


def example(*, partial: bool = False, dtype: torch.dtype = torch.float32) -> tuple[bytes, bytes]:
    """Three groups of five slots over three rows."""
    meta, bodies = encode_exec(
        deployment=3,
        layer=2,
        experts=np.array([1, 4, 7], dtype=np.int32),
        counts=np.array([2, 1, 2], dtype=np.int32),
        slot_rows=np.array([0, 2, 1, 0, 1], dtype=np.int32),
        hidden=torch.arange(3 * WIDTH, dtype=dtype).view(3, WIDTH),
        weights=torch.linspace(0, 1, 5) if partial else None,
    )
    return meta, b"".join(bytes(body) for body in bodies)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_exec_round_trip(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 5))
    counts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    experts = data.draw(st.lists(st.integers(0, 300), min_size=len(counts), max_size=len(counts), unique=True))
    slot_rows = data.draw(st.lists(st.integers(0, rows - 1), min_size=sum(counts), max_size=sum(counts)))
    dtype = data.draw(st.sampled_from(sorted(CODES, key=str)))
    partial = data.draw(st.booleans())
    hidden = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows)).to(dtype)
    weights = torch.rand(sum(counts)) if partial else None
    meta, bodies = encode_exec(
        deployment=7,
        layer=11,
        experts=np.array(experts, dtype=np.int32),
        counts=np.array(counts, dtype=np.int32),
        slot_rows=np.array(slot_rows, dtype=np.int32),
        hidden=hidden,
        weights=weights,
    )
    call = decode_exec(frame_of(Kind.EXEC, meta, bodies), width=WIDTH)
    assert (call.deployment, call.layer, call.mode) == (7, 11, PARTIAL if partial else SLOTS)
    assert (call.experts, call.counts, call.slot_rows.tolist()) == (experts, counts, slot_rows)
    assert call.hidden.dtype == dtype
    assert torch.equal(call.hidden, hidden)
    assert (call.weights is None) == (weights is None)
    if weights is not None:
        assert call.weights is not None
        assert torch.equal(call.weights, weights)


def test_a_call_without_slots() -> None:
    empty = np.zeros(0, dtype=np.int32)
    meta, bodies = encode_exec(
        deployment=1, layer=0, experts=empty, counts=empty, slot_rows=empty, hidden=torch.zeros(0, WIDTH), weights=None
    )
    call = decode_exec(frame_of(Kind.EXEC, meta, bodies), width=WIDTH)
    assert call.experts == []
    assert call.hidden.shape == (0, WIDTH)


# Offsets of the fields of EXEC's meta: deployment, layer, groups, rows, slots, width, dtype, mode.
HEAD = struct.Struct("<IHHIIIBBH")


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (2, 0),
        (2, 2),
        (2, 4),
        (2, 65535),
        (3, 0),
        (3, 2),
        (3, 4),
        (3, 2**32 - 1),
        (4, 0),
        (4, 4),
        (4, 6),
        (4, 2**32 - 1),
        (5, 0),
        (5, WIDTH + 1),
        (5, 2**32 - 1),
        (6, 1),
        (6, 3),
        (6, 255),
        (7, 2),
        (7, 255),
    ],
)
def test_a_head_that_contradicts_the_rest(field: int, value: int, partial: bool) -> None:
    meta, body = example(partial=partial)
    head = list(HEAD.unpack_from(meta))
    head[field] = value
    with pytest.raises(ProtocolError, match=r"EXEC|rows|dtype"):
        decode_exec(frame_of(Kind.EXEC, HEAD.pack(*head) + meta[HEAD.size :], [body]), width=WIDTH)


@pytest.mark.parametrize("partial", [False, True])
def test_mode_and_body_must_agree(partial: bool) -> None:
    meta, body = example(partial=partial)
    head = list(HEAD.unpack_from(meta))
    head[7] = 1 - head[7]
    with pytest.raises(ProtocolError):
        decode_exec(frame_of(Kind.EXEC, HEAD.pack(*head) + meta[HEAD.size :], [body]), width=WIDTH)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (3, 0),  # counts
        (3, -1),
        (3, 3),
        (3, 2**31 - 1),
        (6, -1),  # slot rows
        (6, 3),
        (10, -(2**31)),
        (10, 2**31 - 1),
    ],
)
def test_numbers_that_point_outside(place: int, value: int) -> None:
    meta, body = example()
    numbers = np.frombuffer(meta, dtype="<i4", offset=HEAD.size).copy()
    numbers[place] = value
    with pytest.raises(ProtocolError, match="EXEC"):
        decode_exec(frame_of(Kind.EXEC, meta[: HEAD.size] + numbers.tobytes(), [body]), width=WIDTH)


def test_so_many_rows_that_one_below_0_is_among_them() -> None:
    meta, body = example()
    head = list(HEAD.unpack_from(meta))
    head[3] = 2**32 - 1
    numbers = np.frombuffer(meta, dtype="<i4", offset=HEAD.size).copy()
    numbers[6] = -2
    with pytest.raises(ProtocolError, match="bound"):
        decode_exec(frame_of(Kind.EXEC, HEAD.pack(*head) + numbers.tobytes(), [body]), width=WIDTH)


def test_group_sizes_are_added_up_in_64_bits() -> None:
    """2^31 - 1 twice and a 7 make 5 in 32 bits."""
    meta, body = example()
    numbers = np.frombuffer(meta, dtype="<i4", offset=HEAD.size).copy()
    numbers[3:6] = (2**31 - 1, 2**31 - 1, 7)
    with pytest.raises(ProtocolError, match="add up"):
        decode_exec(frame_of(Kind.EXEC, meta[: HEAD.size] + numbers.tobytes(), [body]), width=WIDTH)


@settings(deadline=None, max_examples=300)
@given(st.booleans(), st.data())
def test_any_change_is_refused_or_consistent(partial: bool, data: st.DataObject) -> None:
    """Whatever comes out can be computed: every index within its bounds, every length as said."""
    meta, body = example(partial=partial)
    parts = [bytearray(meta), bytearray(body)]
    for _ in range(data.draw(st.integers(1, 3))):
        part = parts[data.draw(st.integers(0, 1))]
        what = data.draw(st.sampled_from(["flip", "cut", "grow"]))
        place = data.draw(st.integers(0, max(len(part) - 1, 0)))
        if what == "flip" and part:
            part[place] ^= data.draw(st.integers(1, 255))
        elif what == "cut":
            del part[place:]
        else:
            part += bytes(data.draw(st.integers(1, 8)))
    try:
        call = decode_exec(Frame(Kind.EXEC, 1, bytes(parts[0]), memoryview(parts[1])), width=WIDTH)
    except ProtocolError:
        return
    assert len(call.experts) == len(call.counts)
    assert sum(call.counts) == len(call.slot_rows)
    assert all(count >= 1 for count in call.counts)
    assert call.hidden.shape[1] == WIDTH
    assert all(0 <= row < len(call.hidden) for row in call.slot_rows.tolist())
    assert call.weights is None or call.weights.shape == call.slot_rows.shape


@pytest.mark.parametrize("size", range(HEAD.size))
def test_a_short_meta(size: int) -> None:
    meta, body = example()
    with pytest.raises(ProtocolError, match="at least"):
        decode_exec(frame_of(Kind.EXEC, meta[:size], [body]), width=WIDTH)


@pytest.mark.parametrize("dtype", list(CODES))
def test_result_round_trip(dtype: torch.dtype) -> None:
    output = torch.randn(4, WIDTH).to(dtype)
    meta, bodies = encode_result(output, mode=PARTIAL, compute_ns=123_456_789_012)
    got, compute_ns = decode_result(frame_of(Kind.RESULT, meta, bodies), rows=4, width=WIDTH, mode=PARTIAL)
    assert torch.equal(got, output)
    assert got.dtype == dtype
    assert compute_ns == 123_456_789_012


RESULT = struct.Struct("<QIIBBH")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 2**64 - 1),
        (0, 2**63),
        (1, 3),
        (1, 5),
        (1, 2**32 - 1),
        (2, WIDTH - 1),
        (2, 0),
        (3, 1),
        (3, 9),
        (4, 1),
        (4, 7),
    ],
)
def test_a_result_that_was_not_asked_for(field: int, value: int) -> None:
    meta, bodies = encode_result(torch.zeros(4, WIDTH), mode=SLOTS, compute_ns=1)
    head = list(RESULT.unpack(meta))
    head[field] = value
    with pytest.raises(ProtocolError):
        decode_result(frame_of(Kind.RESULT, RESULT.pack(*head), bodies), rows=4, width=WIDTH, mode=SLOTS)


@pytest.mark.parametrize("change", [-1, 1, -4, 4])
def test_a_result_of_another_length(change: int) -> None:
    meta, bodies = encode_result(torch.zeros(4, WIDTH), mode=SLOTS, compute_ns=1)
    body = (bytes(bodies[0]) + bytes(8))[: len(bodies[0]) + change]
    with pytest.raises(ProtocolError, match="bytes, the frame has"):
        decode_result(frame_of(Kind.RESULT, meta, [body]), rows=4, width=WIDTH, mode=SLOTS)
    cut = (meta + bytes(8))[: len(meta) + change]
    with pytest.raises(ProtocolError, match="RESULT meta of"):
        decode_result(frame_of(Kind.RESULT, cut, bodies), rows=4, width=WIDTH, mode=SLOTS)


def test_weighted_sum_is_the_sum() -> None:
    output = torch.randn(5, WIDTH, dtype=torch.bfloat16)
    slot_rows, weights = torch.tensor([0, 2, 0, 0, 2]), torch.rand(5)
    total = weighted_sum(output, slot_rows, weights, 3)
    assert total.dtype == torch.bfloat16
    assert torch.equal(total[1], torch.zeros(WIDTH, dtype=torch.bfloat16))
    wanted = (output[[0, 2, 3]].double() * weights[[0, 2, 3], None].double()).sum(0)
    assert torch.allclose(total[0].double(), wanted, atol=2e-2)


def test_bytes_of_a_tensor() -> None:
    tensor = torch.arange(12, dtype=torch.float32).view(3, 4).t()
    data = to_bytes(tensor)
    assert bytes(data) == tensor.contiguous().numpy().tobytes()
    assert torch.equal(from_bytes(memoryview(bytearray(data)), CODES[torch.float32], 4, 3), tensor)
    with pytest.raises(ProtocolError, match="unknown dtype code 77"):
        from_bytes(data, 77, 4, 3)
    with pytest.raises(ProtocolError, match="bytes, the frame has 48"):
        from_bytes(data, CODES[torch.float32], 2**32 - 1, 2**32 - 1)
