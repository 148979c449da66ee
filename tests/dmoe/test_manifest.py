from __future__ import annotations

from dataclasses import replace

import pytest

from rios.dmoe.manifest import Manifest, MoeLayer, TensorRange


def _manifest() -> Manifest:
    def part(expert: int, start: int, size: int) -> TensorRange:
        return TensorRange("a.safetensors", f"experts.{expert}", start, start + size, "F32", (size // 4,))

    experts = ((part(0, 100, 8), part(0, 108, 4)), (part(1, 112, 12),))
    return Manifest(
        model_type="mixtral",
        class_name="MixtralForCausalLM",
        config={"model_type": "mixtral", "hidden_size": 4},
        dtype="float32",
        hidden_size=4,
        vocab_size=10,
        context_length=128,
        layers=(MoeLayer(index=0, module="layers.0.experts", num_experts=2, top_k=1, experts=experts),),
        trunk=(TensorRange("a.safetensors", "embed", 60, 100, "F32", (10, 1), row=None),),
        files={"a.safetensors": 124},
    )


def test_json_gives_the_same_manifest_back() -> None:
    manifest = _manifest()
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest == manifest.digest
    assert hash(again.trunk) == hash(manifest.trunk)  # tuples again, not lists


def test_digest_changes_with_every_field() -> None:
    manifest = _manifest()
    others = [
        replace(manifest, model_type="olmoe"),
        replace(manifest, config=manifest.config | {"hidden_size": 5}),
        replace(manifest, files={"a.safetensors": 125}),
        replace(manifest, trunk=(replace(manifest.trunk[0], row=1),)),
        replace(manifest, layers=(replace(manifest.layers[0], top_k=2),)),
        replace(manifest, layers=(replace(manifest.layers[0], experts=manifest.layers[0].experts[::-1]),)),
    ]
    assert len({manifest.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_digest_does_not_depend_on_the_order_of_names() -> None:
    manifest = _manifest()
    turned = dict(reversed(manifest.config.items()))
    assert replace(manifest, config=turned).digest == manifest.digest


def test_sizes() -> None:
    manifest = _manifest()
    assert manifest.trunk_bytes == 40
    assert [manifest.expert_bytes(0, expert) for expert in range(2)] == [12, 12]
    assert manifest.layers[0].expert_bytes(0) == 12
    assert manifest.total_bytes == 64
    assert manifest.trunk[0].nbytes == 40


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":2}', '{"format":1}', "null", '{"format":1,"layers":3}'])
def test_what_is_not_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(text)


def test_unknown_and_damaged_fields_are_refused() -> None:
    text = _manifest().to_json()
    for old, new in (('"dtype":', '"kind":'), ('"format":1', '"format":1,"more":2'), ("124", "[")):
        with pytest.raises(ValueError):
            Manifest.from_json(text.replace(old, new))
