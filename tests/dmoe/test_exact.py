"""The tokens of one-process transformers, whoever hosts what."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import rios
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.params import SamplingParams
from rios.dmoe.sampling import choose, uniform
from tests import checkpoints
from tests.architectures import PROMPTS

NEW = 10
FORCED = 6
LOGPROB_MAX = 1e-4
WIRE_MAX = 0.05  # five times what was measured
ULPS = 2
UNITS = {"bfloat16": 7, "float16": 10}  # bits behind the point
TEMPERATURE = 0.8
SEEDS = (11, 12, 13, 14)
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "ignore_eos": True}
SAMPLED: dict[str, Any] = {**GREEDY, "temperature": TEMPERATURE, "top_p": 0.9, "top_k": 20, "seed": 11}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("float32")
    return {name: checkpoints.make(name, folder / name) for name in checkpoints.NAMED}


@pytest.fixture(scope="module", params=[1, 2, 3, 5])
def spread(request: pytest.FixtureRequest) -> Iterator[rios.Network]:
    """Networks of 1, 2, 3 and 5 hosts, one after another."""
    with rios.local(workers=request.param, threads=1) as net:
        yield net


@pytest.fixture(scope="module")
def two() -> Iterator[rios.Network]:
    with rios.local(workers=2, threads=1) as net:
        yield net


class Reference:
    """One-process transformers, each prompt alone."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        with checkpoints.quiet():
            self._model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()

    @torch.inference_mode()
    def greedy(self, prompt: tuple[int, ...], count: int) -> tuple[tuple[int, ...], tuple[torch.Tensor, ...]]:
        """What `generate` answers, and the raw logits [vocab] behind each token."""
        ids = torch.tensor([prompt])
        with checkpoints.quiet():
            made = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return tuple(made.sequences[0, len(prompt) :].tolist()), tuple(row[0].float() for row in made.logits)

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Raw logits [vocab] after `tokens`, in one forward without a cache."""
        row: torch.Tensor = self._model(torch.tensor([tokens]), use_cache=False).logits[0, -1].float()
        return row

    def sampled(self, prompt: tuple[int, ...], params: SamplingParams) -> tuple[int, ...]:
        """Tokens drawn from these logits with the seed of `params`."""
        tokens = list(prompt)
        for _ in range(params.max_new_tokens):
            tokens.append(_drawn(self.logits(tokens), params, tokens))
        return tuple(tokens[len(prompt) :])


def _drawn(row: torch.Tensor, params: SamplingParams, tokens: list[int]) -> int:
    (chosen,) = choose(row[None], [params], [tokens], [len(tokens)], [params.seed or 0])
    return chosen.token_id


@dataclass(frozen=True)
class Expected:
    """What transformers answers to PROMPTS."""

    greedy: tuple[tuple[int, ...], ...]
    logits: tuple[tuple[torch.Tensor, ...], ...]
    sampled: tuple[tuple[int, ...], ...]


@pytest.fixture(scope="module")
def expected(paths: dict[str, Path]) -> dict[str, Expected]:
    """Once for all numbers of hosts."""
    found = {}
    for name, path in paths.items():
        reference = Reference(path, torch.float32)
        greedy, logits = zip(*(reference.greedy(prompt, NEW) for prompt in PROMPTS), strict=True)
        sampled = tuple(reference.sampled(prompt, SamplingParams(**SAMPLED)) for prompt in PROMPTS)
        found[name] = Expected(greedy, logits, sampled)
    return found


@pytest.fixture(scope="module")
def bits() -> dict[str, Any]:
    """What the first number of hosts answered, for the others to equal."""
    return {}


def test_float32(
    spread: rios.Network, paths: dict[str, Path], expected: dict[str, Expected], bits: dict[str, Any]
) -> None:
    """Greedy and seeded tokens, log-probabilities, equal to the bit for every number of hosts; and the usage."""
    prompts = [list(prompt) for prompt in PROMPTS]
    for name, path in paths.items():
        with spread.dmoe.deploy(path, replicas=1, progress=False) as model:
            together = model.generate(prompts, logprobs=5, timeout=60, **GREEDY)
            alone = [model.generate(prompt, logprobs=5, timeout=60, **GREEDY) for prompt in prompts]
            sampled = model.generate(prompts, timeout=60, **SAMPLED)
            sampled_alone = model.generate(prompts[0], timeout=60, **SAMPLED)
        wanted = expected[name]
        assert tuple(answer.token_ids for answer in together) == wanted.greedy, name
        assert tuple(answer.token_ids for answer in alone) == wanted.greedy, name
        assert tuple(answer.token_ids for answer in sampled) == wanted.sampled, name
        assert sampled_alone.token_ids == wanted.sampled[0], name
        for answer, logits in zip([*together, *alone], wanted.logits * 2, strict=True):
            _assert_close(answer, logits, LOGPROB_MAX, name)
        # Prompts that share a forward share it with whoever has come by then: only those alone are bound to bits.
        # (test_bits.py drives the steps itself, so that the same ones share each.)
        found = [answer.logprobs for answer in alone]
        assert bits.setdefault(name, found) == found, name

        per_token = sum(layer.top_k for layer in read_manifest(path).layers)
        used_by: set[str] = set()
        for answer, prompt in zip([*together, *alone], prompts * 2, strict=True):
            assert answer.usage.rows == per_token * (len(prompt) + NEW - 1), name
            assert sum(used.rows for used in answer.usage.by_host.values()) == answer.usage.rows, name
            used_by.update(answer.usage.by_host)
        assert len(used_by) == len(spread.workers), f"{name}: only {sorted(used_by)} computed"


def _assert_close(answer: Any, logits: tuple[torch.Tensor, ...], bound: float, name: str) -> None:
    """The chosen and the most likely tokens' log-probabilities are those of `logits`."""
    for said, row in zip(answer.logprobs, logits, strict=True):
        wanted = row.log_softmax(-1)
        for token, value in ((said.token_id, said.logprob), *said.top):
            assert abs(value - float(wanted[token])) <= bound, f"{name}: token {token}"


def test_usage_counts_replicas_once(two: rios.Network, paths: dict[str, Path]) -> None:
    for name in ("mixtral", "qwen2_moe", "gpt_oss"):
        per_token = sum(layer.top_k for layer in read_manifest(paths[name]).layers)
        with two.dmoe.deploy(paths[name], replicas=2, progress=False) as model:
            answers = model.generate([list(prompt) for prompt in PROMPTS], **GREEDY)
        for answer, prompt in zip(answers, PROMPTS, strict=True):
            assert answer.usage.rows == per_token * (len(prompt) + NEW - 1), name
            assert sum(used.rows for used in answer.usage.by_host.values()) == answer.usage.rows, name


@dataclass(frozen=True)
class Forced:
    """Prefixes of transformers' own answers in half precision, and its logits [vocab] after each."""

    path: Path
    prefixes: list[list[int]]
    rows: list[torch.Tensor]


@pytest.fixture(scope="module")
def forced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Forced]]:
    """By dtype and architecture, once for all numbers of hosts."""
    found: dict[str, dict[str, Forced]] = {}
    for dtype in UNITS:
        folder = tmp_path_factory.mktemp(dtype)
        for name in checkpoints.NAMED:
            path = checkpoints.make(name, folder / name, dtype=dtype)
            reference = Reference(path, getattr(torch, dtype))
            prefixes = []
            for prompt in PROMPTS[::2]:
                tokens, _ = reference.greedy(prompt, FORCED)
                prefixes += [[*prompt, *tokens[:count]] for count in range(FORCED)]
            rows = [reference.logits(prefix) for prefix in prefixes]
            found.setdefault(dtype, {})[name] = Forced(path, prefixes, rows)
    return found


def test_half_precision_teacher_forced(spread: rios.Network, forced: dict[str, dict[str, Forced]]) -> None:
    """The next token after each prefix of the reference's answers, greedy and sampled, wherever changing every logit
    by 2 units in the last place would leave the reference's own. All prefixes of unlike lengths at once."""
    one: dict[str, Any] = {"max_new_tokens": 1, "ignore_eos": True, "timeout": 60}
    # On two hosts each dtype with several seeds; who hosts what does not change bits (test_bits.py).
    two = len(spread.workers) == 2
    seeds = SEEDS if two else SEEDS[:1]
    for dtype in UNITS if two else ("bfloat16",):
        greedy_compared = sampled_compared = 0
        for name, case in forced[dtype].items():
            with spread.dmoe.deploy(case.path, replicas=1, progress=False) as model:
                greedy = model.generate(case.prefixes, **one)
                sampled = [model.generate(case.prefixes, temperature=TEMPERATURE, seed=seed, **one) for seed in seeds]
            for prefix, row, likeliest, *drawn in zip(case.prefixes, case.rows, greedy, *sampled, strict=True):
                high, second = row.topk(2).values.tolist()
                change = ULPS * _ulp(high, dtype)
                if high - second > change:
                    greedy_compared += 1
                    assert likeliest.token_ids == (int(row.argmax()),), f"{name}, {dtype}, after {prefix}"
                for answer, seed in zip(drawn, seeds, strict=True):
                    if _sure(row, uniform(seed, len(prefix)), change):
                        sampled_compared += 1
                        sampling = SamplingParams(temperature=TEMPERATURE, seed=seed)
                        assert answer.token_ids == (_drawn(row, sampling, prefix),), f"{name}, {dtype}, after {prefix}"
        assert greedy_compared > 90, dtype
        assert sampled_compared > 25 * len(seeds), dtype


def _ulp(value: float, dtype: str) -> float:
    """The unit in the last place of a value of a dtype."""
    return 2.0 ** (math.floor(math.log2(abs(value))) - UNITS[dtype]) if value else 0.0


def _sure(row: torch.Tensor, drawn: float, change: float) -> bool:
    """Whether `drawn` falls on the same token however each logit changes by at most `change`: the odds of the tokens
    before an edge then change by at most a factor of exp(2 change / temperature)."""
    edges = (row.double() / TEMPERATURE).softmax(0).cumsum(0)
    odds = (edges / (1 - edges).clamp_min(1e-12)).log()
    mark = math.log(drawn / (1 - drawn))
    return bool(((odds - mark).abs() > 2 * change / TEMPERATURE).all())


def test_partial_sums_and_bf16_on_the_wire_are_close(
    two: rios.Network, paths: dict[str, Path], expected: dict[str, Expected]
) -> None:
    for name in ("olmoe", "qwen2_moe", "gpt_oss", "jamba"):
        wanted = expected[name]
        prefixes = [[*PROMPTS[3], *wanted.greedy[3][:count]] for count in range(NEW)]
        for options, bound in (({"partial": True}, LOGPROB_MAX), ({"wire_dtype": "bfloat16"}, WIRE_MAX)):
            with two.dmoe.deploy(paths[name], replicas=1, progress=False, **options) as model:
                answers = model.generate(prefixes, logprobs=5, max_new_tokens=1, ignore_eos=True, timeout=60)
            for answer, row in zip(answers, wanted.logits[3], strict=True):
                _assert_close(answer, (row,), bound, f"{name} {options}")
            if "partial" in options:
                assert tuple(answer.token_ids[0] for answer in answers) == wanted.greedy[3], name


def test_prompts_that_cannot_be_answered_say_why(two: rios.Network, paths: dict[str, Path]) -> None:
    with two.dmoe.deploy(paths["olmoe"], progress=False) as model:
        vocab = model._deployment.manifest.vocab_size
        context = model._deployment.manifest.context_length
        for prompt, params, said in (
            ([], {}, "empty"),
            ("text", {}, "no tokenizer"),
            ([vocab], {}, f"0..{vocab - 1}"),
            ([1] * context, {"max_new_tokens": 1}, f"context of {context}"),
            ([1], {"temperature": float("nan")}, "temperature"),
            ([1], {"top_p": 0.0}, "top_p"),
            ([1], {"nonsense": 1}, "unknown parameter"),
            ([1], {"stop": ["x"]}, "stop_token_ids"),
            ([1, "a"], {}, "mixture"),
            (3.5, {}, "float"),
        ):
            with pytest.raises(rios.errors.InvalidRequest, match=said):
                model.generate(prompt, **params)
        assert model.generate([1], max_new_tokens=0).token_ids == ()
        assert model.generate([1]).text is None
        with pytest.raises(rios.errors.InvalidRequest, match="not a directory"):
            two.dmoe.deploy("/no/such/checkpoint")
    with pytest.raises(rios.errors.NetworkClosed):
        model.generate([1])
