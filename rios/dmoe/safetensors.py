"""The header of a safetensors file, taken on trust for nothing.

Format: 8 bytes, the little-endian length of the header; the header, JSON; the data, without holes or
overlaps. Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

from rios.dmoe.manifest import TensorRange
from rios.words.errors import CheckpointCorrupt, UnsupportedCheckpoint

HEADER_BYTES_MAX = 100_000_000  # the bound of the safetensors library

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def read_header(path: Path) -> tuple[int, list[TensorRange]]:
    """The size of the file in bytes and its tensors in the order of their bytes.

    Raises CheckpointCorrupt, with the file and the reason, unless the tensors cover the data exactly once.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_BYTES_MAX):
                _corrupt(path, f"its header claims {length} bytes, the file has {size}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointCorrupt(f"{path.name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{path.name}: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        _corrupt(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    data = 8 + length
    tensors = sorted(
        (_tensor(path, key, entry, data) for key, entry in header.items()), key=lambda t: (t.start, t.stop)
    )
    end = data
    for tensor in tensors:
        if tensor.start != end:
            _corrupt(path, f"{tensor.key} begins at byte {tensor.start}, the tensor before it ends at {end}")
        end = tensor.stop
    if end != size:
        _corrupt(path, f"its tensors end at byte {end}, the file has {size}: it is truncated or has a tail")
    return size, tensors


def _tensor(path: Path, key: str, entry: Any, data: int) -> TensorRange:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if not all(type(extent) is int and extent >= 0 for extent in shape) or not 0 <= begin <= end:
                _corrupt(path, f"{key} has shape {shape} and offsets {begin}, {end}")
        case _:
            _corrupt(path, f"{key} is described by {str(entry)[:200]}")
    if dtype not in _ITEM_BYTES:
        raise UnsupportedCheckpoint(f"{path.name}: {key} has dtype {dtype}, which is not served")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        _corrupt(path, f"{key} is {dtype} of shape {shape} but has {end - begin} bytes")
    return TensorRange(path.name, key, data + begin, data + end, dtype, tuple(shape))


def _corrupt(path: Path, reason: str) -> NoReturn:
    raise CheckpointCorrupt(f"{path.name}: {reason}")
