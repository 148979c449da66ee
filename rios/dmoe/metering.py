"""What accepted replies measured, split over the requests they served.

Rows are counted by the trunk, never taken from a host. A host's compute time and bytes of a batched reply are split
over its requests by rows; the remainder goes to the largest fractions first (Hamilton's method), so parts add up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rios.words.events import UsageEvents

# One request's share of one reply, as it travels from trunk to client.
SHARE = np.dtype(
    [
        ("handle", "<u4"),
        ("step", "<u4"),
        ("layer", "<u2"),
        ("host", "<u2"),
        ("rows", "<u4"),
        ("compute_ns", "<u8"),
        ("wire_bytes", "<u8"),
    ]
)
RECORD = struct.Struct("<IIHHIQQ")
"""The same, for few of them."""
_EXACT_MAX = 1 << 62
# What a host says of itself is bounded, so that sums stay below 2^63: 13 days in nanoseconds, a petabyte.
_SAID_MAX = 1 << 50


@dataclass(frozen=True, slots=True)
class Reply:
    """One accepted reply: `rows[i]` slots of it belonged to the step's i-th request."""

    layer: int
    host: int
    compute_ns: int
    wire_bytes: int
    rows: npt.NDArray[np.int64] | tuple[int]
    """A tuple where the step was of one request."""


def split(total: int, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Divide `total` in proportion to `weights` (not all zero) into integers that add up to it."""
    whole = int(weights.sum())
    # Python integers where the product could leave 63 bits: a reply of an hour times a million rows.
    if total and whole and total > _EXACT_MAX // max(int(weights.max()), 1):
        products = [total * int(weight) for weight in weights]
        parts = np.array([product // whole for product in products], dtype=np.int64)
        left = np.array([product % whole for product in products], dtype=np.int64)
    else:
        parts, left = np.divmod(total * weights, whole)
    missing = total - int(parts.sum())
    if missing:
        parts[np.argsort(-left, kind="stable")[:missing]] += 1
    return parts


def packed(replies: Sequence[Reply], handle: int, step: int) -> bytes:
    """The SHARE records of a step of one request: of a dozen records, in a third of the time that `shares` takes."""
    return b"".join(
        [
            RECORD.pack(handle, step, reply.layer, reply.host, count, reply.compute_ns, reply.wire_bytes)
            for reply in replies
            if (count := int(reply.rows[0]))
        ]
    )


def shares(
    replies: list[Reply], handles: npt.NDArray[np.uint32], steps: npt.NDArray[np.uint32]
) -> npt.NDArray[np.void]:
    """The SHARE records of one step, by request: a record for each reply with rows of it."""
    replies = [reply for reply in replies if np.any(reply.rows)]
    if not replies:
        return np.zeros(0, dtype=SHARE)
    rows = np.array([reply.rows for reply in replies], dtype=np.int64)
    place, which = np.nonzero(rows.T)
    out = np.zeros(len(which), dtype=SHARE)
    out["handle"], out["step"] = handles[place], steps[place]
    out["rows"] = rows[which, place]
    for name in ("layer", "host"):
        out[name] = np.array([getattr(reply, name) for reply in replies])[which]
    for name in ("compute_ns", "wire_bytes"):
        out[name] = _split_each([getattr(reply, name) for reply in replies], rows)[which, place]
    return out


def _split_each(totals: list[int], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """As `split`, for each row of `weights` at once: one by one it was a hundredth of the time of a batch of eight."""
    if max(totals) > _EXACT_MAX // int(weights.max()):
        return np.array([split(total, row) for total, row in zip(totals, weights, strict=True)])
    whole, wanted = weights.sum(axis=1, keepdims=True), np.array(totals, dtype=np.int64)[:, None]
    parts, left = np.divmod(wanted * weights, whole)
    missing = wanted - parts.sum(axis=1, keepdims=True)
    # Place of each in the order of the fractions, largest first: the first `missing` of a row get one more.
    order = np.argsort(-left, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(weights.shape[1])[None], axis=1)
    return np.asarray(parts + (rank < missing))


def events(request_id: str, model: str, found: Sequence[tuple[Sequence[str], npt.NDArray[np.void]]]) -> UsageEvents:
    """The usage events of one request.

    found: what came for it, as (names of hosts, SHARE records whose `host` is a place among them). What one host
    measured for one layer of one step in several calls is added up.
    """
    by_names: dict[tuple[str, ...], list[npt.NDArray[np.void]]] = {}
    for names, records in found:  # one step each, and the same names until the trunk changes
        by_names.setdefault(tuple(names), []).append(records)
    # Joined as bytes: numpy looks at the type of each array anew.
    parts = [
        (names, np.frombuffer(b"".join(records.tobytes() for records in several), dtype=SHARE))
        for names, several in by_names.items()
    ]
    hosts = sorted({names[place] for names, records in parts for place in set(records["host"].tolist())})
    place = {name: index for index, name in enumerate(hosts)}
    cells = np.empty((sum(len(records) for _, records in parts), 6), dtype="<i8")
    start = 0
    for names, records in parts:
        part = cells[start : start + len(records)]
        part[:, 0], part[:, 1], part[:, 3] = records["step"], records["layer"], records["rows"]
        part[:, 2] = np.array([place.get(name, -1) for name in names], dtype=np.int64)[records["host"]]
        part[:, 4] = np.minimum(records["compute_ns"], _SAID_MAX)
        part[:, 5] = np.minimum(records["wire_bytes"], _SAID_MAX)
        start += len(records)
    if len(cells):
        cells = cells[np.lexsort((cells[:, 2], cells[:, 1], cells[:, 0]))]
        first = np.ones(len(cells), dtype=bool)
        first[1:] = (cells[1:, :3] != cells[:-1, :3]).any(axis=1)
        if not first.all():
            sums = np.add.reduceat(cells[:, 3:], np.flatnonzero(first), axis=0)
            cells = np.concatenate([cells[first, :3], sums], axis=1)
    return UsageEvents(request_id, model, tuple(hosts), cells.tobytes())
