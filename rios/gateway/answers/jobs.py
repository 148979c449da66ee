"""Answers about jobs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, ModelName, OwnerLogin, RequestId, UserId, Wei

_AT = Field(description="Seconds of UTC since 1970.", examples=[1_764_410_400.25])


class JobLogprob(Answer):
    """A token with its logarithm, and those that could have stood in its place."""

    token_id: int
    logprob: float = Field(examples=[-0.31])
    top: list[tuple[int, float]] = Field(description="Pairs of token id and logarithm.", examples=[[[464, -0.31]]])


class HostWork(Answer):
    """What one host did for a job."""

    rows: int = Field(examples=[640])
    compute_ns: int = Field(examples=[1_200_000])
    wire_bytes: int = Field(examples=[98_304])


class JobUsage(HostWork):
    """What a job used."""

    prompt_tokens: int = Field(examples=[4])
    completion_tokens: int = Field(examples=[16])
    by_host: dict[str, HostWork]


class JobTiming(Answer):
    """Seconds as the gateway saw them."""

    first_token_s: float | None = Field(examples=[0.02])
    total_s: float = Field(examples=[0.4])
    tokens_per_s: float | None = Field(description="After the first token.", examples=[42.0])
    replays: int = Field(description="Times that a lost trunk was replaced.", examples=[0])


class JobResult(Answer):
    """What a job has generated."""

    text: str | None = Field(description="Null of a model without a tokenizer.", examples=[" there was a young lady"])
    token_ids: list[int] = Field(examples=[[464, 2068]])
    finish_reason: Literal["stop", "length", "balance"]
    usage: JobUsage
    timing: JobTiming
    logprobs: list[JobLogprob] | None = Field(examples=[None])


class JobState(Answer):
    """How far a job is."""

    id: RequestId
    model: ModelName
    status: str = Field(description="queued, running, paused, done, failed, cancelled or lost.", examples=["done"])
    tokens: int = Field(description="Generated so far.", examples=[16])
    here: bool = Field(description="Whether the gateway that answers runs it.")
    as_of: float = _AT
    result: JobResult | None
    money: dict[str, Wei] = Field(
        default_factory=dict,
        description="Of one that was lost: what was posted and what was released.",
        examples=[{"posted_wei": "0", "released_wei": "250000000000000"}],
    )


class JobRow(Answer):
    """A generation as a list has it."""

    id: RequestId
    kind: Literal["generation"]
    name: str = Field(examples=["demo"])
    model: ModelName
    owner: UserId
    owner_login: OwnerLogin
    state: Literal["queued", "running", "paused", "done", "failed", "cancelled", "lost"] = Field(examples=["done"])
    tokens: int = Field(examples=[16])
    tokens_max: int = Field(examples=[64])
    prompt_tokens: int = Field(examples=[4])
    tokens_per_second: float | None = Field(examples=[42.0])
    started_at: float = _AT
    ended_at: float | None = _AT
    cost_wei: Wei
    posted: bool = Field(description="Whether the price is what was posted; about what it comes to else.")
    hosts: list[str] = Field(examples=[["host-1"]])
    error: str = Field(description="Why it failed.", examples=[""])


class JobRows(Answer):
    """Generations that changed."""

    data: list[JobRow]
    version: int = Field(description="The `since` of the next question.", examples=[7])
    more: bool = Field(description="Whether more changed than are answered: ask again at once.", examples=[False])
    gateway: str = Field(description="What this gateway is called.", examples=["gateway-1"])


class JobAsked(Answer):
    """What a generation was asked for with, and its answer so far."""

    job: JobRow
    prompt_ids: list[int] = Field(examples=[[464, 2068]])
    prompt: str = Field(examples=["Once upon a time"])
    answer: str = Field(examples=[" there was a young lady"])
    params: dict[str, Any] = Field(examples=[{"max_new_tokens": 64, "temperature": 0.0}])
