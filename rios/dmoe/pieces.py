"""An answer piece by piece, for one reader: what of its text is certain by now, and was not shown yet."""

from __future__ import annotations

from collections.abc import Sequence

from rios.dmoe.completion import Logprob, Piece
from rios.dmoe.stopping import Detokenizer, cut, safe
from rios.dmoe.tokenizer import Tokenizing
from rios.words.display import Shown


class Pieces(Shown):
    """How far one reader is. Not for several threads."""

    def __init__(self, tokenizing: Tokenizing, stops: Sequence[str]) -> None:
        self.read = 0
        """Tokens that were taken."""
        self._decoder = Detokenizer(tokenizing) if tokenizing.present else None
        self._stops = tuple(stops)
        self._text = ""
        self._shown = 0

    def __repr__(self) -> str:
        return f"<Pieces, {self.read} tokens read>"

    def take(self, ids: Sequence[int], logprobs: Sequence[Logprob], *, ended: bool) -> Piece | None:
        """The piece that the next tokens make; None where they show nothing. ended: there are no more."""
        self.read += len(ids)
        if self._decoder is None:
            return Piece(None, tuple(ids), tuple(logprobs)) if ids else None
        self._text += "".join([self._decoder.push(token) for token in ids]) + (self._decoder.flush() if ended else "")
        whole, found = cut(self._text, self._stops)
        stop = len(whole) if found or ended else safe(self._text, self._stops)
        shown, self._shown = self._shown, max(self._shown, stop)
        return Piece(whole[shown:stop], tuple(ids), tuple(logprobs)) if ids or stop > shown else None
