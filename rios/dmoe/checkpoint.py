"""A checkpoint directory to its manifest, by headers only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rios.dmoe.architecture import KeyMap, Place, build, experts_modules, top_k_of
from rios.dmoe.manifest import Manifest, MoeLayer, TensorRange
from rios.dmoe.quantized import check_scales, dequantizer
from rios.dmoe.safetensors import read_header
from rios.dmoe.source import check_name
from rios.words.errors import CheckpointCorrupt, UnsupportedCheckpoint

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""The dtypes that experts may have on disk, and their names in torch."""

_JSON_BYTES_MAX = 200_000_000  # the index of the largest release so far has 9 MB


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of the checkpoint directory at `path`, from its config.json, index and headers alone.

    Raises UnsupportedCheckpoint for what is not served, with the architecture and the reason, and
    CheckpointCorrupt for what is damaged, with the file and the reason.
    """
    root = Path(path)
    config = _read_json(root / "config.json")
    model = build(config, dtype=torch.float32)
    files, tensors = _headers(root)
    quantizer = dequantizer(config)
    dtypes = {*TORCH_NAMES, "U8"} if quantizer else {*TORCH_NAMES}
    places = KeyMap(model, quantizer).locate(tensors)  # without those the model lacks: extra heads
    modules = experts_modules(model)
    owned: dict[str, list[tuple[TensorRange, Place]]] = {name: [] for name, _ in modules}
    trunk = []
    for key, place in places.items():
        owner = place.parameter.rpartition(".")[0]
        if owner in owned:
            owned[owner].append((tensors[key], place))
        else:
            trunk.append(tensors[key])
    return Manifest(
        model_type=config["model_type"],
        class_name=type(model).__name__,
        config=config,
        dtype=_dtype(tensors[key] for key in places),
        hidden_size=model.config.hidden_size,
        vocab_size=model.config.vocab_size,
        context_length=_context_length(model.config),
        layers=tuple(
            MoeLayer(
                index=index,
                module=name,
                num_experts=_num_experts(module),
                top_k=top_k_of(model, name),
                experts=_experts(name, module, owned[name], dtypes),
            )
            for index, (name, module) in enumerate(modules)
        ),
        trunk=tuple(sorted(trunk, key=_position)),
        files={name: files[name] for name in sorted({tensors[key].file for key in places})},
    )


def _headers(root: Path) -> tuple[dict[str, int], dict[str, TensorRange]]:
    """Sizes of the checkpoint's files, and its tensors by name."""
    single = root / "model.safetensors"
    index = root / "model.safetensors.index.json"
    if single.exists():
        size, found = read_header(single)
        return {single.name: size}, {tensor.key: tensor for tensor in found}
    if not index.exists():
        raise UnsupportedCheckpoint(f"{root}: it holds neither {single.name} nor {index.name}; save it as safetensors")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointCorrupt(f"{index.name}: it has no weight_map from tensors to files")
    files, tensors = {}, {}
    for name in sorted(set(weight_map.values())):
        check_name(name, index.name)
        files[name], found = read_header(root / name)
        # The index decides where two files hold a tensor of one name.
        tensors.update({t.key: t for t in found if weight_map.get(t.key, name) == name})
    for key, name in weight_map.items():
        if key not in tensors:
            raise CheckpointCorrupt(f"{name}: {key} is not in it, {index.name} says it is")
    return files, tensors


def _num_experts(module: nn.Module) -> int:
    return len(next(module.parameters()))


def _experts(
    name: str, module: nn.Module, owned: list[tuple[TensorRange, Place]], dtypes: set[str]
) -> tuple[tuple[TensorRange, ...], ...]:
    """The ranges of each expert of the module `name`; checks that each has all its values, once."""
    count = _num_experts(module)
    parts: list[list[TensorRange]] = [[] for _ in range(count)]
    for whole, place in owned:
        if whole.dtype not in dtypes:
            raise UnsupportedCheckpoint(f"{whole.file}: {whole.key} has dtype {whole.dtype}, not {sorted(dtypes)}")
        for expert, part in _split(name, count, whole, place):
            parts[expert].append(part)
    needed = sum(parameter.numel() for parameter in module.parameters()) // count
    for expert, mine in enumerate(parts):
        check_scales(mine)
        have = sum(part.values for part in mine)
        if have != needed:
            held = ", ".join(part.key for part in mine) or "none"
            raise CheckpointCorrupt(
                f"{name}: expert {expert} needs {needed} values, the files hold {have}; its tensors there: {held}"
            )
    return tuple(tuple(sorted(mine, key=_position)) for mine in parts)


def _split(name: str, count: int, whole: TensorRange, place: Place) -> list[tuple[int, TensorRange]]:
    """The experts that have a part in a tensor on disk."""
    if place.expert is not None:
        if place.expert >= count:
            raise CheckpointCorrupt(f"{whole.file}: {whole.key} is of expert {place.expert}, {name} has {count}")
        return [(place.expert, whole)]
    if not whole.shape or whole.shape[0] != count:
        raise CheckpointCorrupt(f"{whole.file}: {whole.key} has shape {whole.shape}, {name} has {count} experts")
    row_bytes = whole.nbytes // count
    starts = range(whole.start, whole.stop, row_bytes)
    shape = (1, *whole.shape[1:])
    return [
        (row, replace(whole, start=start, stop=start + row_bytes, shape=shape, row=row))
        for row, start in enumerate(starts)
    ]


def _dtype(tensors: Iterable[TensorRange]) -> str:
    """The torch name of the floating dtype that most bytes have."""
    totals: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.dtype in TORCH_NAMES:
            totals[tensor.dtype] += tensor.nbytes
    return TORCH_NAMES[totals.most_common(1)[0][0]]


def _context_length(config: Any) -> int:
    for name in ("max_position_embeddings", "model_max_length"):
        if isinstance(length := getattr(config, name, None), int) and length > 0:
            return length
    raise UnsupportedCheckpoint(f"{config.model_type}: config.json gives no max_position_embeddings")


def _position(part: TensorRange) -> tuple[str, int]:
    return part.file, part.start


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _JSON_BYTES_MAX:
            raise CheckpointCorrupt(f"{path.name}: it has more than {_JSON_BYTES_MAX} bytes")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointCorrupt(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{path.name}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointCorrupt(f"{path.name}: not a JSON object")
    return found
