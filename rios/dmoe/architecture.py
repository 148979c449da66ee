"""A transformers configuration becomes a model on `meta`: its experts are found and its disk names mapped."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.quantizers.base import HfQuantizer

from rios.dmoe.quantized import dequantizer
from rios.words.errors import CheckpointCorrupt, UnsupportedCheckpoint

_HOOK = "_is_expert_parallel"  # what `use_experts_implementation` puts on an experts module

# What configurations and models of transformers raise for values that they cannot use.
_REJECTIONS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def build(config: dict[str, Any], *, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model that `config`, the JSON of config.json, describes: all tensors on `meta`.

    Raises UnsupportedCheckpoint, with the architecture and the reason, and CheckpointCorrupt where the
    configuration contradicts itself.
    """
    config_class = _config_class(config)
    model_type = config["model_type"]
    dequantizer(config)  # refuses what could not be loaded
    with _quiet():
        try:
            plain = {name: value for name, value in config.items() if name != "quantization_config"}
            parsed = config_class.from_dict(PreTrainedConfig._decode_special_floats(plain))
            if type(parsed) not in MODEL_FOR_CAUSAL_LM_MAPPING:
                raise UnsupportedCheckpoint(f"{model_type}: transformers has no causal language model for it")
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(parsed)]
            text_class = parsed.sub_configs.get("text_config")
            if text_class is not None and model_class.config_class is text_class:
                parsed = parsed.get_text_config()
            with torch.device("meta"):
                model: PreTrainedModel = model_class._from_config(parsed, dtype=dtype).eval()
        except _REJECTIONS as error:
            raise CheckpointCorrupt(f"config.json: no {model_type} can be built from it: {error}") from error
    _check_hook(model, model_type)
    return model


def experts_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The experts modules of `model` with their qualified names, in layer order."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, _HOOK)]


def top_k_of(model: PreTrainedModel, name: str) -> int:
    """How many experts a token takes in the experts module `name`: its router or the configuration says."""
    parent = model.get_submodule(name.rpartition(".")[0])
    for holder in (*parent.children(), model.config):
        for attribute in ("top_k", "num_experts_per_tok", "top_k_experts"):
            if isinstance(top_k := getattr(holder, attribute, None), int) and top_k > 0:
                return top_k
    raise UnsupportedCheckpoint(f"{model.config.model_type}: nothing says how many experts a token of {name} takes")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor on disk goes in the model."""

    parameter: str
    """Name in the model's state dict; the first one, where the tensor is split over several."""
    pattern: str | None
    """The source pattern of the converter it goes through; None: it is only renamed."""
    expert: int | None
    """The expert whose tensor it is; None: not one of a list with one tensor per expert."""


class KeyMap:
    """Names on disk to parameters of a model, by transformers' own conversion mapping.

    `quantizer` is `dequantizer(config)`: quantised tensors have names of their own.
    """

    def __init__(self, model: PreTrainedModel, quantizer: HfQuantizer | None = None) -> None:
        mapping = get_model_conversion_mapping(model, hf_quantizer=quantizer)
        self._prefix = model.base_model_prefix
        self._state = model.state_dict()
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._by_pattern = {p: converter for converter in self._converters for p in converter.source_patterns}

    def converter(self, pattern: str) -> WeightConverter:
        """The converter that has `pattern` among its sources. Shared: copy it before collecting tensors."""
        return self._by_pattern[pattern]

    def locate(self, keys: Iterable[str]) -> dict[str, Place]:
        """The place of each key. Keys that the model has no parameter for are left out.

        The keys are taken in transformers' order, for some of its renamings depend on the ones before.
        """
        places = {}
        for key in sorted(keys, key=dot_natural_key):
            place = self._locate(key)
            if place is not None:
                places[key] = place
        return places

    def _locate(self, key: str) -> Place | None:
        name, pattern = rename_source_key(key, self._renamings, self._converters, self._prefix, self._state)
        if name not in self._state and key in self._state:  # a name that should not have been changed
            name, pattern = rename_source_key(key, [], [], self._prefix, self._state)
        if name not in self._state:
            return None
        return Place(name, pattern, None if pattern is None else self._expert(key, pattern))

    def _expert(self, key: str, pattern: str) -> int | None:
        operations = self._by_pattern[pattern].operations
        if "*." not in pattern or not any(isinstance(operation, MergeModulelist) for operation in operations):
            return None
        found = re.search(pattern.replace("*.", r"(?P<expert>\d+)\."), apply_renamings(key, self._renamings))
        return None if found is None else int(found["expert"])


def _config_class(config: dict[str, Any]) -> type[PreTrainedConfig]:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointCorrupt("config.json: it names no model_type")
    if model_type not in CONFIG_MAPPING:
        reason = (
            "it brings its own code (auto_map), which is never run"
            if "auto_map" in config
            else f"transformers {transformers.__version__} does not know it"
        )
        raise UnsupportedCheckpoint(f"{model_type}: {reason}")
    found: type[PreTrainedConfig] = CONFIG_MAPPING[model_type]
    return found


def _check_hook(model: PreTrainedModel, model_type: str) -> None:
    modules = experts_modules(model)
    if not modules:
        raise UnsupportedCheckpoint(
            f"{model_type}: {type(model).__name__} has no experts that transformers lets others compute"
            " (no use_experts_implementation in its modeling file, or no such layer in its configuration)"
        )
    for name, module in modules:
        # Only a model for images and text has it in transformers 5.23, and no causal language model.
        if module.has_post_expert_norm:
            raise UnsupportedCheckpoint(f"{model_type}: {name} normalises after each expert, which is not served")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice on configurations: it is meant for who trains a model."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
