"""Answers about reports."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, Moment, OwnerLogin, Page, Quantity, Rows, UserId, Wei

State = Literal["queued", "running", "ok", "partial", "failed"]
_RUN = Field(examples=["report-8c21"])
_NAME = Field(examples=["costs"])
_LABEL = Field(description="The period.", examples=["2026-11-28"])
_SUBJECT = Field(description="Whose costs; empty for everybody's.", examples=["user-3f9a1c0e5b7d2468"])
_FOLDER = Field(examples=["costs/2026-11-28/v1"])
_STATE: Any = Field(examples=["ok"])
_ERROR = Field(examples=[""])
_RUNTIME = Field(description="What it was made in.", examples=["bubblewrap"])
_ENDED = Field(description="Microseconds of UTC since 1970; 0 before.", examples=[1_764_410_460_000_000])


class ReportKind(Answer):
    """A report that can be made."""

    name: str = _NAME
    summary: str = Field(examples=["What was spent, by model and worker"])
    parameters: list[str] = Field(description="What one may choose.", examples=[["top"]])


class ReportKinds(Rows[ReportKind]):
    """The reports that can be made: those of the package."""


class ReportRun(Answer):
    """A report about one period, and what came of the last attempt to make it."""

    id: str = _RUN
    name: str = _NAME
    label: str = _LABEL
    owner: UserId = Field(description="Who asked first, and pays.")
    owner_login: OwnerLogin
    subject: str = _SUBJECT
    subject_login: str = Field(description="What the subject signs in as now, as of `owner_login`.", examples=["ada"])
    state: State = _STATE
    attempts: int
    created_at: Moment
    ended_at: int = _ENDED
    cost_wei: Wei
    version: int | None
    folder: str = _FOLDER
    files: list[str] = Field(examples=[["costs.html", "costs.json"]])
    runtime: str = _RUNTIME
    error: str = _ERROR


class ReportRuns(Page[ReportRun]):
    """Reports that were asked for, the last first."""


class ReportLine(Answer):
    """What an attempt wrote at one moment."""

    attempt: int
    at: Moment
    text: str = Field(examples=["cell 3 of 12"])


class ReportLines(Page[ReportLine]):
    """What the last attempt wrote, in its order."""


class ReportPast(Answer):
    """One attempt to make a report."""

    seq: int
    run_id: str = _RUN
    name: str = _NAME
    label: str = _LABEL
    subject: str = _SUBJECT
    attempt: int
    state: State = _STATE
    started_at: Moment
    ended_at: Moment
    key: str = Field(description="The same key has the same bytes.", examples=["9f86d081884c7d65"])
    height: int | None = Field(description="Up to which entry of the ledger it counts.", examples=[412])
    notebook: str = Field(description="SHA-256.", examples=["2c26b46b68ffc68f"])
    version: int | None
    folder: str = _FOLDER
    files: dict[str, Any] = Field(
        description="Name to `sha256` and `bytes`.", examples=[{"costs.json": {"sha256": "2c26", "bytes": 812}}]
    )
    runtime: str = _RUNTIME
    cpu_ns: Quantity
    cost_wei: Wei
    error: str = _ERROR


class ReportHistory(Page[ReportPast]):
    """Each attempt, the last first."""


class ReportSchedule(Answer):
    """A report that is made again and again."""

    id: str = Field(examples=["schedule-51d0"])
    owner: UserId
    subject: str = _SUBJECT
    name: str = _NAME
    parameters: dict[str, Any] = Field(examples=[{}])
    cron: str = Field(examples=["0 6 * * *"])
    zone: str = Field(examples=["Europe/Berlin"])
    period: str = Field(examples=["yesterday"])
    emails: list[str] = Field(examples=[["ada@lab.example"]])
    webhooks: list[str] = Field(examples=[["https://hooks.example/reports"]])
    catch_up: bool
    created_at: Moment
    paused_at: Moment | None = Field(examples=[None])
    closed_at: Moment | None = Field(examples=[None])
    next_at: Moment
    paused: bool = Field(examples=[False])


class ReportSchedules(Page[ReportSchedule]):
    """Schedules that were not deleted, oldest first."""


class ReportScheduleMade(ReportSchedule):
    """A schedule that was made."""

    webhook_secret: str = Field(
        "", description="Signs what webhooks are told; shown in this answer alone.", examples=["rios_hook_2mP…"]
    )
