"""Quantised experts that are dequantised while they are loaded, by transformers' own quantizer.

MXFP4, the form of gpt-oss: blocks of 32 values of 4 bits, two to a byte, and a power of two for each block.
Source: OCP Microscaling Formats (MX) Specification 1.0, section 5.3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.base import HfQuantizer

from rios.dmoe.manifest import TensorRange
from rios.words.errors import CheckpointCorrupt, UnsupportedCheckpoint

_METHODS = ("mxfp4",)  # only experts are quantised in it; fp8 and others quantise the trunk as well


def dequantizer(config: dict[str, Any]) -> HfQuantizer | None:
    """What dequantises the weights of a checkpoint with this config.json; None: they are not quantised.

    Raises UnsupportedCheckpoint, with the architecture and the method, for a form that is not dequantised.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        quantized = part.get("quantization_config")
        if not quantized:
            continue
        method = quantized.get("quant_method", "unnamed") if isinstance(quantized, dict) else quantized
        if method not in _METHODS:
            raise UnsupportedCheckpoint(
                f"{config.get('model_type')}: weights quantised by {method!r} are not served;"
                " save it in bfloat16, float16 or float32"
            )
        found: HfQuantizer = AutoHfQuantizer.from_config(quantized | {"dequantize": True}, pre_quantized=True)
        return found
    return None


def check_scales(parts: Sequence[TensorRange]) -> None:
    """Raises CheckpointCorrupt where quantised blocks of an expert have no scales that fit."""
    shapes = {part.key: part.shape for part in parts}
    for part in parts:
        if part.dtype == "U8" and part.key.endswith("_blocks"):
            scales = part.key.removesuffix("_blocks") + "_scales"
            if shapes.get(scales) != part.shape[:-1]:
                raise CheckpointCorrupt(f"{part.file}: {part.key} has no {scales} of shape {part.shape[:-1]}")
