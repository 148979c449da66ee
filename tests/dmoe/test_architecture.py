from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from rios.dmoe.architecture import KeyMap, build, experts_modules, top_k_of
from rios.words.errors import CheckpointCorrupt, UnsupportedCheckpoint
from tests import checkpoints


def test_the_named_architectures_are_among_all() -> None:
    assert set(checkpoints.NAMED) <= set(checkpoints.causal_architectures())
    assert len(checkpoints.causal_architectures()) >= 50


@pytest.mark.parametrize("model_type", checkpoints.causal_architectures())
def test_every_architecture_is_built_on_meta_with_its_experts_found(
    model_type: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = checkpoints.config(model_type).to_dict()
    capfd.readouterr()
    model = build(config, dtype=torch.bfloat16)
    assert capfd.readouterr() == ("", "")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert not model.training
    modules = experts_modules(model)
    assert modules
    for name, module in modules:
        assert model.get_submodule(name) is module
        assert top_k_of(model, name) == (1 if model_type == "zaya" else 2)
        assert {len(parameter) for parameter in module.parameters()} == {6}
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    numbers = [int(name.split("layers.")[1].split(".")[0]) for name, _ in modules]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "never_heard_of"}, ["never_heard_of", "does not know"]),
        ({"model_type": "never_heard_of", "auto_map": {"AutoConfig": "x.Y"}}, ["never_heard_of", "own code"]),
        (LlamaConfig(num_hidden_layers=1).to_dict(), ["llama", "LlamaForCausalLM", "no experts"]),
        ({"model_type": "clip"}, ["clip", "no causal language model"]),
        ({"model_type": "mixtral", "quantization_config": {"quant_method": "gptq"}}, ["mixtral", "'gptq'"]),
        ({"model_type": "mixtral", "quantization_config": "odd"}, ["mixtral", "'odd'"]),
        (
            {"model_type": "qwen3_5_moe", "text_config": {"quantization_config": {"quant_method": "fp8"}}},
            ["qwen3_5_moe", "'fp8'"],
        ),
    ],
)
def test_refusals_name_the_architecture_and_the_reason(config: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UnsupportedCheckpoint) as error:
        build(config, dtype=torch.float32)
    assert all(word in str(error.value) for word in words)


def test_a_mixture_of_experts_configuration_without_any_expert_layer_is_refused() -> None:
    config = checkpoints.config("deepseek_v3", first_k_dense_replace=3).to_dict()
    with pytest.raises(UnsupportedCheckpoint, match="deepseek_v3"):
        build(config, dtype=torch.float32)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": 3},
        {"model_type": "mixtral", "hidden_size": "many"},
        {"model_type": "mixtral", "hidden_act": "no_such_activation"},
    ],
)
def test_a_configuration_that_makes_no_model_is_corrupt(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"config\.json"):
        build(config, dtype=torch.float32)


def test_auto_map_of_a_known_architecture_does_not_matter() -> None:
    config = checkpoints.config("deepseek_v3").to_dict() | {"auto_map": {"AutoConfig": "configuration.X"}}
    assert type(build(config, dtype=torch.float32)).__module__.startswith("transformers.")


def test_a_composite_configuration_gives_its_text_model() -> None:
    text = checkpoints.config("qwen3_5_moe_text").to_dict()
    model = build({"model_type": "qwen3_5_moe", "text_config": text}, dtype=torch.float32)
    assert model.config.model_type == "qwen3_5_moe_text"
    assert model.config.hidden_size == text["hidden_size"]


def test_names_on_disk_find_their_parameters() -> None:
    keys = KeyMap(build(checkpoints.config("mixtral").to_dict(), dtype=torch.float32))
    places = keys.locate(
        [
            "model.layers.1.block_sparse_moe.experts.4.w3.weight",
            "layers.1.block_sparse_moe.experts.5.w2.weight",  # saved from the base model: no prefix
            "model.embed_tokens.weight",
            "model.mtp.0.weight",
        ]
    )
    up = places["model.layers.1.block_sparse_moe.experts.4.w3.weight"]
    assert (up.parameter, up.expert) == ("model.layers.1.mlp.experts.gate_up_proj", 4)
    assert up.pattern in keys.converter(up.pattern).source_patterns
    down = places["layers.1.block_sparse_moe.experts.5.w2.weight"]
    assert (down.parameter, down.expert) == ("model.layers.1.mlp.experts.down_proj", 5)
    assert places["model.embed_tokens.weight"].pattern is None
    assert "model.mtp.0.weight" not in places
