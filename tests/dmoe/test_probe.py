"""What a trunk's cache will take is known before the trunk is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.hosted import MemoryBudget
from rios.dmoe.planning import CacheRoom
from rios.dmoe.probe import cache_bytes
from rios.dmoe.seam import StepContext
from rios.words.config import Settings
from rios.words.errors import InsufficientMemory
from tests import checkpoints
from tests.dmoe.test_trunk import trunk_of


def zeros(layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
    return torch.zeros_like(hidden)


@pytest.mark.parametrize("name", [*checkpoints.NAMED, "qwen4_exp_text"])
def test_the_cache_of_a_model_without_weights(name: str, tmp_path: Path) -> None:
    path = checkpoints.make(name, tmp_path)
    manifest = read_manifest(path)
    settings = Settings(max_running=3, prefill_tokens=16)
    for dtype in ("float32", "bfloat16"):
        room = CacheRoom.of(cache_bytes(manifest, dtype), manifest.context_length, settings)
        assert room.fraction == settings.kv_fraction
        if name == "qwen4_exp_text":  # it looks at values of the cache
            assert room.least_bytes == 0
            assert room.share(1000, little=False) == 300
            continue
        trunk = trunk_of(path, zeros, dtype=getattr(torch, dtype))
        per_token, fixed = trunk.kv_bytes_per_token, trunk.kv_bytes_fixed
        trunk.release()
        assert room.least_bytes == pytest.approx(fixed + 16 * per_token, rel=0.05)
        assert room.most_bytes == pytest.approx(3 * (fixed + manifest.context_length * per_token), rel=0.05)


def test_a_share_counts_what_was_taken_before() -> None:
    budget = MemoryBudget(1000)
    budget.reserve(600, "experts")
    assert budget.reserve_share(0.3, 1 << 60, "a cache", beside_bytes=600) == 300
    assert budget.reserve_share(0.3, 1 << 60, "a second one", beside_bytes=600) == 100, "no more than is free"
    assert budget.reserve_share(0.3, 1 << 60, "a third one", beside_bytes=600) == 0
    budget.release(1000)
    assert budget.reserve_share(0.3, 200, "one with a bound") == 200
    with pytest.raises(InsufficientMemory, match="801 bytes, 800 of 1,000 are free"):
        budget.reserve(801, "too much")
