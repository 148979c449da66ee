"""What is said about reports: templates, jobs for who executes them, runs, schedules, and the history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from rios.reporting.templates import Template
from rios.services.reports.periods import Span
from rios.words.canonical import digest
from rios.words.display import Shown
from rios.words.errors import InvalidRequest


class RunState(StrEnum):
    """What became of a run. `partial`: a page with a banner was kept, and is not to be relied on."""

    QUEUED = "queued"
    RUNNING = "running"
    OK = "ok"
    PARTIAL = "partial"
    FAILED = "failed"


ENDED = (RunState.OK, RunState.PARTIAL, RunState.FAILED)


class Identity(NamedTuple):
    """What makes two wishes for a report the same one."""

    name: str
    subject: str
    parameters: str
    """As canonical JSON."""
    span: Span

    @property
    def digest(self) -> str:
        """SHA-256 of it."""
        span = self.span
        return digest([self.name, self.subject, self.parameters, span.label, str(span.since_us), str(span.until_us)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One report about one period."""

    id: str
    identity: str
    owner: str
    subject: str
    name: str
    parameters: str
    label: str
    since_us: int
    until_us: int
    state: RunState
    created_at: int
    not_before: int
    attempts: int
    holder: str | None
    lease_until: int | None
    height: int | None
    head: str | None
    facts: str | None
    version: int | None

    @property
    def span(self) -> Span:
        """Its period."""
        return Span(label=self.label, since_us=self.since_us, until_us=self.until_us)

    def key(self, notebook: str) -> str:
        """The run key: the same notebook, parameters, period and ledger height have the same bytes."""
        return digest([notebook, self.identity, self.height, self.head])


@dataclass(frozen=True, slots=True, kw_only=True)
class Past(Shown):
    """One attempt, from the history."""

    seq: int
    run_id: str
    name: str
    label: str
    subject: str
    attempt: int
    state: RunState
    started_at: int
    ended_at: int
    key: str
    height: int | None
    notebook: str
    version: int | None
    folder: str
    files: Mapping[str, Any]
    """Name to `sha256` and `bytes`."""
    runtime: str
    cpu_ns: int
    cost_wei: int
    error: str

    def to_dict(self) -> dict[str, Any]:
        """As it travels: whole numbers without a bound as text."""
        return {**asdict(self), "files": dict(self.files), "cost_wei": str(self.cost_wei), "cpu_ns": str(self.cpu_ns)}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Past:
        """What `to_dict` wrote, also after it was JSON."""
        numbers = {"cost_wei": int(said["cost_wei"]), "cpu_ns": int(said["cpu_ns"])}
        return cls(**{**said, **numbers, "state": RunState(said["state"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line(Shown):
    """What an attempt wrote at one moment."""

    attempt: int
    at: int
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As it travels."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(Shown):
    """A report about one period as a user sees it: its run, and what came of the last attempt."""

    id: str
    name: str
    label: str
    owner: str
    owner_login: str
    """What the owner signs in as now; "closed:ID" of a closed account, as `owner` of one that nobody signs in to."""
    subject: str
    subject_login: str
    state: RunState
    attempts: int
    created_at: int
    ended_at: int
    """Of the last attempt; 0 before the first has ended."""
    cost_wei: int
    """Of all attempts."""
    version: int | None
    folder: str
    files: tuple[str, ...]
    runtime: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """As it travels: the amount as text."""
        return {**asdict(self), "cost_wei": str(self.cost_wei), "files": list(self.files)}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Made:
        """What `to_dict` wrote, also after it was JSON."""
        more = {"cost_wei": int(said["cost_wei"]), "files": tuple(said["files"]), "state": RunState(said["state"])}
        return cls(**{**said, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Shown):
    """A report that is made again and again."""

    id: str
    owner: str
    subject: str
    name: str
    parameters: str
    cron: str
    zone: str
    period: str
    emails: tuple[str, ...]
    webhooks: tuple[str, ...]
    catch_up: bool
    created_at: int
    paused_at: int | None
    closed_at: int | None
    next_at: int

    def to_dict(self) -> dict[str, Any]:
        """As it travels."""
        return {**asdict(self), "emails": list(self.emails), "webhooks": list(self.webhooks)}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Schedule:
        """What `to_dict` wrote, also after it was JSON."""
        return cls(**{**said, "emails": tuple(said["emails"]), "webhooks": tuple(said["webhooks"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a schedule is to be: see `Reports.schedule`."""

    name: str
    cron: str
    period: str = "yesterday"
    zone: str = "UTC"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    emails: tuple[str, ...] = ()
    webhooks: tuple[str, ...] = ()
    catch_up: bool = True
    subject: str = ""
    """Whose costs it is about; everybody's without."""


def parameters_text(parameters: Mapping[str, Any], template: Template) -> str:
    """Parameters as they are kept. Raises InvalidRequest for one that the notebook does not have."""
    for key in parameters:
        if key not in template.parameters or key == "data":
            known = ", ".join(name for name in template.parameters if name != "data") or "none"
            raise InvalidRequest(f"report {template.name!r} has no parameter {key!r}; it has {known}")
    return json.dumps(dict(parameters), sort_keys=True)
