"""Generations as OpenAI writes them down: whole, or piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from rios.dmoe.completion import Completion, Logprob, Piece
from rios.gateway.errors import openai_error
from rios.gateway.events import event
from rios.gateway.runs import Run
from rios.words.errors import RiosError


class Shape(Protocol):
    """How one of the routes writes its answers."""

    def head(self, request_id: str, *, streamed: bool) -> dict[str, Any]:
        """What every answer and every piece begins with."""

    def choice(self, index: int, done: Completion) -> dict[str, Any]:
        """A whole choice."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream says of a choice before its first piece."""

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece of a choice."""

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        """What a stream says of a choice after its last piece."""


class Choices:
    """The runs of one request, in the order of their indices."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._runs: list[Run] = []

    def add(self, run: Run) -> None:
        """One more choice."""
        self._runs.append(run)

    def cancel(self) -> None:
        """End all that have not ended."""
        for run in self._runs:
            run.cancel()

    async def whole(self) -> dict[str, Any]:
        """The answer, once all choices have ended. Raises the first error among them."""
        done = [await run.result() for run in self._runs]
        return {
            **self._shape.head(self._runs[0].job.request_id, streamed=False),
            "choices": [self._shape.choice(index, one) for index, one in enumerate(done)],
            "usage": _usage(done),
        }

    async def events(self, *, usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events, ended by [DONE]; by an error's event where a choice failed."""
        head = self._shape.head(self._runs[0].job.request_id, streamed=True)
        if usage:
            head["usage"] = None

        def chunk(choice: dict[str, Any]) -> bytes:
            return event({**head, "choices": [choice]})

        for index in range(len(self._runs)):
            opening = self._shape.opening(index)
            if opening is not None:
                yield chunk(opening)
        try:
            async for index, piece in _merged(self._runs):
                if isinstance(piece, Completion):
                    yield chunk(self._shape.closing(index, piece.finish_reason))
                elif piece.text or piece.logprobs:
                    yield chunk(self._shape.piece(index, piece))
        except RiosError as error:
            yield event({"error": openai_error(error)})
            return
        if usage:
            yield event({**head, "choices": [], "usage": _usage([await run.result() for run in self._runs])})
        yield event("[DONE]")


async def _merged(runs: Sequence[Run]) -> AsyncIterator[tuple[int, Piece | Completion]]:
    """The pieces of all runs as they come, each run's Completion last. Raises the first error."""
    if len(runs) == 1:  # nearly always: then nobody stands between its pieces and who sends them
        async for _, piece in runs[0].pieces():
            yield 0, piece
        yield 0, await runs[0].result()
        return
    queue: asyncio.Queue[tuple[int, Piece | Completion | RiosError]] = asyncio.Queue()

    async def follow(index: int, run: Run) -> None:
        try:
            async for _, piece in run.pieces():
                queue.put_nowait((index, piece))
            queue.put_nowait((index, await run.result()))
        except RiosError as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.ensure_future(follow(index, run)) for index, run in enumerate(runs)]
    try:
        waiting = len(runs)
        while waiting:
            index, found = await queue.get()
            if isinstance(found, RiosError):
                raise found
            waiting -= isinstance(found, Completion)
            yield index, found
    finally:
        for task in tasks:
            task.cancel()


class _Shape:
    kind = ""
    prefix = ""

    def __init__(self, *, model: str, created: int, decode: Callable[[Sequence[int]], str]) -> None:
        self._model = model
        self._created = created
        self._decode = decode

    def head(self, request_id: str, *, streamed: bool) -> dict[str, Any]:
        """Id, kind, moment and model."""
        kind = f"{self.kind}.chunk" if streamed and self.prefix == "chatcmpl" else self.kind
        return {"id": f"{self.prefix}-{request_id}", "object": kind, "created": self._created, "model": self._model}

    def _text(self, token: int) -> str:
        return self._decode([token])


class CompletionShape(_Shape):
    """POST /v1/completions."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(self, *, model: str, created: int, decode: Callable[[Sequence[int]], str]) -> None:
        super().__init__(model=model, created=created, decode=decode)
        self._offsets: dict[int, int] = {}

    def choice(self, index: int, done: Completion) -> dict[str, Any]:
        """A whole choice."""
        return self._written(index, done.text or "", done.logprobs, done.finish_reason)

    def opening(self, index: int) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece of a choice."""
        return self._written(index, piece.text or "", piece.logprobs or None, None)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        """Why it ended."""
        return self._written(index, "", None, reason)

    def _written(self, index: int, text: str, logprobs: Sequence[Logprob] | None, reason: str | None) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": None if logprobs is None else self._logprobs(index, logprobs),
            "finish_reason": reason,
        }

    def _logprobs(self, index: int, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        tokens = [self._text(one.token_id) for one in logprobs]
        offsets, place = [], self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(place)
            place += len(token)
        self._offsets[index] = place
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [{self._text(token): value for token, value in one.top} for one in logprobs],
            "text_offset": offsets,
        }


class ChatShape(_Shape):
    """POST /v1/chat/completions."""

    kind, prefix = "chat.completion", "chatcmpl"

    def choice(self, index: int, done: Completion) -> dict[str, Any]:
        """A whole choice."""
        message = {"role": "assistant", "content": done.text or "", "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(done.logprobs),
            "finish_reason": done.finish_reason,
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        """Who speaks."""
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece of a choice."""
        return self._delta(index, {"content": piece.text or ""}, piece.logprobs or None, None)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        """Why it ended."""
        return self._delta(index, {}, None, reason)

    def _delta(
        self, index: int, delta: dict[str, Any], logprobs: Sequence[Logprob] | None, reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": self._logprobs(logprobs), "finish_reason": reason}

    def _logprobs(self, logprobs: Sequence[Logprob] | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        content = [
            {**self._one(one.token_id, one.logprob), "top_logprobs": [self._one(*pair) for pair in one.top]}
            for one in logprobs
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        # A token that ends within a character has no text of its own, and so no bytes that could be told.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _usage(done: Sequence[Completion]) -> dict[str, int]:
    """What all choices read and wrote, which is what is paid for."""
    read = sum(one.usage.prompt_tokens for one in done)
    written = sum(one.usage.completion_tokens for one in done)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
