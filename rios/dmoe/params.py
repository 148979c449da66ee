"""How the next token is chosen and when a generation ends: the values that a request carries."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rios.words.errors import InvalidRequest

# Logits divided by much less than this leave float32 and become infinite, and infinities make NaN.
TEMPERATURE_MIN = 1e-4
PENALTY_MIN, PENALTY_MAX = 0.01, 100.0  # logits stay far from where numbers end
# As many alternatives per token as widely used HTTP interfaces return; more is an export of the vocabulary.
LOGPROBS_MAX = 20
BIAS_MAX = 100
BIASES_MAX = 1024
SEED_MAX = 2**64 - 1
FLOAT_MAX = sys.float_info.max  # an int may be beyond it, and NaN is not below it


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens. Call `validate` before use.

    temperature         0.0 is greedy (the most likely token); else logits are divided by it, at least 0.0001
    top_k               keep the k most likely tokens; 0 keeps all
    top_p               keep the most likely tokens that together reach this probability; in (0, 1], 1.0 is all
    min_p               drop tokens less likely than this share of the most likely one; in [0, 1], 0.0 is none
    repetition_penalty  divides positive and multiplies negative logits of tokens already in prompt or answer
                        (Keskar et al. 2019, CTRL, arXiv:1909.05858); 1.0 is none; in [0.01, 100]
    seed                the same seed gives the same tokens, alone or in any batch; None draws one per request
    max_new_tokens      tokens generated at most
    stop                generation ends where the text contains one of these
    stop_token_ids      generation ends at one of these, besides the checkpoint's own end-of-sequence tokens
    logprobs            None, or how many of the most likely tokens to report with their log-probabilities,
                        beside that of the chosen one
    ignore_eos          go on past the checkpoint's end-of-sequence tokens
    logit_bias          pairs of a token id and what is added to its logit, from -100 to 100, before all else
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def greedy(self) -> bool:
        """True where the most likely token is taken and nothing changes the logits before."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0 and not self.logit_bias

    def validate(self, vocab_size: int) -> None:
        """Raise InvalidRequest, naming field, value and bound, unless every field is within its bounds."""
        if _number("temperature", self.temperature) != 0.0 and self.temperature < TEMPERATURE_MIN:
            raise _outside("temperature", self.temperature, f"0 (greedy) or at least {TEMPERATURE_MIN}")
        if not 0.0 < _number("top_p", self.top_p) <= 1.0:
            raise _outside("top_p", self.top_p, "above 0 and at most 1 (1 keeps all)")
        if not 0.0 <= _number("min_p", self.min_p) <= 1.0:
            raise _outside("min_p", self.min_p, "from 0 (keeps all) to 1")
        if not PENALTY_MIN <= _number("repetition_penalty", self.repetition_penalty) <= PENALTY_MAX:
            bound = f"from {PENALTY_MIN} to {PENALTY_MAX:g} (1 is none)"
            raise _outside("repetition_penalty", self.repetition_penalty, bound)
        _integer("top_k", self.top_k, low=0, high=None)
        _integer("max_new_tokens", self.max_new_tokens, low=1, high=None)
        if self.seed is not None:
            _integer("seed", self.seed, low=0, high=SEED_MAX)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, low=0, high=min(LOGPROBS_MAX, vocab_size))
        for text in _listed("stop", self.stop):
            if not isinstance(text, str) or not text:
                raise _outside("stop", text, "texts of at least one character")
        for token in _listed("stop_token_ids", self.stop_token_ids):
            _integer("stop_token_ids", token, low=0, high=vocab_size - 1)
        _check_biases(self.logit_bias, vocab_size)
        if not isinstance(self.ignore_eos, bool):
            raise _outside("ignore_eos", self.ignore_eos, "True or False")


def _check_biases(biases: object, vocab_size: int) -> None:
    pairs: Sequence[Any] = _listed("logit_bias", biases)
    for pair in pairs:
        try:
            token, bias = pair
            _integer("the token id", token, low=0, high=vocab_size - 1)
            good = abs(_number("the bias", bias)) <= BIAS_MAX
        except (TypeError, ValueError) as error:
            raise _outside(
                "logit_bias", pair, f"pairs of a token id from 0 to {vocab_size - 1} and a number"
            ) from error
        if not good:
            raise _outside("logit_bias", pair, f"pairs of a token id and a number from -{BIAS_MAX} to {BIAS_MAX}")
    if len(pairs) > BIASES_MAX:
        raise _outside("logit_bias", f"{len(pairs)} pairs", f"at most {BIASES_MAX}")


def check_timeout(value: object) -> float | None:
    """A caller's `timeout`: seconds, or None to wait without a bound. Raises InvalidRequest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= threading.TIMEOUT_MAX:
        raise _outside("timeout", value, "a finite number of seconds, at least 0, or None")
    return float(value)


def _outside(field: str, value: object, bound: str) -> InvalidRequest:
    return InvalidRequest(f"{field} is {value!r}; it must be {bound}")


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= FLOAT_MAX:
        raise _outside(field, value, "a finite number")
    return value


def _integer(field: str, value: object, *, low: int, high: int | None) -> None:
    bound = f"a whole number, at least {low}" if high is None else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise _outside(field, value, bound)
    if high is not None and value > high:
        raise _outside(field, value, bound)


def _listed(field: str, value: object) -> Sequence[object]:
    if not isinstance(value, tuple | list):
        raise _outside(field, value, "a tuple")
    return value
