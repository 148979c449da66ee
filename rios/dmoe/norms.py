"""Root-mean-square norms by torch's one call, wherever that gives the very bits of the architecture's own code.

That code is some six operations one after the other, each of which passes a few rows through the interpreter and memory
again: for 8 rows of 512 they took 72 us where the one call takes 26, 25 times in each step of a model of 6 layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

# Rows of a prompt are as quick by the architecture's own code.
_VALUES_MAX = 1 << 16
_SAMPLE = ((1, 1), (3,), (2, 5))  # rows of the inputs that are compared
_SCALES = (1e-3, 1.0, 300.0)


def quicken(model: nn.Module) -> int:
    """Let the norms of `model` take the one call for few rows; how many of them do now."""
    return sum(_quicken(module) for module in model.modules() if type(module).__name__.endswith("RMSNorm"))


def _quicken(module: nn.Module) -> bool:
    weight, own = getattr(module, "weight", None), module.forward
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(epsilon, float):
        return False
    if len(inspect.signature(own).parameters) != 1:
        return False
    shape = weight.shape

    def one(hidden: Tensor) -> Tensor:
        return rms_norm(hidden, shape, weight, epsilon)

    if not _same(own, one, weight):
        return False

    def forward(hidden: Tensor) -> Tensor:
        few = hidden.numel() <= _VALUES_MAX and hidden.dtype is weight.dtype
        return one(hidden) if few else own(hidden)

    vars(module)["forward"] = forward
    return True


@torch.inference_mode()
def _same(own: Callable[[Tensor], Tensor], one: Callable[[Tensor], Tensor], weight: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    for rows in _SAMPLE:
        for scale in _SCALES:
            sample = (torch.randn(*rows, len(weight), generator=generator) * scale).to(weight)
            expected = own(sample)
            if expected.dtype is not weight.dtype or not torch.equal(expected, one(sample)):
                return False
    return True
