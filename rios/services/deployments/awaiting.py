"""Until a deployment is in a state, or its replicas have what they were given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rios.deploy.lifecycle import State
from rios.services.deployments.store import ROLLED_BACK
from rios.words.errors import DeadlineExceeded, DeploymentFailed

if TYPE_CHECKING:
    from rios.services.deployments.values import Event

WAIT_S = 300.0
ENDS_S = 60.0
"""Beside their grace, replicas are gone within this: the reconciler looks, and hosts answer."""


class Look(NamedTuple):
    """A deployment at one moment."""

    state: State
    reason: str
    revision: int
    tried: bool = True
    """Whether a replica of that revision has shown what it is; not where none is wanted."""


@dataclass(slots=True)
class Wished:
    """What was wished through a handle last, and was not waited for yet: an update may be taken back before anybody
    looks."""

    revision: int = 0
    """Its number; 0 for nothing."""

    def wish(self, revision: int) -> int:
        """Remember that a revision was wished; its number."""
        self.revision = revision
        return revision


def awaited(
    name: str,
    wanted: State,
    seen: Callable[[], Look],
    *,
    events: Callable[[], Sequence[Event]],
    timeout: float | None,
    look_s: float,
    wished: Wished,
) -> None:
    """Until the state that `seen` returns is the wanted one: see `Deployment.wait`.
    events: what happened to it, where the reason of a change that was over between two looks is found. wished: is
    nothing any more once it was tried and is ready, or whoever waits was told why it is not."""
    seconds = WAIT_S if timeout is None else timeout
    deadline = time.monotonic() + seconds
    ready = wanted is State.READY
    while True:
        state, reason, revision, tried = seen()
        if ready and revision < wished.revision:
            mine, wished.revision = f"revision {wished.revision} ", 0
            causes = [one.cause for one in events() if one.kind == ROLLED_BACK and one.cause.startswith(mine)]
            raise DeploymentFailed(
                f"{name} is at revision {revision} again: {causes[-1] if causes else mine + 'was left'}"
            )
        over = state is wanted or state in (State.FAILED, State.STOPPED)
        if ready:
            wished.revision = 0 if over and (tried or state is not wanted) else revision
        if state is wanted:
            return
        if over:
            raise DeploymentFailed(f"{name} is {state}: {reason or 'deleted'}; its logs may say more")
        if time.monotonic() > deadline:
            said = f": {reason}" if reason else ""
            raise DeadlineExceeded(f"{name} is {state}, not {wanted}, after {seconds:g} s{said}")
        time.sleep(look_s)


def ends_within(graces: Iterable[float]) -> float:
    """Seconds that a healthy deletion takes at most, of replicas with these graces: they have as much to answer what
    they have, and as much again to stop."""
    return ENDS_S + 2 * max(graces, default=0.0)


def rotated(name: str, behind: Callable[[], Sequence[str]], *, timeout: float, look_s: float) -> None:
    """Until no replica is behind: see `Deployment.rotate_secrets`."""
    deadline = time.monotonic() + timeout
    while missing := behind():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{', '.join(missing)} of {name} have old secrets after {timeout:g} s; it goes on")
        time.sleep(look_s)
