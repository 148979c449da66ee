"""What a checkpoint consists of: its mixture-of-experts layers, and which bytes of which file are whose."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TensorRange:
    """The bytes of one tensor, or of one expert's row of a tensor that holds all experts."""

    file: str
    """File name relative to the checkpoint's directory."""
    key: str
    """Name of the tensor on disk."""
    start: int
    stop: int
    """Absolute byte offsets in the file."""
    dtype: str
    """The name safetensors gives it: "BF16", "F16", "F32"."""
    shape: tuple[int, ...]
    """Shape of these bytes; one expert's row has leading dimension 1."""
    row: int | None = None
    """The row along dimension 0 where the tensor on disk holds all experts; None: the whole tensor."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.stop - self.start

    @property
    def values(self) -> int:
        """How many weights these bytes make. MXFP4 has two in a byte of its blocks and none in its scales."""
        if self.dtype != "U8":
            return math.prod(self.shape)
        return 2 * math.prod(self.shape) if self.key.endswith("_blocks") else 0


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """One module of experts."""

    index: int
    """0, 1, 2 ... among the mixture-of-experts layers; not the number of the decoder layer."""
    module: str
    """Qualified name of the experts module, such as "model.layers.3.mlp.experts"."""
    num_experts: int
    top_k: int
    experts: tuple[tuple[TensorRange, ...], ...]
    """The ranges of each expert."""

    def expert_bytes(self, expert: int) -> int:
        """Bytes of `expert` on disk."""
        return sum(part.nbytes for part in self.experts[expert])

    def expert_values(self, expert: int) -> int:
        """Weights of `expert`: times the bytes of a host's dtype, what it takes in memory there."""
        return sum(part.values for part in self.experts[expert])


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint by its headers. The trunk is everything of the model that is not an expert."""

    model_type: str
    class_name: str
    config: dict[str, Any]
    """The JSON of config.json."""
    dtype: str
    """The torch name of the dtype of most weights on disk: "bfloat16"."""
    hidden_size: int
    vocab_size: int
    context_length: int
    layers: tuple[MoeLayer, ...]
    trunk: tuple[TensorRange, ...]
    files: dict[str, int]
    """File name to size in bytes."""

    @property
    def trunk_bytes(self) -> int:
        """Bytes on disk of all that are no experts."""
        return sum(part.nbytes for part in self.trunk)

    def expert_bytes(self, layer: int, expert: int) -> int:
        """Bytes of one expert on disk."""
        return self.layers[layer].expert_bytes(expert)

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights that the model has."""
        experts = (layer.expert_bytes(e) for layer in self.layers for e in range(layer.num_experts))
        return self.trunk_bytes + sum(experts)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: two hosts with equal digests speak of the same bytes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON. Ranges are rows of values, for a large model has tens of thousands of them."""
        return json.dumps(
            {
                "format": FORMAT,
                "model_type": self.model_type,
                "class_name": self.class_name,
                "config": self.config,
                "dtype": self.dtype,
                "hidden_size": self.hidden_size,
                "vocab_size": self.vocab_size,
                "context_length": self.context_length,
                "layers": [
                    {
                        "module": layer.module,
                        "top_k": layer.top_k,
                        "experts": [[_row(part) for part in parts] for parts in layer.experts],
                    }
                    for layer in self.layers
                ],
                "trunk": [_row(part) for part in self.trunk],
                "files": self.files,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that `to_json` wrote. Raises ValueError for anything else."""
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise ValueError(f"a manifest of format {FORMAT} is needed")
            raw["layers"] = tuple(
                MoeLayer(
                    index=index,
                    module=layer["module"],
                    num_experts=len(layer["experts"]),
                    top_k=layer["top_k"],
                    experts=tuple(tuple(_range(row) for row in rows) for rows in layer["experts"]),
                )
                for index, layer in enumerate(raw["layers"])
            )
            raw["trunk"] = tuple(_range(row) for row in raw["trunk"])
            return cls(**raw)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error


def _row(part: TensorRange) -> list[Any]:
    return [part.file, part.key, part.start, part.stop, part.dtype, list(part.shape), part.row]


def _range(row: list[Any]) -> TensorRange:
    file, key, start, stop, dtype, shape, index = row
    return TensorRange(file, key, start, stop, dtype, tuple(shape), index)
