"""The life of a deployment and of each of its replicas: which states there are, and which may follow which.

This is the only table. Whoever writes a state asks `check_step` first, in the transaction that writes it; so a state
that nothing leads to is never stored, whoever asks for it.

A deployment comes to its state by what its replicas do and what its owner wishes (`state_of`), never by being told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rios.words.errors import InvalidRequest


class State(StrEnum):
    """Of a deployment; a replica is never requested, updating or paused."""

    REQUESTED = "requested"
    """Nothing is placed yet."""
    SCHEDULED = "scheduled"
    """A host was chosen."""
    PULLING = "pulling"
    """The host fetches the image."""
    STARTING = "starting"
    """The process runs, or is about to, and has not been found ready."""
    READY = "ready"
    """As many replicas as are wanted take requests; where none is, one begins when a request comes."""
    DEGRADED = "degraded"
    """Fewer than there were; of a replica: it runs and does not answer its probe."""
    UPDATING = "updating"
    """Replicas of another revision are taking over."""
    PAUSED = "paused"
    """No replica runs, by wish or for want of money; volumes and revisions stay."""
    STOPPING = "stopping"
    """Being drained and ended."""
    STOPPED = "stopped"
    """Ended for good."""
    FAILED = "failed"
    """A deployment that is not tried any more; a replica that ended by itself, or was lost."""


class Wish(StrEnum):
    """What the owner wants of a deployment."""

    RUN = "run"
    PAUSE = "pause"
    DONE = "done"
    """It did its work and is not begun again; it can be looked at until it is deleted."""
    DELETE = "delete"


S = State
DEPLOYMENT: Mapping[State, frozenset[State]] = {
    S.REQUESTED: frozenset({S.SCHEDULED, S.PULLING, S.STARTING, S.READY, S.PAUSED, S.STOPPING, S.FAILED}),
    S.SCHEDULED: frozenset({S.REQUESTED, S.PULLING, S.STARTING, S.READY, S.PAUSED, S.STOPPING, S.FAILED}),
    S.PULLING: frozenset({S.REQUESTED, S.SCHEDULED, S.STARTING, S.READY, S.PAUSED, S.STOPPING, S.FAILED}),
    S.STARTING: frozenset({S.REQUESTED, S.SCHEDULED, S.PULLING, S.READY, S.PAUSED, S.STOPPING, S.FAILED}),
    S.READY: frozenset(
        # The first five where none was wanted, now some are, and nothing of it was ever ready.
        {S.REQUESTED, S.SCHEDULED, S.PULLING, S.STARTING, S.DEGRADED, S.UPDATING, S.PAUSED, S.STOPPING, S.FAILED}
    ),
    S.DEGRADED: frozenset({S.READY, S.UPDATING, S.PAUSED, S.STOPPING, S.FAILED}),
    S.UPDATING: frozenset({S.READY, S.DEGRADED, S.PAUSED, S.STOPPING, S.FAILED}),
    S.PAUSED: frozenset({S.REQUESTED, S.STOPPING}),
    S.FAILED: frozenset({S.REQUESTED, S.PAUSED, S.STOPPING}),
    S.STOPPING: frozenset({S.STOPPED}),
    S.STOPPED: frozenset({S.REQUESTED, S.STOPPING}),
}
"""What may follow a state of a deployment. Quick steps may be skipped: what was not seen did not have to be written."""
REPLICA: Mapping[State, frozenset[State]] = {
    S.SCHEDULED: frozenset({S.PULLING, S.STARTING, S.STOPPING}),
    S.PULLING: frozenset({S.STARTING, S.STOPPING}),
    S.STARTING: frozenset({S.READY, S.STOPPING}),
    S.READY: frozenset({S.DEGRADED, S.STOPPING}),
    S.DEGRADED: frozenset({S.READY, S.STOPPING}),
    S.STOPPING: frozenset({S.STOPPED, S.FAILED}),
    S.STOPPED: frozenset(),
    S.FAILED: frozenset(),
}
"""The same of a replica. All ways out lead through `stopping`, where its process is ended, metered and cleared away."""
FIRST = {"deployment": State.REQUESTED, "replica": State.SCHEDULED}
ENDED = frozenset({State.STOPPED, State.FAILED})
"""Of a replica: nothing of it is left on any host."""
LIVING = frozenset({State.SCHEDULED, State.PULLING, State.STARTING, State.READY, State.DEGRADED})
"""Of a replica: it counts towards what is wanted."""
_KINDS = {"deployment": DEPLOYMENT, "replica": REPLICA}


def may_follow(kind: str, state: State, then: State) -> bool:
    """Whether a "deployment" or "replica" in `state` may come to `then`."""
    return then in _KINDS[kind].get(state, frozenset())


def check_step(kind: str, name: str, state: State, then: State) -> None:
    """Raise InvalidRequest where the table has no step from `state` to `then`."""
    if not may_follow(kind, state, then):
        ways = ", ".join(sorted(_KINDS[kind].get(state, frozenset()))) or "nothing: it has ended"
        raise InvalidRequest(f"{kind} {name} is {state} and cannot become {then}; what may follow is {ways}")


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides the state of a deployment."""

    wish: Wish
    wanted: int
    """Replicas that should run."""
    current: tuple[State, ...]
    """Of the living replicas of the wanted revision."""
    others: int
    """Replicas of other revisions that still run, and such as are being ended."""
    settled: bool
    """Whether the wanted revision was ready once."""
    ever_settled: bool
    """Whether any revision was."""
    reached: int
    """How many were ready at once since the number that is wanted was changed."""
    given_up: bool
    """Whether it failed so often that it is not tried any more."""
    out_of_money: bool = False


def state_of(now: Standing) -> State:
    """The state that these circumstances are."""
    if now.wish in (Wish.DELETE, Wish.DONE):
        return State.STOPPING if now.current or now.others else State.STOPPED
    if now.wish is Wish.PAUSE or now.out_of_money:
        return State.PAUSED
    ready = sum(state is State.READY for state in now.current)
    if now.given_up:
        return State.FAILED
    if not now.settled:
        if ready >= now.wanted and not now.others:
            return State.READY
        return State.UPDATING if now.ever_settled else _furthest(now.current)
    return State.DEGRADED if ready < min(now.wanted, now.reached) else State.READY


def _furthest(states: Iterable[State]) -> State:
    order = (State.READY, State.STARTING, State.PULLING, State.SCHEDULED)
    found = min((order.index(state) for state in states if state in order), default=None)
    # Some are ready and some not yet: the deployment as a whole is starting.
    return State.REQUESTED if found is None else State.STARTING if found == 0 else order[found]
