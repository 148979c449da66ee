"""Answers about applications."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, Hash, Moment, OwnerLogin, Page, Rows, UserId, Wei

State = Literal[
    "requested", "scheduled", "pulling", "starting", "ready", "degraded", "updating", "paused", "stopping", "stopped",
    "failed",
]  # fmt: skip
_NAME = Field(examples=["hello"])
_REPLICA = Field(description="The id of a replica.", examples=["hello-4f1c-1"])
_HOST = Field(examples=["host-1"])
_STATE: Any = Field(examples=["ready"])


class AppRow(Answer):
    """An application or model that the organisation wants to run."""

    id: str = Field(examples=["app-0c4f"])
    name: str = _NAME
    owner: UserId = Field(description="Who pays for it.")
    owner_login: OwnerLogin
    status: State = _STATE
    reason: str = Field(description="Why it is in that state.", examples=[""])
    revision: int
    replicas: int = Field(description="Wanted.", examples=[2])
    ready: int = Field(examples=[2])
    hosts: list[str] = Field(examples=[["host-1", "host-2"]])
    requests: int = Field(description="Answered so far.", examples=[120])
    cost_wei: Wei
    created_at: Moment
    ended_at: int = Field(description="Microseconds of UTC since 1970; 0 while it is there.", examples=[0])
    replicas_min: int
    replicas_max: int = Field(examples=[4])
    ended: bool = Field(examples=[False])
    url: str = Field(description="Where this gateway answers for it.", examples=["/apps/hello/"])
    specification: dict[str, Any] = Field(
        description="As `POST /v1/apps` takes one, with all its defaults; secrets by their names alone.",
        examples=[{"version": 1, "name": "hello", "command": ["python", "-m", "http.server"], "port": 8000}],
    )


class AppRows(Page[AppRow]):
    """The applications of the organisation."""


class AppsApplied(Rows[AppRow]):
    """The applications of a file."""


class FieldChange(Answer):
    """A field that would be another."""

    field: str = Field(examples=["replicas"])
    before: Any = Field(examples=[{"min": 1, "max": 1}])
    after: Any = Field(examples=[{"min": 2, "max": 4}])


class PlannedChange(Answer):
    """What applying a file would do to one application."""

    name: str = _NAME
    action: Literal["create", "update", "nothing"] = Field(examples=["update"])
    fields: list[FieldChange]


class Planned(Rows[PlannedChange]):
    """What applying a file would change, in its order."""


class Ticket(Answer):
    """An address that opens an application in a browser."""

    path: str = Field(examples=["/apps/~t4f1c…/"])
    expires_at: Moment


class Done(Answer):
    """How a command ended."""

    exit_code: int = Field(examples=[0])
    stdout: str = Field(description="In base64.", examples=["aGVsbG8K"])
    stderr: str = Field(description="In base64.", examples=[""])


class SecretRow(Answer):
    """A secret, without its value."""

    name: str = Field(examples=["TOKEN"])
    changed_at: Moment


class AppSecrets(Page[SecretRow]):
    """The secrets of an application."""

    behind: list[str] = Field(description="Replicas that have not got those given anew.", examples=[[]])


class OrganisationSecrets(Page[SecretRow]):
    """The organisation's own secrets."""


class OrganisationSecretsNow(Rows[SecretRow]):
    """The organisation's own secrets, after a change."""


class SnapshotRow(Answer):
    """All files of a volume, as they were at one moment."""

    id: str = Field(description="By which a new volume begins with it.", examples=["snap-4f1c0a9b22e1"])
    path: str = Field(description="Where the application mounts the volume.", examples=["/data"])
    state: Literal["wanted", "kept", "failed"] = Field(examples=["kept"])
    reason: str = Field(description="Why it failed, or has fewer copies than it is to have.", examples=[""])
    size_bytes: int = Field(description="Of its files, as an archive.", examples=[1048576])
    quota_bytes: int = Field(description="Of the volume; 0 where its host enforces none.", examples=[10737418240])
    copies: int = Field(description="So many hosts are to keep it.", examples=[2])
    hosts: list[str] = Field(description="Those that do.", examples=[["host-1", "host-2"]])
    created_by: UserId
    created_at: Moment


class SnapshotRows(Page[SnapshotRow]):
    """The snapshots of an application's volumes, oldest first."""


class KeptVolumeRow(Answer):
    """A volume that was kept when its application was deleted."""

    id: str = Field(description="By which a new application takes it.", examples=["vol-4f1c0a9b22e1"])
    deployment: str = Field(description="The name of the application that left it.", examples=["notes"])
    path: str = Field(description="Where that mounted it.", examples=["/data"])
    host: str = Field(description="On whose disk it lies.", examples=["host-1"])
    quota_bytes: int = Field(examples=[10737418240])
    taken_by: str = Field(
        description="The application that has it as soon as it starts; empty without one.", examples=[""]
    )
    deleted_at: Moment


class KeptVolumeRows(Page[KeptVolumeRow]):
    """The organisation's kept volumes, those that were left first come first."""


class AppEvent(Answer):
    """Something that happened to an application or one of its replicas."""

    seq: int
    at: Moment
    kind: str = Field(description='"state", or another word for what happened.', examples=["state"])
    state: str = Field(description="The state it came to; empty where none changed.", examples=["ready"])
    replica: str = Field(description="Empty for an event of the whole application.", examples=[""])
    cause: str = Field(examples=["all replicas are ready"])


class AppEvents(Page[AppEvent]):
    """What happened to an application, oldest first."""


class LogRow(Answer):
    """A line that a replica wrote."""

    at: float = Field(description="Seconds of UTC since 1970.", examples=[1_764_410_400.25])
    replica: str = _REPLICA
    stream: Literal["stdout", "stderr"]
    text: str = Field(examples=["listening at 8000"])


class LogRows(Rows[LogRow]):
    """The last 5000 lines after a moment."""


class LogPage(Rows[LogRow]):
    """Lines from the oldest on, 5000 at most."""

    next: dict[str, float] = Field(
        description="The `after` of the page that follows, now or later: of each replica the moment of its last line.",
        examples=[{"hello-4f1c-1": 1_764_410_400.25}],
    )
    more: bool = Field(description="Whether there are further lines at once.", examples=[False])


class ReplicaRow(Answer):
    """A replica that has not ended. Moments are 0 before they have come."""

    id: str = _REPLICA
    revision: int
    host: str = _HOST
    state: State = _STATE
    created_at: Moment
    started_at: Moment
    ready_at: Moment


class ReplicaRows(Page[ReplicaRow]):
    """The replicas of an application, oldest first."""


class MetricsRow(Answer):
    """What a replica used so far."""

    replica: str = _REPLICA
    host: str = _HOST
    cpu_seconds: float = Field(examples=[1.25])
    memory_bytes: int = Field(examples=[12582912])
    memory_peak_bytes: int = Field(examples=[16777216])
    pids: int = Field(examples=[2])
    egress_bytes: int = Field(examples=[4096])
    ingress_bytes: int = Field(examples=[4096])
    gpu_percent: float = Field(examples=[0.0])
    gpu_memory_bytes: int = Field(examples=[0])


class MetricsRows(Rows[MetricsRow]):
    """What an application's replicas used."""


class RevisionRow(Answer):
    """What was wanted of an application at some time."""

    number: int
    digest: Hash
    created_by: UserId
    created_at: Moment
    image: str | None = Field(description="The digest that the name of its image led to.", examples=[None])


class RevisionRows(Page[RevisionRow]):
    """The revisions of an application, oldest first."""
