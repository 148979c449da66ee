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
from rios.words.errors import ExpertsUnavailable, ProtocolError

if TYPE_CHECKING:
    from rios.dmoe.host import Host

log = logging.getLogger(__name__)

_SPIN_US_MAX = 1_000_000
_POLL_S = 0.005
"""A socket is polled for so long at most before this side blocks: between two cores an empty call took 323 us where the
host was woken for each, and 204 us where it polled."""
_STAGED_BYTES_MIN = 1 << 16


def serve_data(host: Host, connection: Connection, hosted: Hosted) -> None:
    """Serve one trunk until it hangs up. Raises `ProtocolError` on anything unexpected."""
    welcome = {"held": hosted.held(), "handle": hosted.handle, "incarnation": host.incarnation}
    connection.send(Kind.WELCOME, 0, dump(welcome), timeout_s=host.settings.connect_timeout_s)
    segment: Segment | None = None
    spin_s, poll_s = 0.0, min(host.settings.spin_us * 1e-6, _POLL_S)
    lane = None if host.device.type == "cpu" else Lane(host.device)
    try:
        with torch.inference_mode():  # once: entering it takes as long as a tenth of an empty call
            while True:
                if segment is None:
                    connection.expect(poll_s)
                    frame = connection.receive()
                else:
                    frame = segment.receive(connection, spin_s)
                if frame.kind is Kind.EXEC:
                    answer(host, connection, segment, hosted, frame, lane)
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


def answer(
    host: Host, connection: Connection, segment: Segment | None, hosted: Hosted, frame: Frame, lane: Lane | None = None
) -> None:
    """Compute one call and send its result, or an error that says what is wrong with it."""
    call = decode_exec(frame, width=hosted.manifest.hidden_size)
    if call.deployment != hosted.handle:
        raise ProtocolError(f"EXEC for deployment {call.deployment} on a connection of {hosted.handle}")
    if call.layer >= len(hosted.manifest.layers):
        raise ProtocolError(f"EXEC for layer {call.layer}, the model has {len(hosted.manifest.layers)}")
    answer_bytes = len(call.slot_rows) * call.hidden.shape[1] * call.hidden.itemsize
    if answer_bytes > host.settings.max_frame_bytes:
        raise ProtocolError(f"EXEC for an answer of {answer_bytes} bytes, the bound is {host.settings.max_frame_bytes}")
    started = time.perf_counter_ns()
    try:
        output = host.reply(call, compute(hosted, call, lane))
    except ExpertsUnavailable:
        held = hosted.store.held(call.layer)
        missing = [expert for expert in call.experts if expert not in held]
        said = {"error": "NotHeld", "experts": missing, "message": f"layer {call.layer}: {missing} are not held here"}
        connection.send(Kind.ERROR, frame.seq, dump(said), timeout_s=host.settings.connect_timeout_s)
        return
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


def compute(hosted: Hosted, call: Exec, lane: Lane | None = None) -> torch.Tensor:
    """The rows of one call through its experts, on the CPU, in the dtype that came over the wire.

    On a GPU they go there and back by `lane`; the answer is in its buffer then, until its next call.
    """
    if lane is not None:
        return lane.compute(hosted, call)
    return _output(hosted, call, call.hidden, call.slot_rows, call.weights)


def _output(
    hosted: Hosted, call: Exec, hidden: torch.Tensor, slot_rows: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """What a call asks for, where its tensors are."""
    if hidden.dtype is not hosted.dtype:
        hidden = hidden.to(hosted.dtype)
    output = hosted.store.compute(call.layer, hidden, slot_rows, call.experts, call.counts)
    if call.mode == PARTIAL:
        assert weights is not None
        output = weighted_sum(output, slot_rows, weights, hidden.shape[0])
    wanted = DTYPES[call.dtype_code]
    return output if output.dtype is wanted else output.to(wanted)


class Lane:
    """One connection's way to a GPU and back: a stream of its own, and page-locked buffers.

    Copies between page-locked memory and the device run beside other streams' work ("Use pinned memory buffers" in
    PyTorch's notes on CUDA semantics). All that one call does is queued on the one stream, and the call ends with the
    stream empty: so the answer is complete when it is sent, and the buffers can be filled again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: dict[str, torch.Tensor] = {}

    def compute(self, hosted: Hosted, call: Exec) -> torch.Tensor:
        """As `compute`."""
        with torch.cuda.stream(self._stream):
            hidden, slot_rows = self._there("hidden", call.hidden), self._there("slot rows", call.slot_rows)
            weights = None if call.weights is None else self._there("weights", call.weights)
            output = _output(hosted, call, hidden, slot_rows, weights)
            staged = self._staged("answer", output)
            staged.copy_(output, non_blocking=True)
            self._stream.synchronize()
        return staged

    def _there(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, once the stream gets there."""
        return self._staged(name, tensor).copy_(tensor).to(self._device, non_blocking=True)

    def _staged(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Page-locked memory for a tensor of this shape and dtype; it grows, and is kept, for locking pages is slow."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < like.nbytes:
            size_bytes = 1 << max(like.nbytes - 1, _STAGED_BYTES_MIN - 1).bit_length()
            buffer = self._buffers[name] = _locked(size_bytes)
        return buffer[: like.nbytes].view(like.dtype).view(like.shape)


def _locked(size_bytes: int) -> torch.Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
