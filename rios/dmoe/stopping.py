"""Token ids to text as they come, and stop strings within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoding(Protocol):
    """What makes text of tokens: `rios.dmoe.tokenizer.Tokenizing`."""

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text, without that of special tokens."""


class Detokenizer:
    """Incremental decoding: `push` returns the text that has become certain.

    A byte-level token may end within a character, which decodes to U+FFFD; such text is held back until it is whole.
    Only a window of recent tokens is decoded again, so the cost of a token does not grow with the answer.
    """

    def __init__(self, tokenizer: Decoding) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._prefix = 0  # ids before this are only context for the decoder
        self._read = 0  # ids before this have been returned

    def push(self, token: int) -> str:
        """Add a token; returns new text, possibly empty."""
        self._ids.append(token)
        return self._advance(final=False)

    def flush(self) -> str:
        """What was held back."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._prefix : self._read])
        now = self._decode(self._ids[self._prefix :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)


class StopText:
    """Watches text for stop strings."""

    def __init__(self, tokenizer: Decoding, stops: Sequence[str], tokens: Sequence[int] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = tuple(stops)
        self._keep = max(len(stop) for stop in stops)
        self._tail = ""
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> bool:
        """Add a token; True once a stop string is complete."""
        self._tail += self._detokenizer.push(token)
        found = any(stop in self._tail for stop in self._stops)
        self._tail = self._tail[-(2 * self._keep + 256) :]
        return found


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop string, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def safe(text: str, stops: Sequence[str]) -> int:
    """How many characters of `text` can be shown: no stop string begins in them and ends later."""
    held = 0
    for stop in stops:
        for count in range(min(len(stop) - 1, len(text)), held, -1):
            if text.endswith(stop[:count]):
                held = count
                break
    return len(text) - held
