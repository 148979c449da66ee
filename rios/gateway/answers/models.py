"""Answers about deployed models, workers, and what everybody may see."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, Iso, ModelName, Moment, Page, Root, UserId, Wei, WorkerName

Dtype = Literal["float32", "bfloat16", "float16"]


class DeploymentRow(Answer):
    """A model that the organisation wants deployed."""

    id: str = Field(examples=["app-0c4f"])
    name: ModelName
    checkpoint: str = Field(examples=["demo"])
    replicas: int | None = Field(description="Copies of each expert; null for the network's choice.", examples=[2])
    dtype: Dtype | None
    partial: bool = Field(description="Hosts return one weighted sum per token.")
    wire_dtype: Dtype | None = Field(examples=[None])
    private: bool = Field(description="Hosts keep its shards on disk encrypted, or not at all.")
    state: Literal["starting", "serving", "failed"] = Field(examples=["serving"])
    reason: str = Field(description="Why it failed.", examples=[""])
    error: str = Field(description="The class of that.", examples=[""])
    created_by: UserId
    created_at: Moment


class Deployments(Page[DeploymentRow]):
    """The models that the organisation wants deployed."""


class WorkerRow(Answer):
    """A worker; processes and addresses for admins of the network alone."""

    name: WorkerName
    device: str = Field(examples=["cpu"])
    memory_bytes: int = Field(examples=[4294967296])
    reserved_bytes: int = Field(examples=[7864320])
    state: str = Field(examples=["serving"])
    experts: int = Field(examples=[32])
    speed: float = Field(description="Against the other workers.", examples=[1.0])
    pid: int = Field(0, examples=[4711])
    address: str = Field("", examples=["tcp://10.0.0.7:9001"])
    machine: str = Field("", examples=["host-1"])
    dask_address: str = Field("", examples=["tcp://10.0.0.7:40001"])
    gpu: dict[str, Any] | None = Field(None, examples=[None])


class Workers(Page[WorkerRow]):
    """The workers of the network."""


class PlacementNow(Answer):
    """Which worker holds which expert."""

    model: ModelName
    holders: list[list[list[str]]] = Field(
        description="By layer and expert: the workers that hold it.", examples=[[[["host-1"], ["host-2"]]]]
    )
    load: list[list[int]] = Field(description="By layer and expert: rows that were sent.", examples=[[[120, 96]]])
    replicas: int
    trunk: str | None = Field(description="The worker whose trunk serves.", examples=["host-1"])
    trunk_pid: int | None = Field(description="Its process, for admins of the network alone.", examples=[None])
    standby: list[str] = Field(examples=[["host-2"]])
    bytes_by_host: dict[str, int] = Field(examples=[{"host-1": 3932160, "host-2": 3932160}])
    states: dict[str, str] = Field(examples=[{"host-1": "serving", "host-2": "serving"}])
    reasons: str = Field(description="Why it is so.", examples=["2 hosts hold 2 experts each."])


class TokenIds(Answer):
    """The token ids of a prompt."""

    token_ids: list[int] = Field(examples=[[464, 2068]])
    context_length: int = Field(examples=[512])


class PublishedModel(Answer):
    """A model of the organisation that runs the network."""

    name: ModelName
    experts: int = Field(examples=[32])
    copies: int = Field(examples=[2])
    hosts: int = Field(examples=[2])


class PublishedHost(Answer):
    """A host, without its name."""

    device: str = Field(examples=["cpu"])
    memory_bytes: int = Field(examples=[4294967296])
    experts: int = Field(examples=[32])
    state: str = Field(examples=["serving"])


class PublishedEpoch(Answer):
    """The last epoch."""

    number: int
    root: Root
    state: Literal["closed", "posting", "posted", "final", "challenged"] = Field(examples=["final"])
    total_wei: Wei
    tx: str | None = Field(
        description="What posted the root.", examples=["0x88df016429689c079f3b2f6ad39fa052532c56795b"]
    )


class Compared(Answer):
    """When all books were compared last, and what came of it."""

    at: Iso
    difference_wei: Wei
    sound: bool
    books: int = Field(examples=[5])
    chain: bool = Field(description="Whether the contracts were asked too.")


class PublishedNetwork(Answer):
    """What a network tells everybody."""

    at: Iso
    models: list[PublishedModel]
    hosts: list[PublishedHost]
    tokens: int = Field(description="Served so far.", examples=[1048576])
    paid_wei: Wei
    paid: str = Field(examples=["12.5 ROS"])
    epoch: PublishedEpoch | None
    reconciliation: Compared | None
    stale_since: str | None = Field(description="Since when nothing new can be asked.", examples=[None])


class Live(Answer):
    """Whether the process answers."""

    status: Literal["live"]


class Ready(Answer):
    """Whether requests can be served."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str] = Field(
        description='Each part: "ok", or what is missing, and how the gateway does without.',
        examples=[{"database": "ok", "workers": "ok"}],
    )


class WebhookRow(Answer):
    """A URL that is told what happens."""

    id: str = Field(examples=["hook-51d0"])
    url: str = Field(examples=["https://hooks.example/rios"])
    events: list[str] = Field(description="Beginnings of the names of events; none for all.", examples=[["budget"]])
    created_at: Moment


class Webhooks(Answer):
    """All webhooks of the organisation, which has 20 at most."""

    data: list[WebhookRow]


class WebhookMade(WebhookRow):
    """A webhook that was made."""

    secret: str = Field(description="Signs what it is told; shown in this answer alone.", examples=["rios_hook_2mP…"])
