from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList

from rios.dmoe.params import SamplingParams
from rios.dmoe.sampling import Choice, NoChoice, choose, invert, uniform
from rios.words.errors import InvalidRequest

torch.set_num_threads(1)
VOCAB = 40
FIRST_DRAW = 0.0564663990004608  # blake2b of sixteen zero bytes


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, VOCAB), generator=torch.Generator().manual_seed(seed)) * 3


def draw(logits: torch.Tensor, params: SamplingParams, count: int) -> list[int]:
    rows = logits.expand(count, -1)
    return [c.token_id for c in choose(rows, [params] * count, [()] * count, range(count), [11] * count)]


sampling = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([1.0, 0.9, 0.2]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    logprobs=st.sampled_from([None, 0, 3]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(sampling, min_size=2, max_size=7), st.randoms(use_true_random=False))
def test_a_choice_is_the_same_alone_and_in_any_batch(params: list[SamplingParams], random: Any) -> None:
    count = len(params)
    logits = logits_of(count, seed=random.randrange(1000))
    history = [[random.randrange(VOCAB) for _ in range(random.randrange(1, 9))] for _ in params]
    positions = [random.randrange(500) for _ in params]
    seeds = [random.randrange(2**64) for _ in params]
    together = choose(logits, params, history, positions, seeds)
    order = random.sample(range(count), count)
    shuffled = choose(
        logits[order],
        [params[i] for i in order],
        [history[i] for i in order],
        [positions[i] for i in order],
        [seeds[i] for i in order],
    )
    assert [together[i] for i in order] == shuffled
    for i in range(count):
        alone = choose(logits[i : i + 1], [params[i]], [history[i]], [positions[i]], [seeds[i]])
        assert alone == [together[i]]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_uniform_is_pure_and_within_zero_and_one(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0
    assert uniform(seed, position) == uniform(seed, position)


def test_uniform_is_written_in_stone() -> None:
    """A replay on another host, or by another version, must draw the same numbers."""
    assert uniform(0, 0) == FIRST_DRAW
    assert uniform(1, 0) != uniform(0, 1) != uniform(0, 0)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=1.5, top_k=6),
        SamplingParams(temperature=1.0, top_p=0.8),
        SamplingParams(temperature=1.2, min_p=0.05),
        SamplingParams(temperature=1.3, top_k=12, top_p=0.9, min_p=0.02),
    ],
)
def test_drawn_tokens_follow_the_distribution_that_generate_samples_from(params: SamplingParams) -> None:
    """Pearson's chi-square at 1 in 10,000, fixed seeds: a wrong order of steps or a skewed inverse shows."""
    logits, count = logits_of(1, seed=3), 6000
    expected = filtered_by_generate(logits, params).softmax(-1)[0].double()
    drawn = torch.bincount(torch.tensor(draw(logits, params, count)), minlength=VOCAB).double()
    assert drawn[expected == 0].sum() == 0
    frequent = expected * count >= 5
    assert frequent.sum() >= 4
    pairs = [(float(drawn[i]), float(expected[i]) * count) for i in range(VOCAB) if frequent[i]]
    rest = float(drawn[~frequent].sum()), float(expected[~frequent].sum()) * count
    pairs += [rest] if rest[1] > 1 else []
    statistic = sum((seen - due) ** 2 / due for seen, due in pairs)
    assert statistic < chi_square_bound(len(pairs) - 1)


def chi_square_bound(freedom: int) -> float:
    """The 0.9999 quantile by Wilson and Hilferty (1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3


def filtered_by_generate(logits: torch.Tensor, params: SamplingParams, seen: Sequence[int] = ()) -> torch.Tensor:
    """What transformers' `generate` makes of the logits before it draws."""
    config = GenerationConfig(
        do_sample=True,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p or None,
        repetition_penalty=params.repetition_penalty,
    )
    processors = Generator()._get_logits_processor(config, input_ids_seq_length=len(seen))
    assert isinstance(processors, LogitsProcessorList)
    return processors(torch.tensor([list(seen)], dtype=torch.int64), logits)


class Generator(GenerationMixin):
    config = SimpleNamespace(is_encoder_decoder=False)


@settings(max_examples=80, deadline=None)
@given(sampling.filter(lambda params: params.temperature > 0), st.integers(0, 400), st.integers(0, 10**6))
def test_a_token_is_the_inverse_of_generates_filters(params: SamplingParams, case: int, position: int) -> None:
    logits, seen = logits_of(1, seed=case), (case % VOCAB, 3, 3, 17)
    probabilities = filtered_by_generate(logits, params, seen)[0].softmax(0, torch.float64)
    chosen = choose(logits, [params], [seen], [position], [5])[0].token_id
    assert chosen == invert(probabilities, uniform(5, position))


def test_greedy_takes_the_likeliest_token() -> None:
    logits = logits_of(5)
    chosen = choose(logits, [SamplingParams()] * 5, [()] * 5, [0] * 5, [0] * 5)
    assert chosen == [Choice(int(row.argmax())) for row in logits]


def test_the_repetition_penalty_applies_to_greedy_choices_too() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    params = SamplingParams(repetition_penalty=1.5)
    assert choose(logits, [params], [[2]], [0], [0])[0].token_id == 0
    assert choose(logits, [params], [[0]], [0], [0])[0].token_id == 1


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = logits_of(1, seed=9)
    params = SamplingParams(temperature=0.5, top_k=4, repetition_penalty=1.4, logprobs=5)
    chosen = choose(logits, [params], [[1, 2]], [7], [21])[0]
    raw = logits[0].log_softmax(0)
    assert chosen.logprob == float(raw[chosen.token_id])
    assert [token for token, _ in chosen.top] == raw.argsort(descending=True)[:5].tolist()
    assert [value for _, value in chosen.top] == raw.sort(descending=True).values[:5].tolist()


def test_no_logprobs_unless_asked_for_and_none_beside_the_chosen_at_zero() -> None:
    logits = logits_of(1)
    assert choose(logits, [SamplingParams()], [()], [0], [0])[0].logprob is None
    chosen = choose(logits, [SamplingParams(logprobs=0)], [()], [0], [0])[0]
    assert chosen.top == ()
    assert chosen.logprob == float(logits[0].log_softmax(0).max())


@pytest.mark.parametrize("drawn", [0.0, 0.25, 0.5, math.nextafter(1.0, 0.0)])
def test_a_token_of_probability_zero_is_never_drawn(drawn: float) -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0], dtype=torch.float64)
    token = invert(probabilities, drawn)
    assert token == {0.0: 1, 0.25: 3, 0.5: 4}.get(drawn, 4)


def test_a_wide_vocabulary_is_inverted_without_loss() -> None:
    """A float32 running sum over 200,000 equal tokens reaches 1 too early or too late by whole tokens."""
    count = 200_000
    even = torch.full((count,), 1.0 / count, dtype=torch.float64)
    for share in (0.1, 0.5, 0.9, 0.99999):
        assert abs(invert(even, share) - share * count) <= 1


def test_a_bias_forces_and_forbids_tokens_and_leaves_logprobs_raw() -> None:
    logits = logits_of(1, 5)
    first, second = logits[0].topk(2).indices.tolist()
    kept = logits.clone()
    for temperature in (0.0, 1.0):
        forbidden = draw(logits, SamplingParams(temperature=temperature, logit_bias=((first, -100),)), 50)
        assert first not in forbidden
        assert set(draw(logits, SamplingParams(temperature=temperature, logit_bias=((7, 100),)), 50)) == {7}
    (choice,) = choose(logits, [SamplingParams(logit_bias=((first, -100),), logprobs=1)], [()], [0], [1])
    assert choice.token_id == second
    assert choice.top[0][0] == first
    assert torch.equal(logits, kept), "the row of a batch is not touched"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_of_no_numbers_fails_alone(broken: float) -> None:
    logits = logits_of(3)
    logits[1] = broken
    for params in (SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9)):
        first, second, third = choose(logits, [params] * 3, [()] * 3, range(3), [11] * 3)
        assert isinstance(second, NoChoice)
        assert str(broken) in second.why
        assert [first] == choose(logits[:1], [params], [()], [0], [11])
        assert [third] == choose(logits[2:], [params], [()], [2], [11])


def test_what_overflows_by_its_parameters_is_no_choice() -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=0.01)
    (found,) = choose(torch.full((1, VOCAB), 3e37), [params], [[5]], [1], [11])
    assert isinstance(found, NoChoice)


@pytest.mark.parametrize("penalty", [0.0, 1e-300, 0.009, 100.1, 1e300, math.nan])
def test_a_penalty_has_bounds(penalty: float) -> None:
    with pytest.raises(InvalidRequest, match=r"repetition_penalty is .*must be"):
        SamplingParams(repetition_penalty=penalty).validate(VOCAB)
