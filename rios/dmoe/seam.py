"""Where a model's experts modules find who computes for them; and how several forwards ask at once.

Requests with unlike numbers of new tokens (a prompt beside others that write, prompts of unlike lengths) cannot share a
forward without padding, and those whose cache cannot be padded share none. Each such forward runs in a greenlet until
it asks for experts; when all have, the layer is asked once for all of their rows, and each goes on with its own. So a
step reads each expert's weights once, and asks each host once in a layer, however many forwards it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from rios.dmoe.architecture import experts_modules
from rios.words.errors import UnsupportedCheckpoint


@dataclass(frozen=True, slots=True)
class StepContext:
    """Whose the rows are that experts are asked for.

    owner      int32 [n_tokens]: index into the step's list of requests; -1 for padding, which must not reach experts
    position   int32 [n_tokens]: position of the token in its request; undefined where `owner` is -1
    """

    owner: np.ndarray
    position: np.ndarray


class ExpertsFn(Protocol):
    """Computes what the experts of one layer answer."""

    def __call__(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
        """hidden [n, hidden_size], index int64 [n, k], weights [n, k]: the weighted sums, [n, hidden_size] in
        `hidden`'s dtype, with zeros where `context.owner` is -1. `layer` is `MoeLayer.index`."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a forward waits for: as `ExpertsFn` takes it."""

    layer: int
    hidden: Tensor
    index: Tensor
    weights: Tensor
    context: StepContext


class Seam:
    """Where the model's experts modules find who computes for them, and for which step."""

    __slots__ = ("_asker", "context", "experts")

    def __init__(self, experts: ExpertsFn) -> None:
        self.experts = experts
        self.context = StepContext(np.empty(0, np.int32), np.empty(0, np.int32))
        self._asker: Any = None

    def attach(self, model: PreTrainedModel, layers: dict[str, int]) -> None:
        """Let every experts module of `model` ask this seam; `layers` maps their names to `MoeLayer.index`."""
        for name, module in experts_modules(model):
            vars(module)["_rios"] = self, layers[name]
        for flag in ("output_router_logits", "output_attentions", "output_hidden_states"):
            if getattr(model.config, flag, False):  # nobody reads them, and some ask for a mask of two dimensions
                setattr(model.config, flag, False)
        model.set_experts_implementation("rios")

    def ask(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """What the experts answer to the forward that runs."""
        context = self.context
        if self._asker is None:
            return self.experts(layer, hidden, index, weights, context)
        answer: Tensor = self._asker.switch(_Asked(layer, hidden, index, weights, context))
        self.context = context  # another's, until now
        return answer

    def in_step(self, forwards: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """What each of some forwards gives; each layer's experts are asked once for all. Raises what any of them does.

        Between two questions a forward runs alone, but what it leaves in the model, another may change meanwhile.
        """
        if len(forwards) == 1:
            return [forwards[0]()]
        running = [greenlet(forward) for forward in forwards]
        self._asker = getcurrent()
        try:
            said: list[Any] = [one.switch() for one in running]
            while waiting := [place for place, one in enumerate(running) if not one.dead]:
                for place, answer in self._answers({place: said[place] for place in waiting}).items():
                    said[place] = running[place].switch(answer)
        finally:
            for one in running:
                if not one.dead:
                    one.throw()
            self._asker = None
        return said

    def _answers(self, asked: dict[int, _Asked]) -> dict[int, Tensor]:
        """By forward, what the experts of the layer that it has come to answer."""
        layers: dict[int, list[int]] = {}
        for place, one in asked.items():
            layers.setdefault(one.layer, []).append(place)
        answers: dict[int, Tensor] = {}
        for layer, places in layers.items():
            these = [asked[place] for place in places]
            found = self.experts(
                layer,
                torch.cat([one.hidden for one in these]),
                torch.cat([one.index for one in these]),
                torch.cat([one.weights for one in these]),
                StepContext(
                    np.concatenate([one.context.owner for one in these]),
                    np.concatenate([one.context.position for one in these]),
                ),
            )
            parts = torch.split(found, [len(one.hidden) for one in these])
            answers.update(zip(places, parts, strict=True))
        return answers


def _ask(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    seam, layer = vars(self)["_rios"]
    if len(hidden_states) != len(seam.context.owner):
        raise UnsupportedCheckpoint(
            f"{type(self).__name__} is given {len(hidden_states)} rows for {len(seam.context.owner)} tokens"
        )
    answer: Tensor = seam.ask(layer, hidden_states, top_k_index, top_k_weights)
    return answer


ALL_EXPERTS_FUNCTIONS.register("rios", _ask)
