"""One trunk's way to one host: a socket, shared memory where both are on one machine, and what is known of the host.

A link has at most one call under way. A call that was given up leaves the link *busy*: nothing is sent to that host
until its late answer has been read and thrown away, so an answer can never be taken for another call's.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections.abc import Sequence

from rios.dmoe.balance import HostCost
from rios.dmoe.calls import computed_ns
from rios.dmoe.greeting import connect
from rios.dmoe.peer import Peer
from rios.dmoe.shm import Segment, supported
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Buffer, Connection, Frame, Kind, dump
from rios.words.config import Settings
from rios.words.errors import HostLost, ProtocolError, RiosError


class State(enum.Enum):
    """What can be done with a link now."""

    DOWN = "down"  # no connection; the links' keeper tries again
    READY = "ready"  # a call may be sent
    BUSY = "busy"  # a call is under way, or was given up and not yet answered


class Link:
    """The connection of one trunk to one host."""

    def __init__(self, peer: Peer, settings: Settings) -> None:
        self.peer = peer
        self.state = State.DOWN
        self.cost = HostCost()
        self.overhead_s = 1e-4  # there and back, without computing
        self.held: dict[int, frozenset[int]] = {}
        self.handle = 0
        self.seq = 0
        self.abandoned = False
        self.passed_over = 0  # layers in a row in which this host could have been chosen and was not
        self.connecting = False
        self.last_error = "not connected yet"
        self.allowed_s = 0.0
        """What the next call may take at least: more than the last, which was given up with nobody else to ask."""
        self.retry_at = 0.0
        self.probe_at = 0.0
        self.busy_since = 0.0
        self.deadline = 0.0  # of the call under way, also when it was given up: a host that is silent beyond it is lost
        self.missing_at = 0.0  # when the answer to a call given up was last looked for in vain
        self.size: tuple[int, int] | None = None  # groups and rows of the call under way
        self._settings = settings
        self._connection: Connection | None = None
        self._segment: Segment | None = None
        self._polls = 0

    @property
    def name(self) -> str:
        """The host's name."""
        return self.peer.name

    @property
    def shares_memory(self) -> bool:
        """Whether frames go through shared memory."""
        return self._segment is not None

    def open(self, deployment: str, *, machine: str, area_bytes: int, spin_us: int) -> None:
        """Connect, learn what the host holds, and share memory where that is possible. Raises `RiosError`."""
        settings = self._settings
        connection, welcome = connect(
            self.peer.address,
            {"role": "data", "key": self.peer.key, "deployment": deployment},
            timeout_s=settings.connect_timeout_s,
            max_bytes=settings.max_frame_bytes,
            trust=trust_of(settings),
        )
        segment: Segment | None = None
        try:
            self.held = {int(layer): frozenset(experts) for layer, experts in welcome["held"].items()}
            self.handle = int(welcome["handle"])
            # In a secured network too: only a member was told the nonce, over TLS, and the kernel gives the memory to
            # these two processes alone: it crosses no network.
            if settings.shared_memory and supported and machine == self.peer.machine:
                segment, nonce = Segment.create(area_bytes)
                request = {
                    "op": "attach",
                    "pid": os.getpid(),
                    "fd": segment.fd,
                    "area_bytes": area_bytes,
                    "nonce": nonce,
                    "spin_us": spin_us,
                }
                connection.send(Kind.CALL, 0, dump(request), timeout_s=settings.connect_timeout_s)
                if not connection.receive(settings.connect_timeout_s).json().get("ok"):
                    segment.close()
                    segment = None
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            connection.close()
            if segment is not None:
                segment.close()
            raise ProtocolError(f"host {self.name}: no link after its welcome ({error!r})") from error
        except RiosError:
            connection.close()
            if segment is not None:
                segment.close()
            raise
        self._connection, self._segment = connection, segment
        self.abandoned = False
        self.state = State.READY

    def send(self, meta: Buffer, bodies: Sequence[Buffer], size: tuple[int, int]) -> None:
        """Start a call of `size` = (groups, rows). Raises `HostLost`."""
        connection = self._connection
        if connection is None:
            raise HostLost(f"host {self.name} is not connected")
        self.seq += 1
        self.state = State.BUSY
        self.size = size
        self.busy_since = time.perf_counter()
        length = len(meta) + sum(len(body) for body in bodies)
        if self._segment is not None and self._segment.fits(length):
            self._segment.write(connection, Kind.EXEC, self.seq, meta, bodies)
        else:
            connection.send(Kind.EXEC, self.seq, meta, bodies, timeout_s=self._settings.call_timeout_s)

    def poll(self) -> Frame | None:
        """The answer to the call under way, or None so far; late answers to calls given up are swallowed here.

        Raises `HostLost` when the host has gone and `ProtocolError` when it answers nonsense.
        """
        connection, segment = self._connection, self._segment
        if connection is None:
            raise HostLost(f"host {self.name} is not connected")
        frame: Frame | None
        if segment is not None and (frame := segment.poll()) is not None:
            return self._take(frame)
        # Behind shared memory the socket only tells of rings, errors and the end: looking at it costs a system call.
        self._polls += 1
        if segment is not None and self._polls & 63:
            return None
        if not connection.readable(0):
            return None
        frame = connection.receive(self._settings.call_timeout_s)
        return None if frame.kind is Kind.RING else self._take(frame)

    def _take(self, frame: Frame) -> Frame | None:
        if frame.seq != self.seq or frame.kind not in (Kind.RESULT, Kind.ERROR) or self.state is not State.BUSY:
            raise ProtocolError(f"host {self.name}: unexpected {frame.kind.name} frame {frame.seq}, not {self.seq}")
        self.state = State.READY
        if self.abandoned:
            self.abandoned = False
            if self.size is not None:
                self.cost.observe(*self.size, self._late_s(frame))
            return None
        return frame

    def _late_s(self, frame: Frame) -> float:
        """What a call took whose answer nobody waited for: it came somewhere between the last two looks."""
        now = time.perf_counter()
        if frame.kind is Kind.ERROR:
            return now - self.busy_since
        computed_s = computed_ns(frame) * 1e-9
        earliest_s = self.missing_at - self.busy_since
        self.took_at_most(now - self.busy_since - computed_s)
        return max(earliest_s, computed_s + self.overhead_s)

    def took_at_most(self, seconds: float) -> None:
        """Take in that an answer was there so long after it was asked for, without computing, or earlier.

        What was learned in bad times would else keep a host dear for ever: nobody waits for its answers then, and only
        who waits sees how long the way takes.
        """
        self.overhead_s = min(self.overhead_s, max(seconds, 0.0))

    def drain(self) -> None:
        """Throw the answer to a call given up away if it has come. Raises as `poll`."""
        self.look_at_socket()
        self.poll()
        if self.abandoned:
            self.missing_at = time.perf_counter()

    def look_at_socket(self) -> None:
        """Make the next `poll` look at the socket too."""
        self._polls = 63

    def abandon(self) -> None:
        """Give the call under way up; the link stays busy until its answer has been thrown away."""
        if self.state is State.BUSY:
            self.abandoned = True

    def sleeps(self, value: bool) -> None:
        """Tell the host that this side blocks on the socket (and must be rung) or not."""
        if self._segment is not None:
            self._segment.sleeps(value)

    def arrived(self) -> bool:
        """Whether something lies in memory already: the socket does not tell of it any more."""
        if self._segment is not None and self._segment.arrived():
            return True
        return self._connection is not None and self._connection.pending()

    def fileno(self) -> int:
        """The socket, for `select.poll`; -1 when down."""
        return -1 if self._connection is None or self._connection.closed else self._connection.sock.fileno()

    def down(self, reason: str) -> None:
        """Close; the keeper connects again."""
        connection, segment = self._connection, self._segment
        self._connection = self._segment = None
        self.state = State.DOWN
        self.abandoned = False
        self.held = {}
        self.last_error = reason
        self.retry_at = time.monotonic() + self._settings.reconnect_s
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()
        if segment is not None:
            segment.close()
