from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rios.dmoe.params import LOGPROBS_MAX, SEED_MAX, TEMPERATURE_MIN, SamplingParams
from rios.words.errors import InvalidRequest

VOCAB = 50

ACCEPTED = {
    "temperature": [0.0, 0, 1, 0.7, TEMPERATURE_MIN, 1000.0],
    "top_k": [0, 1, VOCAB, VOCAB + 1],
    "top_p": [1.0, 1, 1e-9],
    "min_p": [0.0, 1.0, 0.05],
    "repetition_penalty": [1.0, 0.5, 2],
    "seed": [None, 0, SEED_MAX],
    "max_new_tokens": [1, 10**6],
    "stop": [(), ("a", "end of\n")],
    "stop_token_ids": [(), (0, VOCAB - 1)],
    "logprobs": [None, 0, LOGPROBS_MAX],
    "ignore_eos": [True, False],
    "logit_bias": [(), ((0, -100), (VOCAB - 1, 100.0)), [[3, 0.5]]],
}

REFUSED = {
    "temperature": [-0.1, float("nan"), float("inf"), 10**400, TEMPERATURE_MIN / 2, "hot", None, True],
    "top_k": [-1, 1.5, None, True],
    "top_p": [0.0, -0.5, 1.0001, float("nan"), "0.5"],
    "min_p": [-0.01, 1.01, float("nan"), None],
    "repetition_penalty": [0.0, -1.0, float("inf"), float("nan")],
    "seed": [-1, SEED_MAX + 1, 1.0, "7"],
    "max_new_tokens": [0, -5, 2.0, None],
    "stop": ["text", ("",), (1,), None],
    "stop_token_ids": [(-1,), (VOCAB,), ("a",), 3, (True,)],
    "logprobs": [-1, LOGPROBS_MAX + 1, 1.5, False],
    "ignore_eos": [1, None],
    "logit_bias": [3, None, ((0,),), ((-1, 1),), ((VOCAB, 1),), ((0, 101),), ((0, "a"),), ((0, float("nan")),), (3,)],
}


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in table.items() for value in values]


def test_every_field_has_cases() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert fields == ACCEPTED.keys() == REFUSED.keys()


@pytest.mark.parametrize(("field", "value"), cases(ACCEPTED))
def test_accepts(field: str, value: Any) -> None:
    SamplingParams(**{field: value}).validate(VOCAB)


@pytest.mark.parametrize(("field", "value"), cases(REFUSED))
def test_refuses_and_names_the_field_and_the_value(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{field: value}).validate(VOCAB)
    inner = value[0] if isinstance(value, tuple) else value
    assert str(caught.value).startswith(f"{field} is {inner!r}; it must be ")


def test_logprobs_are_bounded_by_a_small_vocabulary() -> None:
    SamplingParams(logprobs=7).validate(7)
    with pytest.raises(InvalidRequest, match="logprobs is 8; it must be a whole number from 0 to 7"):
        SamplingParams(logprobs=8).validate(7)


def test_greedy_is_without_temperature_and_penalty() -> None:
    assert SamplingParams().greedy
    assert SamplingParams(top_k=5, top_p=0.5).greedy
    assert not SamplingParams(temperature=0.5).greedy
    assert not SamplingParams(repetition_penalty=1.1).greedy
