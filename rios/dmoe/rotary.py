"""Rotary frequencies that depend on the longest request of a batch, so that a long one would change its neighbours.

Two of transformers' rope types do (modeling_rope_utils.py): "longrope" takes other frequencies above the length that
the model was first trained at, "dynamic" computes them from the length and remembers the longest so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def shared_length(model: nn.Module) -> int | None:
    """The longest sequence that may share a batch; None where the frequencies are the same for any length."""
    limits = []
    for module, layer_type, kind in _varying(model):
        limit = int(module.original_max_seq_len) - 1  # at this length itself, "dynamic" keeps what it remembers
        if kind == "longrope":
            parameters = module.config.rope_parameters
            of_layer = parameters if layer_type is None else parameters[layer_type]
            limit = int(of_layer["original_max_position_embeddings"])
        limits.append(limit)
    return min(limits, default=None)


def forget(model: nn.Module) -> None:
    """Let the next forward compute its frequencies as if it were the model's first."""
    for module, layer_type, kind in _varying(model):
        if kind != "longrope":
            prefix = "" if layer_type is None else f"{layer_type}_"
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
            setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))


def _varying(model: nn.Module) -> Iterator[tuple[Any, str | None, str]]:
    """Rotary modules whose frequencies vary, with the layer type where they have several, and the rope type."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is None:
            continue
        for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind):
                yield module, layer_type, kind
