from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.source import FileSource, shard_sha256
from rios.words.errors import CheckpointCorrupt, UnsupportedCheckpoint
from tests import checkpoints

FUSED = {"gpt_oss", "granitemoe"}


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("mixtral", tmp_path_factory.mktemp("mixtral"))


@pytest.fixture
def copy(mixtral: Path, tmp_path: Path) -> Path:
    """A mixtral checkpoint to damage."""
    return Path(shutil.copytree(mixtral, tmp_path / "copy"))


def _all_ranges(manifest: Manifest) -> list[TensorRange]:
    experts = [part for layer in manifest.layers for parts in layer.experts for part in parts]
    return [*manifest.trunk, *experts]


def _tensor_bytes(directory: Path) -> dict[str, bytes]:
    found = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (not a dict)
                found[key] = tensors.get_tensor(key).contiguous().flatten().numpy().tobytes()
    return found


@pytest.mark.parametrize("model_type", checkpoints.causal_architectures())
def test_trunk_and_experts_are_all_bytes_of_the_model_once(model_type: str, tmp_path: Path) -> None:
    checkpoints.make(model_type, tmp_path)
    manifest = read_manifest(tmp_path)
    ranges = _all_ranges(manifest)
    # By what safetensors itself reads, not by our own reading of headers.
    wanted = _tensor_bytes(tmp_path)
    source = FileSource(tmp_path, manifest.files)
    pieces: dict[str, list[tuple[int, bytes]]] = {}
    for part, buffer in zip(ranges, source.read(ranges), strict=True):
        pieces.setdefault(part.key, []).append((part.start, bytes(buffer)))
    assert {key: b"".join(b for _, b in sorted(parts)) for key, parts in pieces.items()} == wanted
    assert manifest.total_bytes == sum(len(value) for value in wanted.values())
    assert manifest.model_type == model_type
    assert (manifest.hidden_size, manifest.vocab_size, manifest.context_length) == (32, 112, 256)
    assert manifest.dtype == "float32"
    assert manifest.files == {"model.safetensors": (tmp_path / "model.safetensors").stat().st_size}
    for index, layer in enumerate(manifest.layers):
        assert layer.index == index
        assert layer.num_experts == len(layer.experts) == 6
        assert len({layer.expert_bytes(expert) for expert in range(6)}) == 1
    trunk_keys = {part.key for part in manifest.trunk}
    assert not trunk_keys & {part.key for part in ranges[len(manifest.trunk) :]}
    assert all("shared" not in part.key for part in ranges[len(manifest.trunk) :])


@pytest.mark.parametrize("model_type", checkpoints.NAMED)
def test_experts_are_whole_tensors_or_rows_of_them(model_type: str, tmp_path: Path) -> None:
    manifest = read_manifest(checkpoints.make(model_type, tmp_path, dtype="bfloat16"))
    assert manifest.dtype == "bfloat16"
    for layer in manifest.layers:
        for expert, parts in enumerate(layer.experts):
            rows = {part.row for part in parts}
            assert rows == ({expert} if model_type in FUSED else {None})
            if model_type in FUSED:
                assert {part.shape[0] for part in parts} == {1}
            else:
                assert all(f".{expert}." in part.key for part in parts)
            assert parts == tuple(sorted(parts, key=lambda part: (part.file, part.start)))


def test_several_files_hold_the_same_model(mixtral: Path, tmp_path: Path) -> None:
    checkpoints.make("mixtral", tmp_path, max_shard_size="60KB")
    single, sharded = read_manifest(mixtral), read_manifest(tmp_path)
    assert len(sharded.files) > 3
    assert sum((tmp_path / name).stat().st_size for name in sharded.files) == sum(sharded.files.values())

    def content(manifest: Manifest, root: Path) -> list[Any]:
        source = FileSource(root, manifest.files)
        hashes = []
        for layer in manifest.layers:
            for parts in layer.experts:
                parts = sorted(parts, key=lambda part: part.key)
                hashes.append(shard_sha256(source.read(parts)))
        trunk = sorted(manifest.trunk, key=lambda part: part.key)
        return [*hashes, shard_sha256(source.read(trunk))]

    assert content(single, mixtral) == content(sharded, tmp_path)


def test_downloaded_checkpoints_are_links(mixtral: Path, tmp_path: Path) -> None:
    for file in mixtral.iterdir():
        (tmp_path / file.name).symlink_to(file)
    manifest = read_manifest(tmp_path)
    assert manifest == read_manifest(mixtral)
    assert FileSource(tmp_path, manifest.files).read(manifest.trunk[:1])


def _resave(directory: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file = directory / "model.safetensors"
    tensors = change(load_file(file))
    file.unlink()  # the tensors are views of the old file
    save_file(tensors, file, metadata={"format": "pt"})


def test_tensors_that_the_model_lacks_are_in_neither_part(copy: Path) -> None:
    before = read_manifest(copy)

    def add(tensors: dict[str, Any]) -> dict[str, Any]:
        extra = {"model.layers.3.block_sparse_moe.experts.0.w1.weight": tensors["lm_head.weight"].clone()}
        return tensors | extra | {"model.mtp.head.weight": tensors["lm_head.weight"].clone()}

    _resave(copy, add)
    after = read_manifest(copy)
    assert after.total_bytes == before.total_bytes
    assert {part.key for part in _all_ranges(after)} == {part.key for part in _all_ranges(before)}


def test_names_without_the_prefix_of_the_base_model(copy: Path) -> None:
    before = read_manifest(copy)
    _resave(copy, lambda tensors: {key.removeprefix("model."): value for key, value in tensors.items()})
    after = read_manifest(copy)
    assert after.total_bytes == before.total_bytes
    assert after.layers[0].experts[5][0].key == "layers.0.block_sparse_moe.experts.5.w1.weight"


def test_tied_embeddings_are_there_once(tmp_path: Path) -> None:
    manifest = read_manifest(checkpoints.make("qwen3_moe", tmp_path, tie_word_embeddings=True))
    keys = Counter(part.key for part in manifest.trunk)
    assert keys["model.embed_tokens.weight"] == 1
    assert "lm_head.weight" not in keys


@pytest.mark.parametrize("gone", [0, 3, 5])
def test_an_expert_without_one_of_its_tensors_is_named(copy: Path, gone: int) -> None:
    key = f"model.layers.1.block_sparse_moe.experts.{gone}.w2.weight"
    _resave(copy, lambda tensors: {name: value for name, value in tensors.items() if name != key})
    with pytest.raises(CheckpointCorrupt, match=rf"model\.layers\.1\.mlp\.experts: expert {gone} needs 4608 .* 3072"):
        read_manifest(copy)


def test_more_experts_than_the_configuration_says(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_local_experts": 5}))
    with pytest.raises(CheckpointCorrupt, match=r"is of expert 5, model\.layers\.0\.mlp\.experts has 5"):
        read_manifest(copy)


def test_fused_tensors_of_another_number_of_experts(tmp_path: Path) -> None:
    checkpoints.make("gpt_oss", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_local_experts": 7}))
    with pytest.raises(CheckpointCorrupt, match=r"\(6, .*has 7 experts"):
        read_manifest(tmp_path)


def test_experts_in_a_dtype_that_is_not_served(copy: Path) -> None:
    def narrow(tensors: dict[str, Any]) -> dict[str, Any]:
        import torch

        return {key: value.to(torch.float8_e4m3fn) if ".experts." in key else value for key, value in tensors.items()}

    _resave(copy, narrow)
    with pytest.raises(UnsupportedCheckpoint, match="F8_E4M3"):
        read_manifest(copy)


def test_no_safetensors_and_no_directory(mixtral: Path, tmp_path: Path) -> None:
    shutil.copy(mixtral / "config.json", tmp_path)
    with pytest.raises(UnsupportedCheckpoint, match=r"model\.safetensors"):
        read_manifest(tmp_path)
    with pytest.raises(CheckpointCorrupt, match="nowhere"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff", "[" * 100_000])
def test_a_configuration_that_is_not_json(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointCorrupt, match=r"config\.json"):
        read_manifest(copy)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, "no weight_map"),
        ({"lm_head.weight": 3}, "no weight_map"),
        ({"lm_head.weight": "absent.safetensors"}, "absent.safetensors: No such file"),
        (
            {"lm_head.weight": "part.safetensors", "more": "part.safetensors"},
            "part.safetensors: more is not in it",
        ),
        ({"lm_head.weight": "../part.safetensors"}, "not the name of a file"),
        ({"lm_head.weight": "/etc/passwd"}, "not the name of a file"),
        ({"lm_head.weight": ".."}, "not the name of a file"),
    ],
)
def test_an_index_that_does_not_fit(copy: Path, weight_map: Any, words: str) -> None:
    (copy / "model.safetensors").rename(copy / "part.safetensors")
    index = {} if weight_map is None else {"weight_map": weight_map}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointCorrupt, match=words):
        read_manifest(copy)


def _header(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _written(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _edit(key: str, **fields: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda header, data: _written(header | {key: header[key] | fields}, data)


HEAD = "lm_head.weight"

DAMAGES: dict[str, tuple[Callable[[dict[str, Any], bytes], bytes], str]] = {
    "empty": (lambda header, data: b"", "claims 0 bytes"),
    "short": (lambda header, data: b"\x01\x00", "claims"),
    "length": (lambda header, data: (1 << 62).to_bytes(8, "little") + data, "claims 4611686018427387904"),
    "text": (lambda header, data: (8).to_bytes(8, "little") + b"notjson!" + data, "not JSON"),
    "bytes": (lambda header, data: (8).to_bytes(8, "little") + b"\xff" * 8 + data, "not JSON"),
    "list": (lambda header, data: _written([1], data), "not a JSON object"),
    "truncated": (lambda header, data: _written(header, data[:-1]), "truncated"),
    "tail": (lambda header, data: _written(header, data + b"\x00"), "tail"),
    "entry": (lambda header, data: _written(header | {HEAD: 7}, data), f"{HEAD} is described by 7"),
    "offsets": (_edit(HEAD, data_offsets=[0]), f"{HEAD} is described by"),
    "backwards": (_edit(HEAD, data_offsets=[8, 0]), f"{HEAD} has shape"),
    "negative": (_edit(HEAD, shape=[-1, -112]), f"{HEAD} has shape"),
    "fraction": (_edit(HEAD, shape=[0.5]), f"{HEAD} has shape"),
    "shape": (_edit(HEAD, shape=[112, 31]), f"{HEAD} is F32 of shape"),
    "overlap": (_edit(HEAD, data_offsets=[4, 14340]), "begins at byte"),
    "hole": (
        lambda header, data: _written({k: v for k, v in header.items() if k != HEAD}, data),
        "begins at",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_header_names_the_file_and_the_reason(copy: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    file = copy / "model.safetensors"
    file.write_bytes(change(*_header(file)))
    with pytest.raises(CheckpointCorrupt, match=words) as error:
        read_manifest(copy)
    assert str(error.value).startswith("model.safetensors: ")


def test_an_unknown_dtype(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(_edit(HEAD, dtype="F4")(*_header(file)))
    with pytest.raises(UnsupportedCheckpoint, match="dtype F4"):
        read_manifest(copy)


def test_bytes_are_read_exactly_and_in_order(mixtral: Path) -> None:
    manifest = read_manifest(mixtral)
    ranges = [manifest.trunk[3], manifest.trunk[0], manifest.layers[1].experts[2][1]]
    raw = (mixtral / "model.safetensors").read_bytes()
    found = FileSource(mixtral, manifest.files).read(ranges)
    assert [bytes(buffer) for buffer in found] == [raw[part.start : part.stop] for part in ranges]
    assert FileSource(mixtral, manifest.files).read([]) == []


def test_a_file_of_another_size_is_refused(copy: Path) -> None:
    manifest = read_manifest(copy)
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointCorrupt, match="the manifest says"):
        FileSource(copy, manifest.files).read(manifest.trunk[:1])


@pytest.mark.parametrize(
    "part",
    [
        TensorRange("other.safetensors", "a", 0, 4, "F32", (1,)),
        TensorRange("model.safetensors", "a", -4, 4, "F32", (2,)),
        TensorRange("model.safetensors", "a", 8, 4, "F32", (1,)),
        TensorRange("model.safetensors", "a", 0, 1 << 40, "F32", (1 << 38,)),
    ],
)
def test_a_range_outside_the_checkpoint_is_refused(mixtral: Path, part: TensorRange) -> None:
    source = FileSource(mixtral, read_manifest(mixtral).files)
    with pytest.raises(CheckpointCorrupt, match=part.file):
        source.read([part])


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/b", "..", ".", ""])
def test_names_that_leave_the_directory_are_refused(mixtral: Path, name: str) -> None:
    with pytest.raises(CheckpointCorrupt, match="not the name of a file"):
        FileSource(mixtral, {name: 1})


def test_a_file_that_went_away(copy: Path) -> None:
    manifest = read_manifest(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match="No such file"):
        FileSource(copy, manifest.files).read(manifest.trunk[:1])


def test_the_hash_is_of_the_concatenation() -> None:
    assert shard_sha256([b"ab", bytearray(b"c")]) == shard_sha256([b"abc"])
    assert shard_sha256([b"abc"]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
