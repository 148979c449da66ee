"""Deployments as their service knows them: a deployment, a replica, an event. Moments are microseconds of UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from rios.deploy.deciding import Seen
from rios.deploy.lifecycle import LIVING, State, Wish
from rios.words.display import Shown

Row = Mapping[Any, Any]
EXEC_MAX_S = 60.0
"""The longest command inside a replica that is asked for through a gateway, in seconds: one answer stands for it, and
proxies between let go of a connection that is silent for longer."""
# Thousands are read in each pass of the reconciler.
_STATES = {str(state): state for state in State}
_WISHES = {str(wish): wish for wish in Wish}


@dataclass(frozen=True, slots=True, kw_only=True)
class App(Shown):
    """A deployment, with the specification of its wanted revision."""

    id: str
    organisation_id: str
    user_id: str
    name: str
    state: State
    wish: Wish
    reason: str
    revision: int
    settled_revision: int | None
    good_revision: int | None
    round: int
    replicas: int
    replicas_min: int
    replicas_max: int
    reached: int
    failures: int
    retry_at: int
    since: int
    asked_at: int
    paid: bool
    created_at: int
    ended_at: int
    bound: str = ""
    """The engine whose process it ends with; empty where it outlives processes."""

    @classmethod
    def of(cls, row: Row) -> App:
        """The deployment that a row stands for."""
        return cls(**{**row, "state": _STATES[row["state"]], "wish": _WISHES[row["wish"]]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica(Shown):
    """One replica of a deployment."""

    id: str
    app_id: str
    revision: int
    round: int
    host: str
    state: State
    outcome: str
    address: str
    created_at: int
    started_at: int
    ready_at: int
    ended_at: int
    period: int
    period_at: int
    metered: str
    said: str = ""
    """Of a model: why it ended by itself or could not be started; its `outcome` says so while it still lives."""
    error: str = ""

    @classmethod
    def of(cls, row: Row) -> Replica:
        """The replica that a row stands for."""
        return cls(**{**row, "state": _STATES[row["state"]]})

    @property
    def lives(self) -> bool:
        """Whether it counts towards what is wanted."""
        return self.state in LIVING

    def seen(self) -> Seen:
        """What decides about it."""
        return Seen(
            id=self.id, revision=self.revision, round=self.round, state=self.state, created_at=self.created_at,
            ready_at=self.ready_at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Shown):
    """Something that happened to a deployment or one of its replicas."""

    seq: int
    at: int
    kind: str
    """"state", or another word for what happened: "scaled", "scheduled", "money" ..."""
    state: str
    """The state it came to; empty where none changed."""
    replica: str
    """Empty for an event of the whole deployment."""
    cause: str

    def __str__(self) -> str:
        who = f"{self.replica} " if self.replica else ""
        return f"{who}{self.state if self.kind == 'state' else self.kind}: {self.cause}"


@dataclass(frozen=True, slots=True)
class Step:
    """A change of a deployment or replica that is to be written, together with its event."""

    subject: App | Replica
    """As it was read: where it is in another state by now, nothing is written."""
    to: State
    cause: str
    _: KW_ONLY
    changes: Mapping[str, Any]
    """Further columns."""
    kind: str = "state"


@dataclass(frozen=True, slots=True)
class NewReplica:
    """A replica that is to be."""

    app: App
    replica_id: str
    host: str
    cause: str
