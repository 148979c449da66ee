"""The answers of many hosts as one layer's output, in the model's own order: who computed what does not show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rios.dmoe.tensors import indices


class Combiner:
    """Collects rows of slots (or partial sums) and combines them as transformers' grouped experts do."""

    def __init__(self, hidden: torch.Tensor, weights: torch.Tensor, top_k: int, *, partial: bool, zero: bool) -> None:
        self.hidden = hidden
        self.weights = weights
        self.top_k = top_k
        self.partial = partial
        tokens, width = hidden.shape
        if partial:
            self.total = torch.zeros((tokens, width), dtype=torch.float32, device=hidden.device)
        elif zero:
            self.slots = hidden.new_zeros((tokens * top_k, width))
        else:
            self.slots = hidden.new_empty((tokens * top_k, width))

    def flat_weights(self, slots: npt.NDArray[np.int64]) -> torch.Tensor:
        """The routing weights of some slots, float32."""
        return self.weights.reshape(-1)[indices(slots, self.weights)].float()

    def put(self, slots: npt.NDArray[np.int64], sent: npt.NDArray[np.int64], rows: torch.Tensor) -> None:
        """Take one answer: a row for each of `slots`, or in partial mode a sum for each token of `sent`."""
        if self.partial:
            self.total.index_add_(0, indices(sent, self.total), rows.to(self.hidden.device).float())
        else:
            self.slots.index_copy_(0, indices(slots, self.slots), rows.to(self.hidden))

    def result(self) -> torch.Tensor:
        """[tokens, hidden] in the dtype of the hidden states."""
        if self.partial:
            return self.total.to(self.hidden.dtype)
        tokens, width = self.hidden.shape
        weighted = self.slots.view(tokens, self.top_k, width) * self.weights.unsqueeze(-1)
        return weighted.sum(dim=1).to(self.hidden.dtype)
