"""The tables of reports: schedules, what is due by them, runs, the history, which is only ever added to, who keeps what
was published, and faults.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from rios.storage.models import Base
from rios.storage.types import Big, Whole


class ReportScheduleRow(Base):
    """A report that is made again and again."""

    __tablename__ = "report_schedules"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    owner: Mapped[str] = mapped_column(Text, index=True)
    """The user who made it: whose rights it has, and who pays for it."""
    subject: Mapped[str]
    """Whose costs it is about; empty for everybody's."""
    name: Mapped[str]
    parameters: Mapped[str]
    """As canonical JSON."""
    cron: Mapped[str]
    zone: Mapped[str]
    period: Mapped[str]
    """A word such as "yesterday", said at the moment at which it is due."""
    emails: Mapped[str]
    webhooks: Mapped[str]
    """Both as JSON lists."""
    catch_up: Mapped[bool]
    """Whether each one that was missed is made later, or the last alone."""
    created_at: Mapped[int]
    paused_at: Mapped[int | None]
    closed_at: Mapped[int | None]
    next_at: Mapped[int] = mapped_column(Big, index=True)
    __table_args__ = (Index("ix_report_schedules_created", "created_at", "id"),)


class ReportRunRow(Base):
    """One report about one period: made once, however many schedules and people ask for it."""

    __tablename__ = "report_runs"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    identity: Mapped[str] = mapped_column(Text, unique=True)
    """SHA-256 of name, subject, parameters and period."""
    owner: Mapped[str]
    """Who asked first, and pays."""
    subject: Mapped[str]
    name: Mapped[str]
    parameters: Mapped[str]
    label: Mapped[str]
    since_us: Mapped[int]
    until_us: Mapped[int]
    state: Mapped[str]
    created_at: Mapped[int]
    not_before: Mapped[int]
    attempts: Mapped[int]
    holder: Mapped[str | None]
    lease_until: Mapped[int | None]
    """Who makes it now says so again before this; afterwards another one may take it over."""
    height: Mapped[int | None]
    head: Mapped[str | None]
    facts: Mapped[str | None]
    """The pin: which entries count, and what was true besides them. Kept, so that it can be made again as it was."""
    version: Mapped[int | None]
    """Of what was published last."""
    __table_args__ = (
        Index("ix_report_runs_state", "state", "not_before"),
        Index("ix_report_runs_created", "created_at", "id"),
        Index("ix_report_runs_owner", "owner", "created_at", "id"),
        Index("ix_report_runs_subject", "subject", "created_at", "id"),
    )


class ReportDueRow(Base):
    """A moment at which a schedule was due, and the run that serves it."""

    __tablename__ = "report_dues"
    schedule_id: Mapped[str] = mapped_column(ForeignKey("report_schedules.id"), primary_key=True)
    due_at: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    run_id: Mapped[str] = mapped_column(ForeignKey("report_runs.id"), index=True)
    told: Mapped[bool]
    """Whether what came of it is in the outbox."""


class ReportLineRow(Base):
    """What the last attempt at a run has written; gone when the next one begins."""

    __tablename__ = "report_lines"
    run_id: Mapped[str] = mapped_column(ForeignKey("report_runs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    at: Mapped[int]
    """Grows with seq."""
    text: Mapped[str]


class RequestFaultRow(Base):
    """What went wrong on the way of a request, written when it has ended: see `rios.words.events.Fault`."""

    __tablename__ = "request_faults"
    request_id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    about: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str]
    model: Mapped[str]
    at: Mapped[int] = mapped_column(Big, index=True)
    """When the request ended."""
    count: Mapped[int]
    longest_us: Mapped[int]


class ReportHistoryRow(Base):
    """One attempt to make a report. Never changed, never deleted."""

    __tablename__ = "report_history"
    seq: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    run_id: Mapped[str] = mapped_column(ForeignKey("report_runs.id"), index=True)
    name: Mapped[str]
    label: Mapped[str]
    subject: Mapped[str]
    attempt: Mapped[int]
    state: Mapped[str]
    started_at: Mapped[int]
    ended_at: Mapped[int]
    key: Mapped[str]
    """SHA-256 of notebook, parameters, period and ledger height: the same key has the same bytes."""
    height: Mapped[int | None]
    notebook: Mapped[str]
    """SHA-256 of the notebook that was executed."""
    version: Mapped[int | None]
    folder: Mapped[str]
    files: Mapped[str]
    """As JSON: name to SHA-256 and size."""
    runtime: Mapped[str]
    cpu_ns: Mapped[int] = mapped_column(Whole)
    cost_wei: Mapped[int] = mapped_column(Whole)
    error: Mapped[str]


class ReportFileRow(Base):
    """A file of published reports, to be kept by hosts: once, however many reports have it."""

    __tablename__ = "report_files"
    sha256: Mapped[str] = mapped_column(Text, primary_key=True)
    size_bytes: Mapped[int]
    folder: Mapped[str]
    name: Mapped[str]
    """Where it was published first."""
    seal_key: Mapped[str]
    """Hosts have it under this key alone: hexadecimal, of 32 bytes, and of no other file."""
    digest: Mapped[str]
    """The SHA-256 of what hosts keep it as (`contents.Content`); empty until it was given to one."""
    uneven: Mapped[bool]
    """Whether hosts are to be looked for that keep it."""
    __table_args__ = (Index("ix_report_files_uneven", "uneven", "sha256"),)


class ReportPlaceRow(Base):
    """Where a file was published besides: of gateways with folders of their own, each has it in some of its places."""

    __tablename__ = "report_places"
    sha256: Mapped[str] = mapped_column(ForeignKey("report_files.sha256"), primary_key=True)
    folder: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)


class ReportCopyRow(Base):
    """A host that keeps a file of reports: written before it is given any of it."""

    __tablename__ = "report_copies"
    sha256: Mapped[str] = mapped_column(ForeignKey("report_files.sha256"), primary_key=True)
    host: Mapped[str] = mapped_column(Text, primary_key=True)
    id: Mapped[str]
    """The host knows it by this alone: random, and another one whenever it is to keep it anew."""
    whole: Mapped[bool]
    """Whether it said that it has all of it, and nobody has found out since that it has not."""
    __table_args__ = (Index("ix_report_copies_host", "host", "sha256"),)
