"""The shipped model is what its card says: small, loadable, trained, balanced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from rios import demo
from rios.demo.evaluate import Measurement, measure, windows

SAMPLES = Path(demo.__file__).with_name("samples.json")
METRICS: dict[str, Any] = json.loads((demo.path() / "metrics.json").read_text(encoding="utf-8"))
PASSAGES: dict[str, list[dict[str, str]]] = json.loads(SAMPLES.read_text(encoding="utf-8"))
VOICES = ("austen", "bible")
LAYERS, EXPERTS = 4, 8


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo.path(), local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(demo.path(), local_files_only=True, dtype=torch.float32)


@pytest.fixture(scope="module")
def measured(model: Any, tokenizer: Any) -> dict[str, Measurement]:
    """Both voices' passages, really computed."""
    return {voice: measure(model, tokenizer, [passage["text"] for passage in PASSAGES[voice]]) for voice in VOICES}


def test_weights_are_small_and_bfloat16() -> None:
    weights = demo.path() / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    with safe_open(weights, framework="pt") as stored:
        kinds = {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
    assert kinds == {"BF16"}


def test_architecture(model: Any, tokenizer: Any) -> None:
    config = model.config
    assert config.model_type == "olmoe"
    assert (config.num_hidden_layers, config.num_experts, config.num_experts_per_tok) == (LAYERS, EXPERTS, 2)
    assert config.max_position_embeddings == tokenizer.model_max_length == 512
    assert config.vocab_size == len(tokenizer) == 4096
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert 3_700_000 < model.num_parameters() < 3_900_000


def test_special_tokens(model: Any, tokenizer: Any) -> None:
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == model.generation_config.eos_token_id == 0
    assert tokenizer.pad_token_id == model.config.pad_token_id == 1


def test_metrics_meet_the_target() -> None:
    assert METRICS["bits_per_byte"] <= 1.30
    assert set(METRICS["by_voice"]) == set(VOICES)
    low, high = sorted(METRICS["by_voice"].values())
    assert low <= METRICS["bits_per_byte"] <= high


@pytest.mark.parametrize("part", ["all", *VOICES])
def test_shares_are_shares(part: str) -> None:
    table = METRICS["expert_share"][part]
    assert [len(layer) for layer in table] == [EXPERTS] * LAYERS
    for layer in table:
        assert sum(layer) == pytest.approx(1, abs=1e-3)


def test_no_expert_is_idle() -> None:
    fair = 1 / EXPERTS
    assert min(min(layer) for layer in METRICS["expert_share"]["all"]) >= fair / 3


def test_bits_per_byte_of_samples(measured: dict[str, Measurement]) -> None:
    # Short passages give the model little to go on, so they cost more than chapters.
    for voice, found in measured.items():
        assert METRICS["by_voice"][voice] - 0.2 < found.bits_per_byte < 2.0


def test_samples_show_the_same_preferences(measured: dict[str, Measurement]) -> None:
    """The expert a voice uses most in the held-out chapters, it uses a lot in its samples."""
    for voice, found in measured.items():
        table = torch.tensor(METRICS["expert_share"][voice])
        layer, expert = divmod(int(table.argmax()), EXPERTS)
        assert found.expert_share[layer][expert] > 1 / EXPERTS


def test_samples(tokenizer: Any) -> None:
    for voice in VOICES:
        assert len(PASSAGES[voice]) == 20
        for passage in PASSAGES[voice]:
            assert passage["source"]
            assert 250 <= len(passage["text"]) <= 380
            assert tokenizer.decode(tokenizer(passage["text"])["input_ids"]) == passage["text"]


@pytest.mark.parametrize("text", ["", "  two  spaces\n\nand lines\n", "£5, naïve café 東京 \N{GRINNING FACE}"])
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_generates_text(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer("And it came to pass", return_tensors="pt")
    made = model.generate(**prompt, do_sample=False, max_new_tokens=12)
    assert tokenizer.decode(made[0]).startswith("And it came to pass")
    assert made.shape[1] > prompt["input_ids"].shape[1]


@pytest.mark.parametrize("length", [1, 2, 3, 255, 256, 257, 512, 513, 767, 768, 769, 4000])
def test_windows_score_every_token_once(length: int) -> None:
    scored = [i for place, count in windows(length, 512) for i in range(place.stop - count, place.stop)]
    assert scored == list(range(1, length))
    assert all(place.stop - place.start <= 512 for place, _ in windows(length, 512))
