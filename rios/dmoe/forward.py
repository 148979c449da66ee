"""One forward of the trunk: token lists in, last logits out, with each row of hidden states traced to its request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from rios.dmoe.kv import Plan, Pool, Slot
from rios.dmoe.seam import Seam, StepContext


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
        self, pool: Pool, plan: Plan, slots: Sequence[Slot], tokens: Sequence[Sequence[int]], owners: Sequence[int]
    ) -> Tensor:
        """Logits [len(slots), vocab] after the last of each request's `tokens`. `length`s stay as they are.

        plan: the pool's, for these slots and as many tokens.
        """
        pool.use(plan)
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
