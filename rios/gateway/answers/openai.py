"""Answers of OpenAI's routes, in OpenAI's shape."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, ModelName, OrganisationId

Reason = Literal["stop", "length", "balance"]
_MADE = Field(description="Seconds of UTC since 1970.", examples=[1_764_410_400])


class ModelRow(Answer):
    """A model that serves."""

    id: ModelName
    object: Literal["model"]
    created: int = _MADE
    owned_by: OrganisationId


class ModelList(Answer):
    """The models that serve."""

    object: Literal["list"]
    data: list[ModelRow]


class TokenUsage(Answer):
    """What all choices read and wrote, which is what is paid for."""

    prompt_tokens: int = Field(examples=[4])
    completion_tokens: int = Field(examples=[16])
    total_tokens: int = Field(examples=[20])


class CompletionLogprobs(Answer):
    """Natural logarithms of the model's own probabilities, token by token."""

    tokens: list[str] = Field(examples=[[" there"]])
    token_logprobs: list[float] = Field(examples=[[-0.31]])
    top_logprobs: list[dict[str, float]] = Field(examples=[[{" there": -0.31}]])
    text_offset: list[int] = Field(examples=[[0]])


class CompletionChoice(Answer):
    """One of the answers to a prompt."""

    index: int = Field(examples=[0])
    text: str = Field(examples=[" there was a young lady"])
    logprobs: CompletionLogprobs | None = Field(examples=[None])
    finish_reason: Reason


class CompletionAnswer(Answer):
    """What a prompt is continued by."""

    id: str = Field(examples=["cmpl-req-7d1f0c2b9a4e5f60"])
    object: Literal["text_completion"]
    created: int = _MADE
    model: ModelName
    choices: list[CompletionChoice]
    usage: TokenUsage


class TopLogprob(Answer):
    """A token with its logarithm."""

    token: str = Field(examples=["Hello"])
    logprob: float = Field(examples=[-0.12])
    bytes: list[int] | None = Field(description="UTF-8; null of a part of a character.", examples=[[72, 101]])


class ChatLogprob(TopLogprob):
    """A token, and those that could have stood in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Natural logarithms of the model's own probabilities, token by token."""

    content: list[ChatLogprob]
    refusal: None


class ChatAnswerMessage(Answer):
    """What the model says."""

    role: Literal["assistant"]
    content: str = Field(examples=["Hello! How do you do?"])
    refusal: None


class ChatChoice(Answer):
    """One of the answers to a conversation."""

    index: int = Field(examples=[0])
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None = Field(examples=[None])
    finish_reason: Reason


class ChatAnswer(Answer):
    """The answer to a conversation."""

    id: str = Field(examples=["chatcmpl-req-7d1f0c2b9a4e5f60"])
    object: Literal["chat.completion"]
    created: int = _MADE
    model: ModelName
    choices: list[ChatChoice]
    usage: TokenUsage
