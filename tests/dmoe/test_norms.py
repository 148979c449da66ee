"""Norms take the one call only where no bit changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rios.dmoe.norms import quicken
from tests import checkpoints


class PlainRMSNorm(nn.Module):
    """As most architectures write it."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size).to(dtype))
        self.variance_epsilon = 1e-6

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden.dtype)


class ShiftedRMSNorm(PlainRMSNorm):
    """The weight is kept less one."""

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (1.0 + self.weight) * wide


class GatedRMSNorm(PlainRMSNorm):
    """Takes a gate as well."""

    def forward(self, hidden: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(hidden if gate is None else hidden * gate)


class NamelessRMSNorm(PlainRMSNorm):
    """Its epsilon is not found."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.variance_epsilon = torch.tensor(1e-6)  # type: ignore[assignment]


def test_a_plain_norm_has_the_same_bits() -> None:
    norm, inputs = PlainRMSNorm(48), [torch.randn(*rows, 48) for rows in ((1, 1), (7,), (2, 9), (4000,))]
    before = [norm(one) for one in inputs]
    assert quicken(nn.Sequential(norm)) == 1
    assert "forward" in vars(norm)
    assert all(torch.equal(norm(one), found) for one, found in zip(inputs, before, strict=True))


@pytest.mark.parametrize("norm", [ShiftedRMSNorm(48), GatedRMSNorm(48), NamelessRMSNorm(48), nn.LayerNorm(48)])
def test_others_stay_as_they_are(norm: nn.Module) -> None:
    assert quicken(nn.Sequential(norm)) == 0
    assert "forward" not in vars(norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", checkpoints.NAMED)
def test_logits_are_equal_to_the_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = checkpoints.make(name, tmp_path / name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    ids = torch.arange(18).reshape(2, 9) + 5
    with torch.inference_mode():
        before = model(ids).logits
        found = quicken(model)
        assert torch.equal(model(ids).logits, before)
    if dtype is torch.float32 and name in ("olmoe", "qwen3_moe", "mixtral"):
        assert found >= 7, "the norms of three layers and the last one"
