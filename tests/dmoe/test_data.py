"""A call's way through a host's experts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rios.dmoe import data
from rios.dmoe.calls import Exec, decode_exec, encode_exec
from rios.dmoe.data import Lane, compute
from rios.dmoe.hosted import Hosted
from rios.dmoe.wire import Frame, Kind
from tests import checkpoints
from tests.hosting import hosting

CASES = [
    (dtype, partial, rows)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for partial in (False, True)
    for rows in (1, 700, 3)
]


def call(rows: int, *, dtype: torch.dtype, partial: bool, seed: int) -> Exec:
    """Some rows for experts 4 and 1 of layer 0, through the bytes of a frame."""
    generator = torch.Generator().manual_seed(seed)
    counts = [rows, rows // 2 + 1]
    meta, bodies = encode_exec(
        deployment=1,
        layer=0,
        experts=np.array([4, 1], dtype=np.int32),
        counts=np.array(counts, dtype=np.int32),
        slot_rows=np.array([*range(rows), *range(rows // 2 + 1)], dtype=np.int32),
        hidden=torch.randn(rows, 32, generator=generator).to(dtype),
        weights=torch.rand(sum(counts), generator=generator) if partial else None,
    )
    return decode_exec(
        Frame(Kind.EXEC, 1, meta, memoryview(bytearray(b"".join(bytes(body) for body in bodies)))), width=32
    )


class Emptied:
    """A stream, as far as a machine without a GPU goes: counts how often it was waited for."""

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("mixtral", tmp_path_factory.mktemp("mixtral"))


@pytest.fixture(scope="module")
def hosted(checkpoint: Path) -> Iterator[Hosted]:
    with hosting(device=torch.device("cpu")) as made:
        made.deploy(checkpoint, trunk=False)
        yield made.host.deployments["model"]


def test_a_lane_gives_what_the_cpu_gives(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the stream and for page-locked memory: sizes up and down, each dtype, both ways back."""
    stream, sizes = Emptied(), []

    def locked(size_bytes: int) -> torch.Tensor:
        sizes.append(size_bytes)
        return torch.full((size_bytes,), 0xFF, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(data, "_locked", locked)
    lane = Lane(torch.device("cpu"))
    for number, (dtype, partial, rows) in enumerate(CASES, start=1):
        asked = call(rows, dtype=dtype, partial=partial, seed=rows)
        found = compute(hosted, asked, lane)
        assert found.dtype == dtype
        assert torch.equal(found, compute(hosted, asked))
        assert stream.waits == number
    assert len(sizes) <= 2 * 4  # hidden states, slots, weights and answer: each grows once at most


@pytest.mark.gpu
def test_a_lane_of_a_gpu(checkpoint: Path, hosted: Hosted) -> None:
    with hosting(device=torch.device("cuda", 0)) as made:
        made.deploy(checkpoint, trunk=False)
        lane = Lane(torch.device("cuda", 0))
        for dtype, partial, rows in CASES:
            asked = call(rows, dtype=dtype, partial=partial, seed=rows)
            found = compute(made.host.deployments["model"], asked, lane)
            assert found.is_pinned()
            torch.testing.assert_close(found, compute(hosted, asked))
