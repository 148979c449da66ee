"""The metering seam: what was measured, for whom, by whom, and who wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rios.words.errors import RiosError


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One accepted reply's share of one request.

    `event_id` is a pure function of (request, step, layer, host): a retried, hedged or replayed call cannot count
    twice. `rows` are (token, expert) pairs counted by the trunk; `compute_ns` and `wire_bytes` are the host's
    measurements of a batched reply, split over its requests by rows with the largest remainder, so that parts add up.
    """

    event_id: str
    request_id: str
    model: str
    step: int
    layer: int
    host: str
    rows: int
    compute_ns: int
    wire_bytes: int


class UsageSink(Protocol):
    """Whoever accounts for usage. Called once for each finished request, in the client's process."""

    def record(self, events: Sequence[UsageEvent]) -> None:
        """Take the events of one request. Raising leaves the request's answer untouched and is logged."""


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
    events: tuple[UsageEvent, ...]


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

    def close(self, ended: Ended) -> None:
        """Post the price and release the rest. Raising leaves the answer untouched and is logged."""
