"""Muon: momentum whose matrix updates are made orthogonal.

Source: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
networks"; the scale of the update from Liu et al., 2025, "Muon is scalable for LLM
training", section 2.2. torch.optim.Muon takes two-dimensional weights only; here a
stack of experts [expert, rows, columns] is a batch of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# The quintic whose repetition drives singular values near 1 (Jordan et al.); five
# rounds in bfloat16 are enough.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5

# Gives an update the root mean square that AdamW's updates have (Liu et al.).
_SCALE = 0.2


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest (semi-)orthogonal matrices to [..., rows, columns], roughly."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices and stacks."""

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient; ``closure`` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group)

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        state = self.state[parameter]
        if not state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity = state["velocity"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonal(gradient.lerp(velocity, group["momentum"]))
        scale = _SCALE * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)
