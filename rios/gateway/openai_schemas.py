"""Bodies of OpenAI's routes. What is not supported is refused by its name; at its neutral value it asks for nothing."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rios.gateway.schemas import Strict

# Parameters of OpenAI's that nothing here implements, with the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None,),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, False),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
}
# Of messages: answers have them, and clients send an answer back as it came.
_NEUTRAL_IN_MESSAGE: dict[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "reasoning": (None, ""),
    "reasoning_content": (None, ""),
    "refusal": (None,),
    "tool_call_id": (None,),
    "tool_calls": (None, []),
}
Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(max_length=4)]
Text = Annotated[str, Field(max_length=1_000_000)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
N_MAX = 16
PROMPTS_MAX = 64


class StreamOptions(Strict):
    """What a stream says besides its pieces."""

    include_usage: bool = False


class Sampling(Strict):
    """What both routes have."""

    model: str = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=N_MAX)
    stop: str | Stop | None = None
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=500)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=300, description="By token id, as text.")

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, given: Any) -> Any:
        return _without(_NEUTRAL, given, cls.model_fields)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream=true alone")
        return self

    def sampling(self, place: int, *, max_new_tokens: int) -> dict[str, Any]:
        """Parameters of the choice number `place`: each has a seed of its own, or all would say the same."""
        found: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
        }
        if self.seed is not None:
            found["seed"] = self.seed + place
        if self.stop:
            found["stop"] = self.stop
        if self.logit_bias:
            found["logit_bias"] = tuple((int(token), bias) for token, bias in sorted(self.logit_bias.items()))
        return found


class CompletionRequest(
    Sampling, json_schema_extra={"examples": [{"model": "demo", "prompt": "Once upon a time", "max_tokens": 16}]}
):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS_MAX)]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1, max_length=PROMPTS_MAX)]
    )
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt."""
        given: Any = self.prompt
        return list(given) if isinstance(given, list) and not isinstance(given[0], int) else [given]


class ContentPart(Strict):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart]

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, given: Any) -> Any:
        return _without(_NEUTRAL_IN_MESSAGE, given, cls.model_fields)

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(
    Sampling,
    json_schema_extra={
        "examples": [{"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16}]
    },
):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs=true alone")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens say the same: give one of them")
        return self


def _without(neutral: Mapping[str, tuple[Any, ...]], given: Any, fields: Container[str]) -> Any:
    """A body without what asks for nothing; what is no object as it is."""
    if not isinstance(given, dict):
        return given
    return {
        name: value
        for name, value in given.items()
        if name in fields or name not in neutral or not _is_one_of(value, neutral[name])
    }


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    # 0 == False in Python, and neither may stand for the other here; 0.0 may stand for 0.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)
