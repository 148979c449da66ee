"""The bytes of one expert become its parameters, by transformers' own conversion of the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import WeightConverter

from rios.dmoe.architecture import KeyMap, Place, build
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.quantized import dequantizer
from rios.words.errors import CheckpointCorrupt

_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "U8": torch.uint8}


class ExpertConverter:
    """Converts one expert at a time, so that no more than one is ever held twice.

    The model is on `meta` and each of its experts modules is cut down to one expert: a conversion may look at
    the shapes of the model it converts for. Not thread safe.
    """

    def __init__(self, manifest: Manifest, *, dtype: torch.dtype) -> None:
        self._layers = manifest.layers
        self._model = build(manifest.config, dtype=dtype)
        for layer in manifest.layers:
            module = self.module(layer.index)
            for name, parameter in list(module.named_parameters()):
                one = torch.empty((1, *parameter.shape[1:]), dtype=parameter.dtype, device="meta")
                setattr(module, name, nn.Parameter(one, requires_grad=False))
        self._keys = KeyMap(self._model, dequantizer(manifest.config))
        self._places: dict[int, dict[str, Place]] = {}

    def module(self, layer: int) -> nn.Module:
        """The experts module of `layer`, on `meta`, with room for one expert."""
        return self._model.get_submodule(self._layers[layer].module)

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of one expert, without the dimension over experts."""
        return {name: tuple(parameter.shape[1:]) for name, parameter in self.module(layer).named_parameters()}

    def convert(self, layer: int, ranges: Sequence[TensorRange], buffers: Sequence[bytearray]) -> dict[str, Tensor]:
        """Parameters of the expert whose tensors these are, by their names in the module, in the dtype on
        disk.

        Raises CheckpointCorrupt where the bytes do not make an expert of this architecture.
        """
        module = self._layers[layer].module
        places = self._locate(layer)
        made: dict[str, Tensor] = {}
        pending: dict[str, WeightConverter] = {}
        for part, buffer in zip(ranges, buffers, strict=True):
            tensor = torch.frombuffer(buffer, dtype=_TORCH[part.dtype]).reshape(part.shape)
            place = places[part.key]
            if place.pattern is None:
                made[place.parameter] = tensor
                continue
            if place.parameter not in pending:
                pending[place.parameter] = copy.deepcopy(self._keys.converter(place.pattern))
            collect: Any = pending[place.parameter].add_tensor  # typed for futures, takes tensors as well
            collect(place.parameter, part.key, place.pattern, tensor)
        for parameter, converter in pending.items():
            try:
                made |= converter.convert(parameter, model=self._model, config=self._model.config)
            except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointCorrupt(f"{parameter}: its tensors cannot be converted: {error}") from error
        found = {name.removeprefix(f"{module}."): _single(tensor) for name, tensor in made.items()}
        shapes = self.shapes(layer)
        if {name: tuple(tensor.shape[1:]) for name, tensor in found.items()} != shapes:
            got = {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}
            raise CheckpointCorrupt(f"{module}: an expert needs {shapes}, the files make {got}")
        return {name: tensor[0] for name, tensor in found.items()}

    def _locate(self, layer: int) -> dict[str, Place]:
        if layer not in self._places:
            keys = {part.key for parts in self._layers[layer].experts for part in parts}
            self._places[layer] = self._keys.locate(keys)
        return self._places[layer]


def _single(value: Tensor | list[Tensor]) -> Tensor:
    return value[0] if isinstance(value, list) else value
