"""Tensors as raw bytes and back, without a copy where there need not be one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rios.words.errors import ProtocolError

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
DTYPES = {code: dtype for dtype, code in CODES.items()}
NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, row-major; a view for a contiguous CPU tensor."""
    if tensor.device.type != "cpu" or tensor.requires_grad or not tensor.is_contiguous():
        tensor = tensor.detach().cpu().contiguous()
    # Of an array a view costs a fraction of what it costs of a tensor, and numpy has no bfloat16.
    array = (tensor if tensor.dtype is torch.float32 else tensor.view(torch.int16)).numpy()
    return array.reshape(-1).view(np.uint8).data


def from_bytes(data: memoryview, code: int, rows: int, width: int) -> torch.Tensor:
    """A [rows, width] tensor over `data`, or `ProtocolError` when the length or the dtype code does not fit."""
    dtype = DTYPES.get(code)
    if dtype is None:
        raise ProtocolError(f"unknown dtype code {code}")
    wanted = rows * width * dtype.itemsize
    if len(data) != wanted:
        raise ProtocolError(f"{rows} x {width} rows of {dtype} are {wanted} bytes, the frame has {len(data)}")
    if not wanted:
        return torch.empty((rows, width), dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(rows, width)


def indices(places: npt.NDArray[np.int64], like: torch.Tensor) -> torch.Tensor:
    """An index where the indexed tensor is: those of the CPU do not index a tensor of a GPU in place."""
    found = torch.from_numpy(places)
    return found if like.device.type == "cpu" else found.to(like.device)
