"""A host's side of the data plane: rows in, experts' outputs back, one call at a time for each trunk."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch

from rios.dmoe import device as devices
from rios.dmoe.calls import PARTIAL, Exec, decode_exec, encode_result, weighted_sum
from rios.dmoe.hosted import Hosted
from rios.dmoe.shm import Segment
from rios.dmoe.tensors import DTYPES
from rios.dmoe.wire import Connection, Frame, Kind, dump
from rios.words.errors import ProtocolError

if TYPE_CHECKING:
    from rios.dmoe.host import Host

log = logging.getLogger(__name__)

_SPIN_US_MAX = 1_000_000


def serve_data(host: Host, connection: Connection, hosted: Hosted) -> None:
    """Serve one trunk until it hangs up. Raises `ProtocolError` on anything unexpected."""
    welcome = {"held": hosted.held(), "handle": hosted.handle, "incarnation": host.incarnation}
    connection.send(Kind.WELCOME, 0, dump(welcome), timeout_s=host.settings.connect_timeout_s)
    segment: Segment | None = None
    spin_s = 0.0
    try:
        while True:
            frame = connection.receive() if segment is None else segment.receive(connection, spin_s)
            if frame.kind is Kind.EXEC:
                answer(host, connection, segment, hosted, frame)
            elif frame.kind is Kind.CALL and segment is None:
                segment, spin_s = _attach(connection, frame)
            elif frame.kind is not Kind.RING:
                raise ProtocolError(f"a data connection carries EXEC, not {frame.kind.name}")
    finally:
        if segment is not None:
            segment.close()


def _attach(connection: Connection, frame: Frame) -> tuple[Segment | None, float]:
    """Map the trunk's shared memory, where this process can see it."""
    request = frame.json()
    try:
        area_bytes, spin_us = int(request["area_bytes"]), min(max(int(request["spin_us"]), 0), _SPIN_US_MAX)
        segment = Segment.open(int(request["pid"]), int(request["fd"]), area_bytes, str(request["nonce"]))
    except (KeyError, TypeError, ValueError, OSError, OverflowError) as error:
        raise ProtocolError(f"an attach request that cannot be read: {error!r}") from error
    connection.send(Kind.ANSWER, frame.seq, dump({"ok": segment is not None}), timeout_s=1.0)
    return segment, spin_us * 1e-6


def answer(host: Host, connection: Connection, segment: Segment | None, hosted: Hosted, frame: Frame) -> None:
    """Compute one call and send its result, or an error that says what is wrong with it."""
    call = decode_exec(frame, width=hosted.manifest.hidden_size)
    if call.deployment != hosted.handle:
        raise ProtocolError(f"EXEC for deployment {call.deployment} on a connection of {hosted.handle}")
    if call.layer >= len(hosted.manifest.layers):
        raise ProtocolError(f"EXEC for layer {call.layer}, the model has {len(hosted.manifest.layers)}")
    answer_bytes = len(call.slot_rows) * call.hidden.shape[1] * call.hidden.itemsize
    if answer_bytes > host.settings.max_frame_bytes:
        raise ProtocolError(f"EXEC for an answer of {answer_bytes} bytes, the bound is {host.settings.max_frame_bytes}")
    held = hosted.store.held(call.layer)
    missing = [expert for expert in call.experts if expert not in held]
    if missing:
        error = {
            "error": "NotHeld",
            "experts": missing,
            "message": f"layer {call.layer}: {missing} are not held here",
        }
        connection.send(Kind.ERROR, frame.seq, dump(error), timeout_s=host.settings.connect_timeout_s)
        return
    started = time.perf_counter_ns()
    try:
        output = host.reply(call, compute(hosted, call, host.device))
    except (MemoryError, RuntimeError) as error:
        if not devices.out_of_memory(error):
            raise
        log.warning("out of memory", extra={"deployment": hosted.name, "layer": call.layer, "reason": str(error)})
        said = {"error": "OutOfMemory", "message": f"host {host.name}: {len(call.slot_rows)} rows: {error}"}
        connection.send(Kind.ERROR, frame.seq, dump(said), timeout_s=host.settings.connect_timeout_s)
        return
    compute_ns = time.perf_counter_ns() - started
    host.calls += 1
    host.rows += len(call.slot_rows)
    host.compute_ns += compute_ns
    meta, bodies = encode_result(output, mode=call.mode, compute_ns=compute_ns)
    length = len(meta) + sum(len(body) for body in bodies)
    if segment is not None and segment.fits(length):
        segment.write(connection, Kind.RESULT, frame.seq, meta, bodies)
    else:
        connection.send(Kind.RESULT, frame.seq, meta, bodies, timeout_s=host.settings.connect_timeout_s)


def compute(hosted: Hosted, call: Exec, device: torch.device) -> torch.Tensor:
    """The rows of one call through its experts; the result has the dtype that came over the wire."""
    hidden = call.hidden.to(device=device, dtype=hosted.dtype, non_blocking=True)
    slot_rows = call.slot_rows.to(hidden.device)
    output = hosted.store.compute(call.layer, hidden, slot_rows, call.experts, call.counts)
    if call.mode == PARTIAL:
        assert call.weights is not None
        output = weighted_sum(output, slot_rows, call.weights.to(hidden.device), hidden.shape[0])
    return output.to(dtype=DTYPES[call.dtype_code])
