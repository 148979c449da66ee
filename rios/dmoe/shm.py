"""The same frames through memory that two processes of one machine share.

A segment is an anonymous `memfd`: nothing is left behind when either side is killed. The peer opens it through
`/proc/<pid>/fd/<fd>` and checks a nonce, so another machine, user or container simply does not get it and stays on
the socket. Each direction holds one frame at a time: a link has at most one call under way, and its answer is read
before the next call is written.

    0  nonce 16 bytes | 16 request counter u64 | 24 reply counter u64 | 32 host sleeps u32 | 36 trunk sleeps u32
    64 request area ... | reply area ...

The counter is written after the frame. That order is kept by x86-64 (total store order); elsewhere links use sockets.
A reader polls the counter for a while (measured: 5 ms of polling is worth 20 % of a single stream), then sets its
flag and sleeps on the socket, where the writer rings.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import platform
import secrets
import time
from collections.abc import Sequence

from rios.dmoe.wire import HEADER, MAGIC, VERSION, Buffer, Connection, Frame, Kind, decode_header
from rios.words.errors import ProtocolError

log = logging.getLogger(__name__)

_AREAS = 64
_NONCE_BYTES = 16
_REQUEST, _REPLY = 2, 3  # indices of the counters, as u64
_HOST_SLEEPS, _TRUNK_SLEEPS = 8, 9  # indices of the flags, as u32
# Longer than a layer of a small model takes: 2.7 ms for one stream of 6 layers on a slow core.
_TIGHT_S = 0.005
_NAP_SHARE = 0.02
_RECHECK_S = 0.05  # bounds the price of a ring lost to reordering of flag and counter

supported = platform.machine() == "x86_64" and hasattr(os, "memfd_create") and hasattr(fcntl, "F_SEAL_SHRINK")


def _is_segment(fd: int, size: int, nonce: str) -> bool:
    """Whether `fd` is the segment meant, and stays that long: access to memory that was cut off kills a process."""
    if os.fstat(fd).st_size != size or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        return False
    return os.pread(fd, _NONCE_BYTES, 0).hex() == nonce


def give_way(waited_s: float) -> None:
    """Give the interpreter's lock and the core to whoever wants them, `waited_s` into waiting for a frame.

    At first without sleeping: the shortest sleep takes 75 us on Linux, which is three empty calls. What takes longer is
    waited for in naps of a fiftieth of the time that has passed, so that they delay nothing by more than 2 % and a host
    without work soon leaves its core to others. Napping beats being rung: a byte through a socket took the waking side
    up to 1.5 ms of a layer of 15, because the woken process was given the waker's own core.
    """
    if waited_s < _TIGHT_S:
        os.sched_yield()
    else:
        time.sleep(_NAP_SHARE * waited_s)


class Segment:
    """One shared segment, seen from one side (`host` or trunk)."""

    def __init__(self, fd: int, area_bytes: int, *, host: bool) -> None:
        self.fd = fd
        self.area_bytes = area_bytes
        self._map = mmap.mmap(fd, _AREAS + 2 * area_bytes)
        self._view = memoryview(self._map)
        self._counters = self._view[:64].cast("Q")
        self._flags = self._view[:64].cast("I")
        request = self._view[_AREAS : _AREAS + area_bytes]
        reply = self._view[_AREAS + area_bytes :]
        self._out, self._in = (reply, request) if host else (request, reply)
        self._out_counter, self._in_counter = (_REPLY, _REQUEST) if host else (_REQUEST, _REPLY)
        self._my_flag, self._peer_flag = (_HOST_SLEEPS, _TRUNK_SLEEPS) if host else (_TRUNK_SLEEPS, _HOST_SLEEPS)
        self._seen = self._counters[self._in_counter]

    @classmethod
    def create(cls, area_bytes: int) -> tuple[Segment, str]:
        """A new segment of the trunk's side and its nonce (hex). Pages are only backed once they are touched."""
        fd = os.memfd_create("rios", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _AREAS + 2 * area_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        segment = cls(fd, area_bytes, host=False)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        segment._view[:_NONCE_BYTES] = nonce
        return segment, nonce.hex()

    @classmethod
    def open(cls, pid: int, fd: int, area_bytes: int, nonce: str) -> Segment | None:
        """The host's side of a trunk's segment, or None where this process cannot see it."""
        if area_bytes < HEADER.size:
            return None
        try:
            own = os.open(f"/proc/{int(pid)}/fd/{int(fd)}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if _is_segment(own, _AREAS + 2 * area_bytes, nonce):
                return cls(own, area_bytes, host=True)
        except (OSError, ValueError):  # not a memfd, or one that cannot be mapped
            log.info("no shared memory", extra={"pid": pid}, exc_info=True)
        os.close(own)
        return None

    def fits(self, length: int) -> bool:
        """Whether a frame with `length` bytes of meta and body goes through this segment."""
        return HEADER.size + length <= self.area_bytes

    def write(self, connection: Connection, kind: Kind, seq: int, meta: Buffer, bodies: Sequence[Buffer]) -> None:
        """Put one frame into the outgoing area and wake the peer if it sleeps."""
        out = self._out
        # The memory has no link that could corrupt it, so the checksum covers the header's own fields alone.
        length = sum(map(len, bodies))
        HEADER.pack_into(out, 0, MAGIC, VERSION, kind, 0, seq, len(meta), length, seq & 0xFFFFFFFF)
        start = HEADER.size
        for part in (meta, *bodies):
            stop = start + len(part)
            out[start:stop] = part
            start = stop
        self._counters[self._out_counter] += 1
        if self._flags[self._peer_flag]:
            connection.send(Kind.RING, timeout_s=1.0)

    def poll(self) -> Frame | None:
        """The frame that has arrived, or None. Its body is a view, valid until this side writes again."""
        count = self._counters[self._in_counter]
        if count == self._seen:
            return None
        self._seen = count
        header = decode_header(self._in[: HEADER.size], max_bytes=self.area_bytes - HEADER.size)
        if header.crc != header.seq & 0xFFFFFFFF:
            raise ProtocolError(f"{header.kind.name} frame {header.seq}: the header in shared memory is torn")
        body = HEADER.size + header.meta_bytes
        return Frame(
            header.kind,
            header.seq,
            bytes(self._in[HEADER.size : body]),
            self._in[body : body + header.body_bytes],
        )

    def receive(self, connection: Connection, spin_s: float) -> Frame:
        """The next frame from memory or socket, waiting as long as the connection lives: poll, then sleep."""
        counters, index, seen = self._counters, self._in_counter, self._seen
        started = time.perf_counter()
        turns = 0
        while counters[index] == seen:
            turns += 1
            if turns & 15 == 0:
                waited_s = time.perf_counter() - started
                if waited_s > spin_s:
                    break
                give_way(waited_s)
            if turns & 1023 == 0 and connection.readable(0):
                break
        while True:
            if (frame := self.poll()) is not None:
                return frame
            self.sleeps(True)
            try:
                ready = counters[index] == seen and connection.readable(_RECHECK_S)
            finally:
                self.sleeps(False)
            if ready:
                frame = connection.receive()
                if frame.kind is not Kind.RING:
                    return frame

    def arrived(self) -> bool:
        """Whether a frame waits to be read."""
        return self._counters[self._in_counter] != self._seen

    def sleeps(self, value: bool) -> None:
        """Tell the peer whether it has to ring."""
        self._flags[self._my_flag] = value

    def close(self) -> None:
        """Let go. Tensors that still view a frame keep the memory until they die; the kernel frees it with the last."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
