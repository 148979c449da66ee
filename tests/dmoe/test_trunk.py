from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rios.dmoe import forward as forward_module
from rios.dmoe.architecture import experts_modules
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.seam import ExpertsFn, StepContext
from rios.dmoe.source import FileSource, shard_sha256
from rios.dmoe.trunk import Slot, Trunk, partition
from rios.words.errors import CheckpointCorrupt, ExpertsUnavailable, InvalidRequest, ShardMismatch
from tests import checkpoints

torch.set_num_threads(1)
CPU = torch.device("cpu")

# As they are released, mixtral and phimoe attend to everything; the tiny ones have a window unless it is taken away.
FULL = {"mixtral": {"sliding_window": None}, "phimoe": {"sliding_window": None}}
BATCHED = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v3", "granitemoe", "phimoe", "ernie4_5_moe")
PER_REQUEST = {
    "gpt_oss": "DynamicSlidingWindowLayer",
    "jamba": "LinearAttentionLayer",
    "mixtral": "DynamicSlidingWindowLayer",
    "minimax": "MiniMaxCache",
}


def experts_of(reference: PreTrainedModel) -> ExpertsFn:
    """The experts of the whole model, for the rows that are not padding."""
    modules = [module for _, module in experts_modules(reference)]

    def ask(layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
        answer = torch.zeros_like(hidden)
        real = torch.from_numpy(context.owner >= 0)
        answer[real] = modules[layer](hidden[real], index[real], weights[real])
        return answer

    return ask


def trunk_of(path: Path, experts: ExpertsFn, *, dtype: torch.dtype = torch.float32) -> Trunk:
    manifest = read_manifest(path)
    source = FileSource(path, manifest.files)
    return Trunk(manifest, source, dtype=dtype, device=CPU, experts=experts, name="tiny")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Trunk, PreTrainedModel]]:
    """A trunk of a tiny checkpoint, its experts computed in this process, and the whole model beside it."""
    made: dict[str, tuple[Trunk, PreTrainedModel]] = {}

    def get(model_type: str, **overrides: Any) -> tuple[Trunk, PreTrainedModel]:
        name = repr((model_type, overrides))
        if name not in made:
            path = checkpoints.make(model_type, tmp_path_factory.mktemp(model_type), **overrides)
            reference = checkpoints.model(model_type, **overrides)
            made[name] = trunk_of(path, experts_of(reference)), reference
        return made[name]

    return get


def text(length: int, seed: int) -> list[int]:
    drawn: list[int] = torch.randint(3, 112, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return drawn


@torch.inference_mode()
def expected(reference: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """Logits after `tokens`, alone and without a cache."""
    return reference(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]


def named(model_type: str) -> dict[str, Any]:
    return FULL.get(model_type, {})


@pytest.mark.parametrize("model_type", checkpoints.NAMED)
def test_ragged_steps_equal_each_request_alone(served: Any, model_type: str) -> None:
    trunk, reference = served(model_type, **named(model_type))
    assert trunk.batched is (model_type in BATCHED)
    texts = [text(60, seed) for seed in range(4)]
    slots = [trunk.open(60) for _ in texts]
    # Prompts of unlike lengths, chunks beside decoding, requests that pause, a request far longer than the others.
    for counts in ((7, 1, 4, 2), (1, 0, 4, 3), (2, 1, 1, 1), (0, 1, 0, 1), (1, 1, 1, 1), (1, 30, 0, 1), (1, 1, 1, 1)):
        taking = [i for i in (2, 0, 3, 1) if counts[i]]
        logits = trunk.step([(slots[i], texts[i][slots[i].length :][: counts[i]]) for i in taking])
        assert logits.dtype == torch.float32
        for row, i in zip(logits, taking, strict=True):
            alone = expected(reference, texts[i][: slots[i].length])
            torch.testing.assert_close(row, alone, atol=1e-4, rtol=0)
    for slot in slots:
        trunk.close(slot)
    assert trunk.kv_bytes == 0


@pytest.mark.parametrize("model_type", checkpoints.NAMED)
def test_greedy_tokens_equal_generate_while_requests_come_and_go(served: Any, model_type: str) -> None:
    trunk, reference = served(model_type, **named(model_type))
    prompts = {i: text(length, seed=20 + i) for i, length in enumerate((3, 11, 6, 1, 8))}
    joins = {0: 0, 1: 0, 2: 3, 3: 5, 4: 9}  # step that a request joins at; each leaves after its twelfth token
    slots: dict[int, Slot] = {}
    given = {i: list(prompt) for i, prompt in prompts.items()}
    for step in range(30):
        for i in [i for i, at in joins.items() if at == step]:
            slots[i] = trunk.open(len(prompts[i]) + 12)
        work = [(slots[i], given[i][slots[i].length :]) for i in slots]
        chosen = trunk.step(work).argmax(-1).tolist() if work else []
        for i, token in zip(list(slots), chosen, strict=True):
            given[i].append(token)
            if len(given[i]) == len(prompts[i]) + 12:
                trunk.close(slots.pop(i))
    assert trunk.kv_bytes == 0
    for i, prompt in prompts.items():
        ids = torch.tensor([prompt])
        whole = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert given[i] == whole[0].tolist()


@pytest.mark.parametrize(("model_type", "culprit"), PER_REQUEST.items())
def test_why_requests_do_not_share_a_forward_is_said(served: Any, model_type: str, culprit: str) -> None:
    trunk, reference = served(model_type)
    assert not trunk.batched
    assert culprit in trunk.unbatched_reason
    slots, texts = [trunk.open(30), trunk.open(30)], [text(30, 1), text(30, 2)]
    for stop in (20, 21, 25, 26):  # beyond the window of 16, too
        logits = trunk.step([(slot, part[slot.length : stop]) for slot, part in zip(slots, texts, strict=True)])
        for row, part in zip(logits, texts, strict=True):
            torch.testing.assert_close(row, expected(reference, part[:stop]), atol=1e-4, rtol=0)
    for slot in slots:
        trunk.close(slot)
    assert trunk.kv_bytes == 0


def test_a_state_that_does_not_take_several_tokens_gets_one_at_a_time(served: Any) -> None:
    trunk, _ = served("jamba")
    assert trunk.whole_prompts_above == 0
    assert served("olmoe")[0].whole_prompts_above is None


def test_a_forward_that_leaks_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = checkpoints.make("olmoe", tmp_path)

    def without_mask(self: Any, plan: Any, positions: np.ndarray, lasts: object) -> tuple[None, Tensor]:
        return None, torch.from_numpy(positions).long()

    monkeypatch.setattr(forward_module.Forward, "_attention", without_mask)
    trunk = trunk_of(path, experts_of(checkpoints.model("olmoe")))
    assert not trunk.batched
    assert trunk.unbatched_reason.startswith("requests of unlike lengths change each other's logits")


def test_a_forward_that_takes_no_mask_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = checkpoints.make("olmoe", tmp_path)

    def refuse(*_: object) -> tuple[None, Tensor]:
        raise ValueError("a mask of two dimensions is needed")

    monkeypatch.setattr(forward_module.Forward, "_attention", refuse)
    trunk = trunk_of(path, experts_of(checkpoints.model("olmoe")))
    reason = "its forward fails for requests of unlike lengths: a mask of two dimensions is needed"
    assert trunk.unbatched_reason == reason


ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [3.0, 4.0, 6.0, 9.0],
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("rope_type", ROPES)
def test_a_long_request_does_not_change_the_frequencies_of_its_neighbours(served: Any, rope_type: str) -> None:
    limit = 16 if rope_type == "longrope" else 15
    overrides = {"rope_parameters": ROPES[rope_type], "max_position_embeddings": 128 if limit == 16 else 16}
    trunk, reference = served("qwen3_moe", **overrides)
    assert trunk.batched
    assert trunk.whole_prompts_above == limit
    lengths, texts = (40, 3, 9, 30), [text(50, seed) for seed in range(4)]
    slots = [trunk.open(50) for _ in texts]
    caches: list[Any] = [None] * 4
    for step in range(10):
        parts = [
            part[slot.length :][: lengths[i] if not step else 1]
            for i, (slot, part) in enumerate(zip(slots, texts, strict=True))
        ]
        logits = trunk.step(list(zip(slots, parts, strict=True)))
        for i, part in enumerate(parts):
            caches[i], alone = alone_with_cache(reference, caches[i], part, slots[i].length - len(part))
            torch.testing.assert_close(logits[i], alone, atol=1e-4, rtol=0)
    for slot in slots:
        trunk.close(slot)


@torch.inference_mode()
def alone_with_cache(reference: PreTrainedModel, cache: Any, part: list[int], start: int) -> tuple[Any, Tensor]:
    """One step of a model that serves one request alone, so with frequencies that no other request has touched."""
    rotary = reference.model.rotary_emb
    rotary.max_seq_len_cached = rotary.original_max_seq_len
    rotary.inv_freq = rotary.original_inv_freq.clone()
    position = torch.arange(start, start + len(part))[None]
    output = reference(input_ids=torch.tensor([part]), past_key_values=cache, position_ids=position, use_cache=True)
    return output.past_key_values, output.logits[0, -1]


def test_experts_learn_whose_each_row_is(tmp_path: Path) -> None:
    reference = checkpoints.model("olmoe")
    compute = experts_of(reference)
    asked: list[tuple[int, int, StepContext]] = []

    def record(layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
        asked.append((layer, len(hidden), context))
        return compute(layer, hidden, index, weights, context)

    trunk = trunk_of(checkpoints.make("olmoe", tmp_path), record)
    assert asked == []  # trying the model out asks no experts
    slots = [trunk.open(40) for _ in range(4)]
    trunk.step([(slots[0], text(3, 0)), (slots[1], text(5, 1)), (slots[2], text(4, 2)), (slots[3], text(2, 3))])
    asked.clear()
    work = [(slots[2], [7]), (slots[0], [8, 9]), (slots[3], text(16, 4)), (slots[1], [5])]
    starts = [slot.length for slot, _ in work]
    trunk.step(work)
    for layer in range(3):
        contexts = [context for at, _, context in asked if at == layer]
        seen = sorted(
            (int(owner), int(position))
            for context in contexts
            for owner, position in zip(context.owner, context.position, strict=True)
            if owner >= 0
        )
        assert seen == sorted((i, starts[i] + k) for i, (_, tokens) in enumerate(work) for k in range(len(tokens)))
    assert all(rows == len(context.owner) == len(context.position) for _, rows, context in asked)
    assert all(context.owner.dtype == context.position.dtype == np.int32 for _, _, context in asked)
    # The long one has a forward of its own, for it would take 48 rows of padding; the experts are asked once for both.
    assert [(layer, rows) for layer, rows, _ in asked] == [(0, 22), (1, 22), (2, 22)]


def test_a_step_that_failed_may_be_repeated(tmp_path: Path) -> None:
    reference = checkpoints.model("olmoe")
    compute = experts_of(reference)
    left = [10**9]

    def fail(layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise ExpertsUnavailable("no host")
        return compute(layer, hidden, index, weights, context)

    trunk = trunk_of(checkpoints.make("olmoe", tmp_path), fail)
    texts = [text(90, 1), text(90, 2)]
    slots = [trunk.open(90), trunk.open(90)]
    trunk.step([(slots[0], texts[0][:6]), (slots[1], texts[1][:2])])
    work = [(slots[0], texts[0][6:7]), (slots[1], texts[1][2:80])]  # two forwards
    left[0] = 1  # the second of three layers, where both wait for an answer
    with pytest.raises(ExpertsUnavailable):
        trunk.step(work)
    assert [slot.length for slot in slots] == [6, 2]
    left[0] = 10**9
    logits = trunk.step(work)
    torch.testing.assert_close(logits[0], expected(reference, texts[0][:7]), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[1], expected(reference, texts[1][:80]), atol=1e-4, rtol=0)


def test_without_sharing_a_failed_step_loses_those_that_had_begun(tmp_path: Path) -> None:
    def fail(layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
        if 1 in context.owner:
            raise ExpertsUnavailable("no host")
        return torch.zeros_like(hidden)

    trunk = trunk_of(checkpoints.make("gpt_oss", tmp_path), fail)
    slots = [trunk.open(9) for _ in range(3)]
    with pytest.raises(ExpertsUnavailable):
        trunk.step([(slot, [3, 4]) for slot in slots])
    for slot in slots:
        with pytest.raises(InvalidRequest, match="the request's place in the cache is lost; open another one"):
            trunk.step([(slot, [5])])
    fresh = trunk.open(9)
    trunk.step([(fresh, [5])])
    trunk.close(fresh)
    for slot in slots:
        trunk.close(slot)
    assert trunk.kv_bytes == 0


def test_misuse_is_named(served: Any) -> None:
    trunk, _ = served("olmoe")
    slot = trunk.open(4)
    cases: list[tuple[list[tuple[Slot, list[int]]], str]] = [
        ([], "a step takes at least one request"),
        ([(slot, [3]), (slot, [4])], "each request once"),
        ([(slot, [])], "0 tokens after 0; a step takes at least one"),
        ([(slot, [3] * 5)], "5 tokens after 0; a step takes at least one, and this request at most 4 in all"),
        ([(slot, [3, 112])], "token ids must be from 0 to 111; got 3 to 112"),
        ([(slot, [-1])], "token ids must be from 0 to 111; got -1 to -1"),
    ]
    for work, message in cases:
        with pytest.raises(InvalidRequest, match=message):
            trunk.step(work)
    trunk.close(slot)
    trunk.close(slot)
    with pytest.raises(InvalidRequest, match="is closed; open another one"):
        trunk.step([(slot, [3])])
    with pytest.raises(InvalidRequest, match="capacity_tokens is 0"):
        trunk.open(0)


@pytest.mark.parametrize("model_type", checkpoints.NAMED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_buffers_are_those_that_transformers_loads(model_type: str, dtype: str, tmp_path: Path) -> None:
    path = checkpoints.make(model_type, tmp_path, dtype=dtype)
    whole = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    trunk = trunk_of(path, experts_of(whole), dtype=getattr(torch, dtype))
    model = trunk._running().model
    assert not model.training
    prefixes = tuple(f"{name}." for name, _ in experts_modules(model))
    ours = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    theirs = dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if name.startswith(prefixes) and tensor.is_meta:
            continue
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
    assert all(parameter.is_meta for _, module in experts_modules(model) for parameter in module.parameters())


def test_half_precision_stays_close(tmp_path: Path) -> None:
    path = checkpoints.make("qwen3_moe", tmp_path, dtype="bfloat16")
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    trunk = trunk_of(path, experts_of(reference), dtype=torch.bfloat16)
    assert trunk.batched
    slots, texts = [trunk.open(20), trunk.open(20)], [text(12, 1), text(5, 2)]
    logits = trunk.step(list(zip(slots, texts, strict=True)))
    for row, part in zip(logits, texts, strict=True):
        alone = expected(reference, part).float()
        assert (row - alone).norm() < 0.05 * alone.norm()


def test_tied_embeddings_are_one_tensor(tmp_path: Path) -> None:
    path = checkpoints.make("qwen3_moe", tmp_path, tie_word_embeddings=True)
    model = trunk_of(path, experts_of(checkpoints.model("qwen3_moe", tie_word_embeddings=True)))._running().model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.lm_head.weight.is_meta


def unasked(*_: object) -> Tensor:
    raise AssertionError("no experts are asked while a trunk loads")


def test_a_missing_or_misshapen_tensor_is_named(tmp_path: Path) -> None:
    manifest = read_manifest(checkpoints.make("olmoe", tmp_path))
    name = "model.layers.1.self_attn.q_proj.weight"
    without = replace(manifest, trunk=tuple(part for part in manifest.trunk if part.key != name))
    with pytest.raises(CheckpointCorrupt, match=f"olmoe: no tensor for {name}"):
        build(without, tmp_path)
    flat = replace(
        manifest, trunk=tuple(replace(part, shape=(16, 64)) if part.key == name else part for part in manifest.trunk)
    )
    with pytest.raises(CheckpointCorrupt, match=rf"olmoe: {name} is \(16, 64\), not \(32, 32\)"):
        build(flat, tmp_path)


def build(manifest: Manifest, path: Path) -> Trunk:
    source = FileSource(path, manifest.files)
    return Trunk(manifest, source, dtype=torch.float32, device=CPU, experts=unasked, name="tiny")


def test_an_error_of_the_source_comes_through(tmp_path: Path) -> None:
    manifest = read_manifest(checkpoints.make("olmoe", tmp_path))

    class Broken(FileSource):
        def read(self, ranges: Sequence[TensorRange]) -> list[bytearray]:
            if any("layers.1" in part.key for part in ranges):
                raise CheckpointCorrupt("the disk is on fire")
            return super().read(ranges)

    source = Broken(tmp_path, manifest.files)
    with pytest.raises(CheckpointCorrupt, match="the disk is on fire"):
        Trunk(manifest, source, dtype=torch.float32, device=CPU, experts=unasked, name="tiny")


def test_hashes_are_those_of_the_bytes_and_pins_hold(tmp_path: Path) -> None:
    """A file of the same size whose embedding changed makes no second trunk of other answers."""
    path = checkpoints.make("olmoe", tmp_path)
    manifest = read_manifest(path)
    source = FileSource(path, manifest.files)
    hashes = trunk_of(path, unasked).sha256
    assert hashes == {part.key: shard_sha256(source.read([part])) for part in manifest.trunk}

    def again() -> Trunk:
        made: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "experts": unasked, "name": "tiny"}
        return Trunk(manifest, source, pinned=hashes | {"of another": "unused"}, **made)

    assert again().sha256 == hashes
    embedding = next(part for part in manifest.trunk if "embed_tokens" in part.key)
    checkpoints.flip(path, embedding)
    with pytest.raises(ShardMismatch, match=rf"model\.safetensors: {embedding.key} .*{hashes[embedding.key]}"):
        again()
    checkpoints.flip(path, embedding)
    assert again().sha256 == hashes


def test_loading_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = checkpoints.make("olmoe", tmp_path)
    capfd.readouterr()
    trunk_of(path, unasked)
    assert capfd.readouterr() == ("", "")


def test_release_frees_the_weights(tmp_path: Path) -> None:
    reference = checkpoints.model("olmoe")
    trunk = trunk_of(checkpoints.make("olmoe", tmp_path), experts_of(reference))
    slot = trunk.open(9)
    trunk.step([(slot, [3, 4])])
    assert trunk.kv_bytes > 0
    assert "1 requests" in repr(trunk)
    weight = weakref.ref(trunk._running().model.lm_head.weight)
    trunk.release()
    gc.collect()
    assert weight() is None
    assert trunk.kv_bytes == 0
    with pytest.raises(InvalidRequest, match="trunk 'tiny' was released"):
        trunk.step([(slot, [3])])


def test_cache_bytes_are_known_before_the_first_request(served: Any) -> None:
    trunk, _ = served("olmoe")
    assert (trunk.kv_bytes_per_token, trunk.kv_bytes_fixed) == (3 * 2 * 2 * 8 * 4, 0)
    hybrid, _ = served("jamba")
    assert hybrid.kv_bytes_per_token == 1 * 2 * 2 * 8 * 4  # one layer of three attends
    assert hybrid.kv_bytes_fixed > 1000  # the states of the others
    latent, _ = served("deepseek_v3")
    assert latent.kv_bytes_per_token == 3 * (16 + 8) * 4  # the latent vectors, of unlike width


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_requests_are_divided_over_forwards_at_the_least_cost(counts: list[int]) -> None:
    groups = partition(counts)
    assert sorted(i for group in groups for i in group) == list(range(len(counts)))
    assert cost(counts, groups) == min(cost(counts, division) for division in divisions(list(range(len(counts)))))


def cost(counts: list[int], groups: list[list[int]]) -> int:
    return sum(32 + len(group) * max(counts[i] for i in group) for group in groups)


def divisions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every division of `items` into groups."""
    if not items:
        yield []
        return
    for rest in divisions(items[1:]):
        yield [[items[0]], *rest]
        for at, group in enumerate(rest):
            yield [*rest[:at], [items[0], *group], *rest[at + 1 :]]
