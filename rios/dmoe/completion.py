"""What a generation returns: text, tokens, why it ended, what was used and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rios.words.display import Shown, html_line, html_table

# Why an answer ends, for people; other reasons are shown as they are.
_ENDS = {"length": "ended by max_new_tokens", "stop": "ended by itself", "balance": "paused: the balance was used up"}


@dataclass(frozen=True, slots=True)
class HostUsage(Shown):
    """What one host did for one request."""

    rows: int
    compute_ns: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Usage(Shown):
    """What one request used, summed over the accepted replies of all hosts.

    prompt_tokens, completion_tokens   tokens read and written
    rows                               (token, expert) pairs computed: a pure function of tokens, layers and top-k
    compute_ns                         nanoseconds that hosts measured, split over the requests of a batch by rows
    wire_bytes                         bytes of calls and answers between trunk and hosts
    by_host                            the same for each host
    """

    prompt_tokens: int
    completion_tokens: int
    rows: int
    compute_ns: int
    wire_bytes: int
    by_host: Mapping[str, HostUsage] = field(default_factory=dict)

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timing(Shown):
    """Seconds as the client saw them."""

    first_token_s: float | None
    total_s: float
    tokens_per_s: float | None  # after the first token; None with fewer than two
    replays: int = 0  # times a lost trunk was replaced


@dataclass(frozen=True, slots=True)
class Logprob(Shown):
    """Natural logarithms of the model's own probabilities, before temperature and filters."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece(Shown):
    """One part of a stream: the text that became certain with `token_ids`."""

    text: str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one prompt.

    text            new text only; None where the checkpoint has no tokenizer
    token_ids       new tokens only
    finish_reason   "stop" (end of sequence, stop string or stop token), "length", or "balance": it paused for lack of
                    money, and none came in time (RIOS_HOLD_GRACE_S)
    """

    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    timing: Timing
    logprobs: tuple[Logprob, ...] | None = None
    request_id: str = ""

    def __str__(self) -> str:
        return self.text if self.text is not None else str(list(self.token_ids))

    def __repr__(self) -> str:
        speed = f", {self.timing.tokens_per_s:.0f} tokens/s" if self.timing.tokens_per_s else ""
        return f"<Completion {len(self.token_ids)} tokens, {self.finish_reason}{speed}>"

    def _repr_html_(self) -> str:
        hosts = [
            (name, f"{used.rows:,}", f"{used.compute_ns / 1e6:,.1f} ms")
            for name, used in sorted(self.usage.by_host.items())
        ]
        why = _ENDS.get(self.finish_reason, self.finish_reason)
        about = f"{len(self.token_ids)} tokens in {self.timing.total_s:.2f} s, {why}"
        return html_line(self) + html_line(about, minor=True) + html_table(("host", "expert rows", "compute"), hosts)
