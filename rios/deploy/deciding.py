"""What is to be done next for one deployment: how many replicas to begin, which to end, when to go back.

A pure function of what is wanted and what is seen, so that whoever acts may be killed at any point and another one
comes to the same decision. Moments are microseconds of UTC since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rios.deploy.lifecycle import LIVING, Standing, State, Wish, state_of
from rios.words.display import Shown

SECOND = 1_000_000
FAILURES_MAX = 5
"""A revision that ended so often in a row without having been ready is not tried any more."""
UPDATE_FAILURES_MAX = 3
"""The same where there is a revision to go back to."""
CANARY_S = 30.0
"""A canary serves its share alone for so long before the others follow."""
_BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Before the next replica, by how many failed in a row. The first comes at once: most ends are alone."""
BACKOFF_MAX_US = int(_BACKOFF_S[-1] * SECOND)
STEADY_S = 10.0
"""A replica that was ready for so long and ends has not failed in a row with those before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One deployment, as far as it decides what is done."""

    wish: Wish
    state: State
    paid: bool
    revision: int
    round: int
    replicas: int
    settled_revision: int | None
    good_revision: int | None
    reached: int
    failures: int
    retry_at: int
    since: int
    surge: int
    unavailable: int
    strategy: str
    deadline_us: int
    restarts: str
    """always, on-failure or never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Shown):
    """One replica that has not ended."""

    id: str
    revision: int
    round: int
    state: State
    created_at: int
    ready_at: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, in this order."""

    state: State
    settled_revision: int | None
    good_revision: int | None
    reached: int
    back_to: int | None = None
    """The revision to go back to, at once."""
    begin: int = 0
    """Replicas of the wanted revision."""
    end: tuple[tuple[str, str], ...] = ()
    """Replicas and why."""


def backoff_us(failures: int) -> int:
    """How long to wait before the next replica after so many failures in a row."""
    return int(_BACKOFF_S[min(max(failures - 1, 0), len(_BACKOFF_S) - 1)] * SECOND)


def decide(app: Wanted, replicas: Sequence[Seen], *, now: int) -> Decision:
    """What is to be done for `app`, whose replicas that have not ended are `replicas`."""
    living = [one for one in replicas if one.state in LIVING]
    mark = (app.revision, app.round)
    current = [one for one in living if (one.revision, one.round) == mark]
    others = [one for one in living if (one.revision, one.round) != mark]
    ending = len(replicas) - len(living)
    settled = app.settled_revision == app.revision and not others
    ready = sum(one.state is State.READY for one in current)
    reached = min(max(app.reached, ready), app.replicas)
    running = app.wish is Wish.RUN and app.paid
    if running and (back := _failed_update(app, now=now)) is not None:
        return Decision(app.state, app.settled_revision, app.good_revision, reached, back_to=back)
    given_up = app.failures >= FAILURES_MAX and not ready and app.settled_revision is None
    standing = Standing(
        wish=app.wish,
        wanted=app.replicas,
        current=tuple(one.state for one in current),
        others=len(others) + (ending if app.wish in (Wish.DELETE, Wish.DONE) or not settled else 0),
        settled=settled,
        ever_settled=app.settled_revision is not None,
        reached=reached,
        given_up=given_up or (app.state is State.FAILED and app.failures > 0),
        out_of_money=not app.paid,
    )
    state = state_of(standing)
    settled_revision, good_revision = app.settled_revision, app.good_revision
    if state is State.READY and not settled and (ready or good_revision == app.revision):
        # One that no replica has tried, where none is wanted, is neither settled nor good: what comes of it shows then.
        settled_revision = good_revision = app.revision
        reached = ready
    if not running or state is State.FAILED:
        why = {Wish.DELETE: "deleted", Wish.DONE: "done", Wish.PAUSE: "paused"}.get(
            app.wish, "failed" if app.paid else "out of money"
        )
        end = tuple((one.id, why) for one in living)
        return Decision(state, settled_revision, good_revision, reached, end=end)
    begin, end = _moves(app, current, others, now=now)
    if app.retry_at > now:
        begin = 0
    return Decision(state, settled_revision, good_revision, reached, begin=begin, end=end)


def _failed_update(app: Wanted, *, now: int) -> int | None:
    """The revision to go back to, where the wanted one shows that it will not become ready."""
    back = app.good_revision
    if back is None or back == app.revision or app.settled_revision == app.revision or app.state is State.FAILED:
        return None
    late = app.replicas > 0 and now - app.since > app.deadline_us
    return back if late or app.failures >= UPDATE_FAILURES_MAX else None


def _moves(
    app: Wanted, current: Sequence[Seen], others: Sequence[Seen], *, now: int
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """How many to begin and which to end.

    Never more than `surge` above the wanted number run, and never fewer than `unavailable` below it are ready, as far
    as this decides it.
    """
    wanted = app.replicas
    ready = [one for one in current if one.state is State.READY]
    old_ready = [one for one in others if one.state is State.READY]
    old_rest = [one for one in others if one.state is not State.READY]
    end: list[tuple[str, str]] = []
    surplus = len(current) - wanted
    if surplus > 0:
        # Those that serve stay, and of equals the oldest.
        order = sorted(current, key=lambda one: (one.state is State.READY, -one.created_at))
        end += [(one.id, "fewer are wanted") for one in order[:surplus]]
    if not others:
        return max(-surplus, 0), tuple(end)
    why = f"revision {app.revision} takes over"
    # What does not serve is in the way of what will.
    end += [(one.id, why) for one in old_rest]
    if app.strategy == "blue-green":
        done = len(ready) >= wanted
        end += [(one.id, why) for one in old_ready] if done else []
        return max(wanted - len(current), 0), tuple(end)
    spare = len(ready) + len(old_ready) - max(wanted - app.unavailable, 0)
    if app.strategy == "canary" and old_ready and not _proved(ready, now=now):
        return max(min(wanted, 1) - len(current), 0), tuple(end)
    going = sorted(old_ready, key=lambda one: one.created_at)[: max(spare, 0)]
    end += [(one.id, why) for one in going]
    room = wanted + app.surge - len(current) - (len(old_ready) - len(going))
    return max(min(wanted - len(current), room), 0), tuple(end)


def _proved(ready: Sequence[Seen], *, now: int) -> bool:
    return any(one.ready_at and now - one.ready_at >= CANARY_S * SECOND for one in ready)
