"""The metering seam: what was measured, for whom, by whom, and who wants to know."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from rios.words.display import Shown
from rios.words.errors import InvalidRequest, LedgerConflict, RiosError


@dataclass(frozen=True, slots=True)
class UsageEvent(Shown):
    """One accepted reply's share of one request.

    `rows` are (token, expert) pairs counted by the trunk; `compute_ns` and `wire_bytes` are the host's measurements of
    a batched reply, split over its requests by rows with the largest remainder, so that parts add up.
    """

    request_id: str
    model: str
    step: int
    layer: int
    host: str
    rows: int
    compute_ns: int
    wire_bytes: int

    @property
    def event_id(self) -> str:
        """What was done, by whom, for whom: a retried, hedged or replayed call cannot count twice."""
        return f"{self.request_id}:{self.step}:{self.layer}:{self.host}"


CELL = struct.Struct("<6q")
"""Step, layer, place of the host in `UsageEvents.hosts`, rows, compute_ns, wire_bytes."""
_CELL_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class UsageEvents(Shown, Sequence[UsageEvent]):
    """The events of one request, in the order of step, layer and host, each once.

    They are kept as numbers, because a request has one for each step, layer and host: as objects they took longer than
    all else that is done for a request when it has ended.
    """

    request_id: str
    model: str
    hosts: tuple[str, ...]
    """Sorted by name."""
    cells: bytes
    """A `CELL` for each event."""

    @classmethod
    def of(cls, events: Iterable[UsageEvent]) -> UsageEvents:
        """Of one request's events in any order; one that comes twice counts once.

        Raises LedgerConflict where one id has two payloads, InvalidRequest for events of two requests or models and for
        numbers that are no counts below 2^63.
        """
        if isinstance(events, cls):
            return events
        known: dict[tuple[str, int, int, str], UsageEvent] = {}
        for event in events:
            earlier = known.setdefault((event.request_id, event.step, event.layer, event.host), event)
            if earlier != event:
                raise LedgerConflict(
                    f"usage event {event.event_id} came twice, with other contents: {earlier}, {event}"
                )
        found = list(known.values())
        for event in found:
            _check(event, found[0])
        hosts = tuple(sorted({event.host for event in found}))
        place = {name: index for index, name in enumerate(hosts)}
        cells = sorted((e.step, e.layer, place[e.host], e.rows, e.compute_ns, e.wire_bytes) for e in found)
        first = found[0] if found else None
        request_id, model = (first.request_id, first.model) if first else ("", "")
        return cls(request_id, model, hosts, b"".join(CELL.pack(*cell) for cell in cells))

    def __repr__(self) -> str:
        return f"<UsageEvents of {self.request_id}: {len(self)} on {len(self.hosts)} hosts>"

    def __len__(self) -> int:
        return len(self.cells) // CELL.size

    def __iter__(self) -> Iterator[UsageEvent]:
        for step, layer, place, *measured in CELL.iter_unpack(self.cells):
            yield UsageEvent(self.request_id, self.model, step, layer, self.hosts[place], *measured)

    @overload
    def __getitem__(self, index: int) -> UsageEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[UsageEvent]: ...
    def __getitem__(self, index: int | slice) -> UsageEvent | Sequence[UsageEvent]:
        """One of them, or some."""
        return list(self)[index]


def _check(event: UsageEvent, first: UsageEvent) -> None:
    """Raise InvalidRequest where an event cannot be counted."""
    if (event.request_id, event.model) != (first.request_id, first.model):
        raise InvalidRequest(
            f"usage event {event.event_id} of {event.model} is not of request {first.request_id} of {first.model}"
        )
    for name in ("step", "layer", "rows", "compute_ns", "wire_bytes"):
        value = getattr(event, name)
        if type(value) is not int or not 0 <= value <= _CELL_MAX:
            raise InvalidRequest(f"{name} of usage event {event.event_id} is {value!r}; it needs a count below 2^63")


class UsageSink(Protocol):
    """Whoever accounts for usage. Called once for each finished request, in the client's process."""

    def record(self, events: UsageEvents) -> None:
        """Take the events of one request. Raising leaves the request's answer untouched and is logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What went wrong on the way of a request: made good, unless it is what the request failed of."""

    kind: str
    """trunk lost, host failed, hedged (a host was so late that others were asked too), stalled, or failed."""
    about: str
    """Which host, or which error."""
    count: int
    """How often; of hosts, in how many steps."""
    longest_us: int = 0
    """Of stalls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request that has ended, as its client saw it: what was asked and received, and what was measured for it."""

    request_id: str
    model: str
    trunk: str
    """The host whose trunk served last; "" where nothing was received."""
    tokens_in: int
    tokens_out: int
    outcome: str
    """done, failed or cancelled."""
    events: UsageEvents
    faults: tuple[Fault, ...] = ()


class Stream(Protocol):
    """A request that is under way, as far as its tab may steer it. Any thread may call these."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""

    @property
    def paused(self) -> bool:
        """Whether it stands still: it may not go on, and has all the tokens that it was allowed."""

    def allow(self, tokens: int) -> None:
        """It may have up to `tokens` new tokens, counted from the first; where it was paused it goes on."""

    def pause(self) -> None:
        """There will be no more for now: it pauses when it has what it was allowed."""

    def finish(self, reason: str) -> None:
        """End it with the tokens that are there, `reason` being its finish reason."""

    def abort(self, error: RiosError) -> None:
        """End it with an error."""


class Tab(Protocol):
    """What one request runs up. Opened, with the highest price of its first step held, before the request is sent."""

    @property
    def covered(self) -> int:
        """New tokens that are held for, counted from the first: no more are generated."""

    def extend(self, stream: Stream) -> None:
        """The request will soon have what is covered: hold for more and `allow` it, or `pause` it until that is done.

        Called in a thread that may wait for a database; once until the next `allow`.
        """

    def close(self, ended: Ended) -> Callable[[], None]:
        """Begin to post the price and to release the rest; what is returned waits until that is done.

        Raising, in either, leaves the answer untouched and is logged.
        """
