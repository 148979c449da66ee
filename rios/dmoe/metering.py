"""What accepted replies measured, split over the requests they served.

Rows are counted by the trunk, never taken from a host. A host's compute time and bytes of a batched reply are split
over its requests by rows; the remainder goes to the largest fractions first (Hamilton's method), so parts add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True)
class Reply:
    """One accepted reply: `rows[i]` slots of it belonged to the step's i-th request."""

    layer: int
    host: int
    compute_ns: int
    wire_bytes: int
    rows: npt.NDArray[np.int64]


def split(total: int, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Divide `total` in proportion to `weights` (not all zero) into integers that add up to it."""
    whole = int(weights.sum())
    # Python integers where the product could leave 63 bits: a reply of an hour times a million rows.
    if total and whole and total > (1 << 62) // max(int(weights.max()), 1):
        products = [total * int(weight) for weight in weights]
        parts = np.array([product // whole for product in products], dtype=np.int64)
        left = np.array([product % whole for product in products], dtype=np.int64)
    else:
        parts, left = np.divmod(total * weights, whole)
    missing = total - int(parts.sum())
    if missing:
        parts[np.argsort(-left, kind="stable")[:missing]] += 1
    return parts


def shares(
    replies: list[Reply], handles: npt.NDArray[np.uint32], steps: npt.NDArray[np.uint32]
) -> npt.NDArray[np.void]:
    """The SHARE records of one step: a record for every request with rows in a reply."""
    if len(handles) == 1:
        out = np.zeros(len(replies), dtype=SHARE)
        for place, reply in enumerate(replies):
            out[place] = (
                handles[0],
                steps[0],
                reply.layer,
                reply.host,
                reply.rows[0],
                reply.compute_ns,
                reply.wire_bytes,
            )
        return out[out["rows"] > 0]
    parts: list[npt.NDArray[np.void]] = []
    for reply in replies:
        served = np.flatnonzero(reply.rows)
        if not served.size:
            continue
        rows = reply.rows[served]
        part = np.zeros(served.size, dtype=SHARE)
        part["handle"] = handles[served]
        part["step"] = steps[served]
        part["layer"] = reply.layer
        part["host"] = reply.host
        part["rows"] = rows
        part["compute_ns"] = split(reply.compute_ns, rows)
        part["wire_bytes"] = split(reply.wire_bytes, rows)
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=SHARE)
