"""From logits to a token, in the steps of transformers' `generate` and through its own LogitsProcessor classes:
bias, repetition penalty, temperature, top-k, top-p, min-p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rios.dmoe.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Choice:
    """One chosen token.

    logprob   natural logarithm of the model's own probability of it (log_softmax of the raw logits, before
              penalty, temperature and filters); None unless asked for
    top       the most likely (token id, logprob) pairs, most likely first; empty unless asked for
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class NoChoice:
    """None can be chosen: the logits are no numbers, or what was done to them made them so."""

    why: str


@torch.inference_mode()
def choose(
    logits: Tensor,
    params: Sequence[SamplingParams],
    history: Sequence[Sequence[int]],
    positions: Sequence[int],
    seeds: Sequence[int],
) -> list[Choice | NoChoice]:
    """Choose the next token of each request.

    logits      float32 [B, vocab], raw
    params      B validated SamplingParams
    history     B token sequences, prompt and answer so far; read only where a repetition penalty applies
    positions   B positions of the tokens to choose: a replay of the same position draws the same number
    seeds       B integers in [0, 2**64); `params.seed` is not read, as a request without one has drawn its own

    A choice depends on its own row alone: never on the other rows, their order or their number.
    """
    likeliest: list[int] = logits.argmax(dim=-1).tolist()
    highest: list[float] = logits.amax(dim=-1).tolist()
    choices: list[Choice | NoChoice] = []
    for row, wanted in enumerate(params):
        token: int | None = likeliest[row]
        if not math.isfinite(highest[row]):
            choices.append(NoChoice(f"the highest logit of token {positions[row]} is {highest[row]}"))
            continue
        if not wanted.greedy:
            token = _pick(logits[row : row + 1], wanted, history[row], uniform(seeds[row], positions[row]))
        if token is None:
            choices.append(NoChoice(f"the logits of token {positions[row]} overflow by {wanted}"))
        else:
            choices.append(_explained(token, logits[row], wanted.logprobs))
    return choices


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) of 53 random bits, a pure function of `seed` and `position` (BLAKE2b, RFC 7693)."""
    digest = blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _pick(scores: Tensor, params: SamplingParams, history: Sequence[int], drawn: float) -> int | None:
    """The token; None where a score is no number or without an end."""
    processors = LogitsProcessorList()
    seen = torch.empty((1, 0), dtype=torch.int64)
    if params.logit_bias:
        scores = scores.clone()
        for token, bias in params.logit_bias:
            scores[0, token] += bias
    if params.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)))
        seen = torch.tensor([list(history)], dtype=torch.int64, device=scores.device)
    if params.temperature != 0.0:
        if params.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(float(params.temperature)))
        if params.top_k:
            processors.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1.0:
            processors.append(TopPLogitsWarper(params.top_p))
        if params.min_p:
            processors.append(MinPLogitsWarper(params.min_p))
    scores = processors(cast("torch.LongTensor", seen), scores)[0]
    if not math.isfinite(float(scores.amax())):
        return None
    if params.temperature == 0.0:
        return int(scores.argmax())
    return invert(scores.softmax(0, torch.float64), drawn)


def invert(probabilities: Tensor, drawn: float) -> int:
    """The token that `drawn` in [0, 1) falls on, each token as wide as its probability (float64 [vocab]).

    Double precision, since a float32 sum over a large vocabulary is off by more than the rarest tokens' widths.
    With `right=True` the sum passes the mark exactly at the token found: its probability is not zero.
    """
    reached = probabilities.cumsum(0)
    return int(torch.searchsorted(reached, reached[-1] * drawn, right=True))


def _explained(token: int, logits: Tensor, count: int | None) -> Choice:
    if count is None:
        return Choice(token)
    logprobs = logits.log_softmax(0)
    best = logprobs.topk(count)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(token, float(logprobs[token]), top)
