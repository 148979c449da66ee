"""One call of experts as bytes: what a trunk asks of a host for one layer, and what the host answers.

EXEC    meta: deployment u32 | layer u16 | groups u16 | rows u32 | slots u32 | width u32 | dtype u8 | mode u8 | 0 u16,
              experts i32[groups], counts i32[groups], slot rows i32[slots]
        body: weights f32[slots] (mode PARTIAL only), rows dtype[rows, width]
RESULT  meta: compute ns u64 | rows u32 | width u32 | dtype u8 | mode u8 | 0 u16
        body: dtype[rows, width]: one unweighted row per slot (SLOTS), or one weighted sum per row sent (PARTIAL)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from rios.dmoe.tensors import CODES, from_bytes, to_bytes
from rios.dmoe.wire import Buffer, Frame
from rios.words.errors import ProtocolError

SLOTS, PARTIAL = 0, 1

_EXEC = struct.Struct("<IHHIIIBBH")
_RESULT = struct.Struct("<QIIBBH")

Ints = npt.NDArray[np.int32]

_ROWS_MAX = (1 << 31) - 1  # of 32 bits without a sign, one below 0 is beyond all of them
_COMPUTE_NS_MAX = 1 << 48  # three days: more is not a measurement, and sums of it would leave 64 bits


class Exec(NamedTuple):
    """A decoded call: group `g` is `counts[g]` consecutive slots of expert `experts[g]`."""

    deployment: int
    layer: int
    mode: int
    dtype_code: int
    experts: list[int]
    counts: list[int]
    slot_rows: torch.Tensor  # int64 [slots]
    weights: torch.Tensor | None  # float32 [slots], PARTIAL only
    hidden: torch.Tensor  # [rows, width]


def encode_exec(
    *,
    deployment: int,
    layer: int,
    experts: Ints,
    counts: Ints,
    slot_rows: Ints,
    hidden: torch.Tensor,
    weights: torch.Tensor | None,
) -> tuple[bytes, list[Buffer]]:
    """Meta and bodies of an EXEC frame. `hidden` has the dtype that goes over the wire."""
    rows, width = hidden.shape
    mode = SLOTS if weights is None else PARTIAL
    head = _EXEC.pack(deployment, layer, len(experts), rows, len(slot_rows), width, CODES[hidden.dtype], mode, 0)
    bodies: list[Buffer] = [] if weights is None else [to_bytes(weights.float())]
    bodies.append(to_bytes(hidden))
    return b"".join((head, experts.tobytes(), counts.tobytes(), slot_rows.tobytes())), bodies


def decode_exec(frame: Frame, *, width: int) -> Exec:
    """Check every number of an EXEC frame against the others and against the model's hidden size `width`."""
    meta = frame.meta
    if len(meta) < _EXEC.size:
        raise ProtocolError(f"EXEC meta of {len(meta)} bytes, at least {_EXEC.size} wanted")
    deployment, layer, groups, rows, slots, got_width, code, mode, _ = _EXEC.unpack_from(meta)
    if got_width != width:
        raise ProtocolError(f"EXEC rows are {got_width} wide, the model's are {width}")
    if mode not in (SLOTS, PARTIAL):
        raise ProtocolError(f"EXEC mode {mode} is unknown")
    if rows > _ROWS_MAX:
        raise ProtocolError(f"EXEC of {rows} rows, the bound is {_ROWS_MAX}")
    if len(meta) != _EXEC.size + 4 * (2 * groups + slots):
        raise ProtocolError(f"EXEC meta of {len(meta)} bytes does not fit {groups} groups and {slots} slots")
    numbers = np.frombuffer(meta, dtype="<i4", offset=_EXEC.size)
    experts, counts = numbers[:groups].tolist(), numbers[groups : 2 * groups].tolist()
    slot_rows = numbers[2 * groups :]
    if groups and (min(counts) < 1 or sum(counts) != slots):
        raise ProtocolError(f"EXEC group sizes do not add up to {slots} slots")
    if slots and (not groups or int(slot_rows.view(np.uint32).max()) >= rows):
        raise ProtocolError(f"EXEC slots point outside the {rows} rows sent")
    body = frame.body
    weights: torch.Tensor | None = None
    if mode == PARTIAL:
        if len(body) < 4 * slots:
            raise ProtocolError(f"EXEC body of {len(body)} bytes has no room for {slots} weights")
        weights = from_bytes(body[: 4 * slots], 0, slots, 1).view(-1)
        body = body[4 * slots :]
    hidden = from_bytes(body, code, rows, width)
    return Exec(
        deployment,
        layer,
        mode,
        code,
        experts,
        counts,
        torch.from_numpy(slot_rows.astype(np.int64)),
        weights,
        hidden,
    )


def encode_result(output: torch.Tensor, *, mode: int, compute_ns: int) -> tuple[bytes, list[Buffer]]:
    """Meta and bodies of a RESULT frame."""
    rows, width = output.shape
    return _RESULT.pack(compute_ns, rows, width, CODES[output.dtype], mode, 0), [to_bytes(output)]


def _result_meta(frame: Frame) -> tuple[int, ...]:
    try:
        numbers: tuple[int, ...] = _RESULT.unpack(frame.meta)
    except struct.error as error:
        raise ProtocolError(f"RESULT meta of {len(frame.meta)} bytes, {_RESULT.size} wanted") from error
    if numbers[0] > _COMPUTE_NS_MAX:
        raise ProtocolError(f"RESULT computed for {numbers[0]} ns, the bound is {_COMPUTE_NS_MAX}")
    return numbers


def computed_ns(frame: Frame) -> int:
    """What a host says that it computed for, of a RESULT frame that is thrown away. Raises `ProtocolError`."""
    return _result_meta(frame)[0]


def decode_result(frame: Frame, *, rows: int, width: int, mode: int) -> tuple[torch.Tensor, int]:
    """The [rows, width] output and the host's compute time in ns; anything else is a `ProtocolError`."""
    compute_ns, got_rows, got_width, code, got_mode, _ = _result_meta(frame)
    if (got_rows, got_width, got_mode) != (rows, width, mode):
        raise ProtocolError(f"RESULT of {got_rows} x {got_width} mode {got_mode}, wanted {rows} x {width} mode {mode}")
    return from_bytes(frame.body, code, rows, width), compute_ns


def weighted_sum(output: torch.Tensor, slot_rows: torch.Tensor, weights: torch.Tensor, rows: int) -> torch.Tensor:
    """PARTIAL: [slots, width] rows times their weights, summed for each row sent, accumulated in float32."""
    total = torch.zeros((rows, output.shape[1]), dtype=torch.float32, device=output.device)
    total.index_add_(0, slot_rows, output.float() * weights.unsqueeze(-1))
    return total.to(output.dtype)
