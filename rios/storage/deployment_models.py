"""The tables of deployments: what is wanted, its revisions, its replicas, what happened, and who acts now."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from rios.storage.models import Base
from rios.storage.types import Big, Whole


class AppRow(Base):
    """A deployment: an application or a model that somebody wants to run."""

    __tablename__ = "apps"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organisation_id: Mapped[str]
    user_id: Mapped[str]
    """Who pays."""
    name: Mapped[str]
    state: Mapped[str]
    wish: Mapped[str]
    reason: Mapped[str]
    """Why it is in that state, for people."""
    revision: Mapped[int]
    """The wanted one."""
    settled_revision: Mapped[int | None]
    """The one that was ready last, since the deployment was started or resumed."""
    good_revision: Mapped[int | None]
    """The last that was ever ready: what a failed update goes back to."""
    round: Mapped[int]
    """Counts restarts by wish; replicas of an earlier one are replaced as those of an earlier revision are."""
    replicas: Mapped[int]
    """How many are wanted now."""
    replicas_min: Mapped[int]
    replicas_max: Mapped[int]
    reached: Mapped[int]
    failures: Mapped[int]
    """In a row, since a replica was ready."""
    retry_at: Mapped[int]
    """No replica is begun before."""
    since: Mapped[int]
    """From when on the wanted revision has had time to become ready: since it was wished, or could run again."""
    asked_at: Mapped[int]
    """When a request last waited for a replica, or was answered."""
    paid: Mapped[bool]
    """Whether the next period could be held for when that was last tried."""
    created_at: Mapped[int]
    ended_at: Mapped[int]
    """0 while there is such a deployment: names are unique among these."""
    bound: Mapped[str] = mapped_column(Text, default="")
    """The engine whose process it ends with; empty where it outlives processes."""
    __table_args__ = (
        UniqueConstraint("organisation_id", "name", "ended_at"),
        Index("ix_apps_ended_at", "ended_at"),
    )


class AppRevisionRow(Base):
    """What was wanted of a deployment at some time. Never changed."""

    __tablename__ = "app_revisions"
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    specification: Mapped[str]
    """As JSON, secrets by name alone."""
    digest: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[int]


class AppImageRow(Base):
    """Which image the name of one led to when a revision was first started. Never changed."""

    __tablename__ = "app_images"
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    digest: Mapped[str]
    source: Mapped[str]
    """A reference by digest that hosts can pull it by; empty without one."""
    resolved_at: Mapped[int]


class AppReplicaRow(Base):
    """One process, or group of them, on one host, from its first moment to its last. Its id is its name there."""

    __tablename__ = "app_replicas"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"))
    revision: Mapped[int]
    round: Mapped[int]
    host: Mapped[str]
    state: Mapped[str]
    outcome: Mapped[str]
    """The state it comes to when it has been ended: stopped or failed; empty while it lives."""
    address: Mapped[str]
    """HOST:PORT where it answers; empty without one."""
    created_at: Mapped[int]
    started_at: Mapped[int]
    """When its process was first seen to run; 0 before."""
    ready_at: Mapped[int]
    ended_at: Mapped[int]
    """0 until nothing is left of it."""
    period: Mapped[int]
    """Accounting periods begun; each has a hold of its own."""
    period_at: Mapped[int]
    """When the last of them began."""
    metered: Mapped[str]
    """What the kernel had counted at that moment, as JSON."""
    said: Mapped[str] = mapped_column(Text, default="")
    """Of a model: why it ended by itself or could not be started, as its engine says; whoever leads goes by it."""
    error: Mapped[str] = mapped_column(Text, default="")
    """The class of that in `rios.words.errors`; empty without one."""
    __table_args__ = (Index("ix_app_replicas_app", "app_id", "ended_at"), Index("ix_app_replicas_ended", "ended_at"))


class AppPlaceRow(Base):
    """A host where something of an application is: until it was deleted and that host has forgotten it."""

    __tablename__ = "app_places"
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"), primary_key=True)
    host: Mapped[str] = mapped_column(Text, primary_key=True)
    volumes: Mapped[bool]
    """Whether its volumes lie there."""
    sizes: Mapped[str] = mapped_column(Text, default="")
    """Their quotas in bytes by where they are mounted, what snapshots take there, and what is owed for, as JSON; empty
    without any."""
    period: Mapped[int] = mapped_column(default=0)
    """Accounting periods of the volumes begun; each has a hold of its own. 0 without one."""
    period_at: Mapped[int] = mapped_column(default=0)
    """When the last of them began."""
    ended: Mapped[bool] = mapped_column(default=False)
    """Whether the application was deleted, and its host has not forgotten it yet."""
    # Partial ones: of what is looked for now and then there is little, and each says so, which a database cannot guess.
    __table_args__ = (
        Index("ix_app_places_host", "host", sqlite_where=text("volumes = 0"), postgresql_where=text("NOT volumes")),
        Index("ix_app_places_ended", "host", sqlite_where=text("ended = 1"), postgresql_where=text("ended")),
        Index("ix_app_places_due", "period_at", sqlite_where=text("sizes != ''"), postgresql_where=text("sizes <> ''")),
    )


class AppSnapshotRow(Base):
    """A snapshot of a volume of a deployment, until that is deleted."""

    __tablename__ = "app_snapshots"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"))
    organisation_id: Mapped[str]
    path: Mapped[str]
    """Where the deployment mounts the volume."""
    state: Mapped[str]
    """wanted, kept, failed or leaving."""
    reason: Mapped[str]
    digest: Mapped[str]
    """The SHA-256 of what it consists of; empty until it is taken."""
    size_bytes: Mapped[int]
    quota_bytes: Mapped[int]
    copies: Mapped[int]
    """How many hosts are to keep it."""
    created_by: Mapped[str]
    created_at: Mapped[int]
    uneven: Mapped[bool] = mapped_column(default=False)
    """Whether more or fewer hosts keep it than are to: written with the rows of these."""
    __table_args__ = (
        Index("ix_app_snapshots_app", "app_id", "created_at", "id"),
        Index("ix_app_snapshots_state", "state", "uneven"),
    )


class AppSnapshotCopyRow(Base):
    """A host that keeps a snapshot."""

    __tablename__ = "app_snapshot_copies"
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("app_snapshots.id"), primary_key=True)
    host: Mapped[str] = mapped_column(Text, primary_key=True)
    paid: Mapped[bool] = mapped_column(default=True)
    """Whether the host is paid for it: who was lost is not, until it is back with all of it."""
    __table_args__ = (Index("ix_app_snapshot_copies_host", "paid", "host"),)


class AppKeptVolumeRow(Base):
    """A volume that a deleted deployment left on its host's disk, until it is another one's or removed."""

    __tablename__ = "app_kept_volumes"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"))
    """The deleted deployment."""
    organisation_id: Mapped[str]
    path: Mapped[str]
    """Where that mounted it."""
    host: Mapped[str]
    quota_bytes: Mapped[int]
    state: Mapped[str]
    """kept, taken, moving or leaving."""
    taker: Mapped[str]
    """The deployment whose volume it is to be; empty without one."""
    taker_path: Mapped[str]
    """Where that mounts it."""
    kept_at: Mapped[int]
    """When its deployment was deleted."""
    __table_args__ = (
        Index("ix_app_kept_volumes_organisation", "organisation_id", "kept_at", "id"),
        Index("ix_app_kept_volumes_state", "state", "taker"),
    )


class AppEventRow(Base):
    """Something that happened to a deployment. Written with what it tells, in one transaction. Never changed."""

    __tablename__ = "app_events"
    seq: Mapped[int] = mapped_column(Big, primary_key=True, autoincrement=False)
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"))
    replica_id: Mapped[str]
    """Empty for an event of the whole deployment."""
    at: Mapped[int]
    kind: Mapped[str]
    """"state", or what else happened."""
    state: Mapped[str]
    cause: Mapped[str]
    __table_args__ = (Index("ix_app_events_app", "app_id", "seq"),)


class AppLoadRow(Base):
    """What one router measured of a deployment in its last interval: what the scaler goes by."""

    __tablename__ = "app_loads"
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"), primary_key=True)
    router: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    requests: Mapped[int]
    """Answered since the router began."""
    running: Mapped[int]
    waiting: Mapped[int]


class LeaseRow(Base):
    """Who does a thing that one alone may do, until when, and the how-manieth holder that is.

    That of a router says for `routers` up to which event it has read, and what is in the hands of replicas that leave.
    """

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    holder: Mapped[str]
    term: Mapped[int]
    until: Mapped[int]
    takes: Mapped[bool] = mapped_column(default=False)
    """Of an engine: whether it serves each model that is bound to none."""


class AppSpendRow(Base):
    """What a deployment has cost so far: the sum of its usage, so that nobody has to add it up."""

    __tablename__ = "app_spend"
    app_id: Mapped[str] = mapped_column(ForeignKey("apps.id"), primary_key=True)
    amount_wei: Mapped[int] = mapped_column(Whole)
    day: Mapped[int]
    """When the day of UTC began in which something was posted last; 0 before."""
    day_wei: Mapped[int] = mapped_column(Whole)
    """What was posted in it."""


class AppSecretRow(Base):
    """A secret of a deployment, or of an organisation (with an empty `app_id`): encrypted, never in clear.

    app_id: with `@REVISION` behind it, of a value that an update gave, which counts from that revision on.
    """

    __tablename__ = "app_secrets"
    organisation_id: Mapped[str] = mapped_column(Text, primary_key=True)
    app_id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    sealed: Mapped[bytes]
    changed_at: Mapped[int]
