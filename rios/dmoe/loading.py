"""The weights of a trunk, through transformers' own loading: renamed, converted, cast, tied and checked by it, while
the experts' parameters stay on `meta` and take no memory."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from rios.dmoe.architecture import experts_modules
from rios.dmoe.device import return_freed
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.source import ByteSource, shard_sha256
from rios.words.errors import CheckpointCorrupt, ShardMismatch

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(
    model: PreTrainedModel,
    manifest: Manifest,
    source: ByteSource,
    *,
    dtype: torch.dtype,
    device: torch.device,
    pinned: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Give `model`, built on `meta`, every weight that is not an expert's. Returns each one's SHA-256, by its name on
    disk, over the bytes that were read there: once.

    Buffers that no checkpoint holds (rotary frequencies) are computed, embeddings tied, parameters that the
    architecture keeps in float32 kept. Raises CheckpointCorrupt for a tensor that is missing or of another shape:
    transformers would start it at random, with a warning. `pinned` holds the hashes that some of them must have:
    ShardMismatch where one differs.
    """
    reader = _Reader(source, pinned)
    state = {part.key: _Lazy(reader, part) for part in manifest.trunk}
    config = LoadStateDictConfig(
        device_map={"": device},
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
        weight_mapping=list(get_model_conversion_mapping(model)),  # type: ignore[arg-type]
    )
    with _silent():
        info, _ = convert_and_load_state_dict_in_model(model, state, config)
        reader.check()
        info.missing_keys = _without_experts(model, info.missing_keys)
        wrong = [f"{name}: {reason}" for name, reason in info.conversion_errors.items()]
        wrong += [f"{name} is {tuple(found)}, not {tuple(due)}" for name, found, due in info.mismatched_keys]
        if wrong:
            raise CheckpointCorrupt(f"{manifest.model_type}: {'; '.join(wrong)}")
        model._finalize_model_loading(model, config, info)
    return_freed()
    if info.missing_keys:
        raise CheckpointCorrupt(f"{manifest.model_type}: no tensor for {', '.join(sorted(info.missing_keys))}")
    return reader.hashes


class _Reader:
    """Reads for transformers' loading threads, which would turn an error into a line of a report: so it keeps it."""

    def __init__(self, source: ByteSource, pinned: Mapping[str, str]) -> None:
        self.hashes: dict[str, str] = {}
        self._pinned = pinned
        self._source = source
        self._lock = threading.Lock()  # a ByteSource need not be thread-safe
        self._error: BaseException | None = None

    def read(self, part: TensorRange) -> Tensor:
        try:
            with self._lock:
                (buffer,) = self._source.read([part])
            self._check_hash(part, shard_sha256([buffer]))
        except BaseException as error:
            self._error = error
            raise
        flat = (
            torch.frombuffer(buffer, dtype=_DTYPES[part.dtype]) if buffer else torch.empty(0, dtype=_DTYPES[part.dtype])
        )
        # A copy, as torch aligns to 64 bytes: matmuls over unaligned weights are slower and may round differently.
        return flat.clone().view(part.shape)

    def _check_hash(self, part: TensorRange, found: str) -> None:
        expected = self._pinned.get(part.key, found)
        if found != expected:
            raise ShardMismatch(
                f"{part.file}: {part.key} has SHA-256 {found}, its first read had {expected}: the file was changed"
            )
        self.hashes[part.key] = found

    def check(self) -> None:
        if self._error is not None:
            raise self._error


class _Lazy:
    """A tensor that is read when transformers slices it with `...`, as it does with those of safetensors."""

    def __init__(self, reader: _Reader, part: TensorRange) -> None:
        self._reader = reader
        self._part = part

    def __getitem__(self, key: object) -> Tensor:
        assert key is Ellipsis
        return self._reader.read(self._part)


def _without_experts(model: PreTrainedModel, missing: set[str]) -> set[str]:
    """`missing` less the experts' parameters, which are marked so that nothing allocates or initialises them."""
    prefixes = []
    for name, module in experts_modules(model):
        prefixes.append(f"{name}.")
        for part in module.modules():
            vars(part)["_is_hf_initialized"] = True
        for parameter in module.parameters():
            vars(parameter)["_is_hf_initialized"] = True
    return {key for key in missing if not key.startswith(tuple(prefixes))}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' progress bars and reports: what they say is raised as an error or meant for trainers."""
    bars, verbosity = transformers.logging.is_progress_bar_enabled(), transformers.logging.get_verbosity()
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
