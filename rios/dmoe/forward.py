"""One forward of the trunk: token lists in, last logits out, with each row of hidden states traced to its request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from rios.dmoe.architecture import experts_modules
from rios.dmoe.kv import Plan, Pool, Slot
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


class Seam:
    """Where the model's experts modules find who computes for them, and for which step."""

    __slots__ = ("context", "experts")

    def __init__(self, experts: ExpertsFn) -> None:
        self.experts = experts
        self.context = StepContext(np.empty(0, np.int32), np.empty(0, np.int32))

    def attach(self, model: PreTrainedModel, layers: dict[str, int]) -> None:
        """Let every experts module of `model` ask this seam; `layers` maps their names to `MoeLayer.index`."""
        for name, module in experts_modules(model):
            vars(module)["_rios"] = self, layers[name]
        for flag in ("output_router_logits", "output_attentions", "output_hidden_states"):
            if getattr(model.config, flag, False):  # nobody reads them, and some ask for a mask of two dimensions
                setattr(model.config, flag, False)
        model.set_experts_implementation("rios")


def _ask(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    seam, layer = vars(self)["_rios"]
    if len(hidden_states) != len(seam.context.owner):
        raise UnsupportedCheckpoint(
            f"{type(self).__name__} is given {len(hidden_states)} rows for {len(seam.context.owner)} tokens"
        )
    answer: Tensor = seam.experts(layer, hidden_states, top_k_index, top_k_weights, seam.context)
    return answer


ALL_EXPERTS_FUNCTIONS.register("rios", _ask)


class Forward:
    """Runs `model`, whose experts ask `seam`. Holds no request: those are in `Slot`s and the `Pool`."""

    def __init__(self, model: PreTrainedModel, seam: Seam, device: torch.device) -> None:
        self.model = model
        self.seam = seam
        self._device = device
        self._bool_mask = model.config.get_text_config()._attn_implementation == "sdpa"
        self._counting = torch.arange(1024, device=device)

    def alone(self, slot: Slot, tokens: Sequence[int], owner: int) -> Tensor:
        """Logits [vocab] after `tokens` of a request with its own cache."""
        stop = slot.length + len(tokens)
        position = self._count(stop)[slot.length :]
        self.seam.context = StepContext(
            np.full(len(tokens), owner, np.int32), np.arange(slot.length, stop, dtype=np.int32)
        )
        logits, slot.cache = self._run(torch.tensor([list(tokens)]), None, position[None], slot.cache, 1)
        slot.length = stop
        return logits[0]

    def padded(
        self, pool: Pool, slots: Sequence[Slot], tokens: Sequence[Sequence[int]], owners: Sequence[int]
    ) -> Tensor:
        """Logits [len(slots), vocab] after the last of each request's `tokens`. `length`s stay as they are."""
        plan = pool.plan(slots, [len(part) for part in tokens])
        starts = np.array([slots[i].length for i in plan.order], np.int32)
        columns = np.arange(plan.width, dtype=np.int32)
        positions = starts[:, None] + columns
        owner = np.repeat(np.array([owners[i] for i in plan.order], np.int32), plan.width)
        keep: int | Tensor = 1
        if plan.full:
            ids = torch.tensor([list(tokens[i]) for i in plan.order])
            lasts = None
        else:
            counts = np.array([len(tokens[i]) for i in plan.order])
            lasts = starts + counts - 1
            padding = columns >= counts[:, None]
            owner[padding.ravel()] = -1
            filled = np.zeros(padding.shape, np.int64)
            filled[~padding] = np.concatenate([np.asarray(tokens[i]) for i in plan.order])
            ids = torch.from_numpy(filled)
            keep = torch.from_numpy(counts[:, None] - 1).to(self._device)
        self.seam.context = StepContext(owner, positions.ravel())
        mask, position = self._attention(plan, positions, lasts)
        logits, _ = self._run(ids, mask, position, pool, keep)
        if plan.order == list(range(len(slots))):
            return logits
        return logits[torch.from_numpy(np.argsort(plan.order)).to(self._device)]

    def _attention(self, plan: Plan, positions: np.ndarray, lasts: np.ndarray | None) -> tuple[Tensor | None, Tensor]:
        """The mask, or None where transformers' own causal one is exact; and position_ids [rows, width]."""
        counting = self._count(plan.stop)
        if plan.aligned:  # spares the mask, and the slower kernels that take one
            return None, counting[plan.start : plan.stop].expand(len(positions), -1)
        if lasts is not None:  # padding repeats the last position: no table of positions ends before it
            positions = np.minimum(positions, lasts[:, None])
        position = torch.from_numpy(positions).to(self._device, torch.int64)
        seen = counting <= position[:, None, :, None]
        if self._bool_mask:
            return seen, position
        dtype = self.model.dtype
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=self._device)
        return torch.where(seen, torch.zeros_like(hidden), hidden), position

    def _run(
        self, ids: Tensor, mask: Tensor | None, position: Tensor, cache: Cache | None, keep: int | Tensor
    ) -> tuple[Tensor, Cache]:
        output = self.model(
            input_ids=ids.to(self._device),
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits[:, -1].float(), output.past_key_values

    def _count(self, stop: int) -> Tensor:
        """0, 1, 2 ... `stop` - 1, int64, from one tensor that only ever grows."""
        if stop > self._counting.shape[0]:
            self._counting = torch.arange(stop * 2, device=self._device)
        return self._counting[:stop]
