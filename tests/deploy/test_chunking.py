"""Streams that are alike in part are cut alike there, and nothing of them is lost."""

from __future__ import annotations

import io
import itertools
import random

from rios.deploy.chunking import BLOCK_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, chunks

MIB = 1 << 20


class _Dribble(io.BytesIO):
    """A pipe, which gives what it has."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 70_001))


def _cut(data: bytes) -> list[bytes]:
    return list(chunks(io.BytesIO(data)))


def test_what_was_put_in_before_changes_the_chunks_there_alone() -> None:
    data = random.Random(7).randbytes(40 * MIB)
    found = _cut(data)
    assert b"".join(found) == data
    assert list(chunks(_Dribble(data))) == found, "however it comes"
    sizes = [len(one) for one in found]
    assert all(CHUNK_BYTES_MIN <= size <= CHUNK_BYTES_MAX for size in sizes[:-1])
    assert 0.6 * MIB < sum(sizes) / len(sizes) < 2 * MIB
    assert all(size % BLOCK_BYTES == 0 for size in sizes)
    moved = _cut(data[: 20 * MIB] + bytes(3 * BLOCK_BYTES) + data[20 * MIB :])
    assert len(set(moved) - set(found)) <= 3
    assert _cut(data[:-1])[:-1] == found[:-1]


def test_holes_and_little() -> None:
    holes = _cut(bytes(12 * MIB + 5))
    assert [len(one) for one in holes] == [CHUNK_BYTES_MAX] * 3 + [5]
    for size in (0, 1, BLOCK_BYTES, CHUNK_BYTES_MIN - 1, CHUNK_BYTES_MIN, CHUNK_BYTES_MIN + 7):
        data = random.Random(size).randbytes(size)
        assert _cut(data) == ([data] if data else [])
    ends = list(itertools.accumulate(len(one) for one in _cut(random.Random(1).randbytes(8 * MIB))))
    # Found once: hosts of other versions and machines have to cut at the same places.
    assert [end // BLOCK_BYTES for end in ends] == [1088, 2994, 7691, 8618, 9654, 11332, 12001, 13214, 14675, 16384]
