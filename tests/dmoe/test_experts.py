from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Mxfp4Config

from rios.dmoe.architecture import experts_modules
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.experts import ExpertStore
from rios.dmoe.manifest import Manifest, TensorRange
from rios.dmoe.shelves import CpuShelf, Form, GroupedShelf
from rios.dmoe.source import FileSource, shard_sha256
from rios.words.errors import CheckpointCorrupt, ExpertsUnavailable, ShardMismatch
from tests import checkpoints
from tests.campaigns import ROOT

CPU = torch.device("cpu")
SHARES = ((5, 0), (2,), (1, 4, 3))


class CountingSource:
    """Counts what is read, and can hand out a bad copy."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._files = FileSource(root, manifest.files)
        self.read_bytes = 0
        self.flip_after: int | None = None

    def read(self, ranges: Sequence[TensorRange]) -> list[bytearray]:
        buffers = self._files.read(ranges)
        self.read_bytes += sum(len(buffer) for buffer in buffers)
        if self.flip_after is not None and self.read_bytes > self.flip_after:
            buffers[0][0] ^= 1
        return buffers


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    root = checkpoints.make("mixtral", tmp_path_factory.mktemp("mixtral"))
    return read_manifest(root), root


def _slots(index: Tensor, experts: Sequence[int]) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """The slots of `index` [n, k] that are of `experts`, group by group: rows, columns, experts, counts."""
    found = [(expert, (index == expert).nonzero()) for expert in experts]
    found = [(expert, where) for expert, where in found if len(where)]
    where = torch.cat([where for _, where in found])
    return where[:, 0], where[:, 1], [expert for expert, _ in found], [len(where) for _, where in found]


def _routed(rows: int, hidden: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in range(rows)])
    return (
        torch.randn(rows, hidden, generator=generator),
        index,
        torch.rand(rows, 2, generator=generator),
    )


def _reference(module: nn.Module, implementation: str, routed: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    module.config._experts_implementation = implementation
    with torch.no_grad():
        out = module(*routed)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("model_type", checkpoints.causal_architectures())
def test_three_stores_compute_what_one_process_does(model_type: str, tmp_path: Path) -> None:
    checkpoints.make(model_type, tmp_path)
    manifest = read_manifest(tmp_path)
    source = CountingSource(tmp_path, manifest)
    stores = [ExpertStore(manifest, dtype=torch.float32, device=CPU) for _ in SHARES]
    modules = experts_modules(checkpoints.model(model_type))
    assert [name for name, _ in modules] == [layer.module for layer in manifest.layers]
    for layer, (_, module) in zip(manifest.layers, modules, strict=True):
        for store, share in zip(stores, SHARES, strict=True):
            before = source.read_bytes
            store.load(layer.index, share, source)
            assert source.read_bytes - before == sum(layer.expert_bytes(expert) for expert in share)
            assert store.held(layer.index) == tuple(sorted(share))
        hidden, index, weights = _routed(20, manifest.hidden_size, seed=layer.index)
        out = torch.zeros(20, 2, manifest.hidden_size)
        for store in stores:
            rows, columns, experts, counts = _slots(index, store.held(layer.index))
            out[rows, columns] = store.compute(layer.index, hidden, rows, experts, counts)
        got = (out * weights[..., None]).sum(dim=1)
        for implementation in ("eager", "grouped_mm"):
            want = _reference(module, implementation, (hidden, index, weights))
            assert float(want.abs().max()) > 1e-3
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    # Nothing but the experts themselves stays in memory: rounded up to cache lines.
    needed = sum(len(share) for share in SHARES) * sum(layer.expert_bytes(0) for layer in manifest.layers)
    assert needed <= sum(store.nbytes for store in stores) < needed + 64 * 4 * 6 * len(manifest.layers)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "granitemoe", "nemotron_h"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_cast_to_the_dtype_of_the_store(model_type: str, dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoints.make(model_type, tmp_path, dtype="bfloat16")
    manifest = read_manifest(tmp_path)
    store = ExpertStore(manifest, dtype=dtype, device=CPU)
    store.load(0, range(6), FileSource(tmp_path, manifest.files))
    module = experts_modules(checkpoints.model(model_type).to(torch.bfloat16).to(dtype))[0][1]
    hidden, index, weights = _routed(9, 32, seed=3)
    hidden = hidden.to(dtype)
    rows, columns, experts, counts = _slots(index, range(6))
    computed = store.compute(0, hidden, rows, experts, counts)
    assert computed.dtype == dtype
    out = torch.zeros(9, 2, 32, dtype=dtype)
    out[rows, columns] = computed
    got = (out * weights[..., None]).sum(dim=1)
    want = _reference(module, "eager", (hidden, index, weights)).float()
    tolerance = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


def _mxfp4(directory: Path) -> Path:
    """A gpt-oss checkpoint in the form it is released in: experts in MXFP4, everything else in bfloat16."""
    checkpoints.make("gpt_oss", directory, dtype="bfloat16", intermediate_size=64, max_shard_size="200KB")
    generator = torch.Generator().manual_seed(7)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    for name in set(index["weight_map"].values()):
        tensors = load_file(directory / name)
        for key in [key for key in tensors if key.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            experts, inputs, outputs = tensors.pop(key).shape
            blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
            scales = torch.randint(122, 126, blocks.shape[:-1], dtype=torch.uint8, generator=generator)
            tensors |= {f"{key}_blocks": blocks, f"{key}_scales": scales}
            del index["weight_map"][key]
            index["weight_map"] |= {f"{key}_blocks": name, f"{key}_scales": name}
        (directory / name).unlink()
        save_file(tensors, directory / name, metadata={"format": "pt"})
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    return directory


def test_mxfp4_is_dequantised_as_transformers_does(tmp_path: Path) -> None:
    manifest = read_manifest(_mxfp4(tmp_path))
    assert manifest.dtype == "bfloat16"
    layer = manifest.layers[1]
    assert len(layer.experts[0]) == 6
    assert layer.expert_values(3) == 3 * 32 * 64 + 2 * 64 + 32
    assert layer.expert_bytes(3) == 3 * 32 * 64 // 2 + 3 * 64 + 2 * (2 * 64 + 32)
    with checkpoints.quiet():
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32
        )
    store = ExpertStore(manifest, dtype=torch.float32, device=CPU)
    for name, module in experts_modules(model):
        index = [layer.module for layer in manifest.layers].index(name)
        store.load(index, range(6), FileSource(tmp_path, manifest.files))
        hidden, routes, weights = _routed(20, 32, seed=index)
        rows, columns, experts, counts = _slots(routes, range(6))
        out = torch.zeros(20, 2, 32)
        out[rows, columns] = store.compute(index, hidden, rows, experts, counts)
        want = _reference(module, "eager", (hidden, routes, weights))
        assert float(want.abs().max()) > 1e-2
        torch.testing.assert_close((out * weights[..., None]).sum(dim=1), want, rtol=1e-5, atol=1e-5)
    assert store.nbytes == 3 * 6 * 4 * layer.expert_values(0)


def test_mxfp4_blocks_without_scales_are_corrupt(tmp_path: Path) -> None:
    _mxfp4(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    key = "model.layers.1.mlp.experts.down_proj_scales"
    name = index["weight_map"].pop(key)
    tensors = load_file(tmp_path / name)
    del tensors[key]
    (tmp_path / name).unlink()
    save_file(tensors, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointCorrupt, match=f"down_proj_blocks has no {key}"):
        read_manifest(tmp_path)


def _store(manifest: Manifest, root: Path, *loads: Sequence[int], dtype: torch.dtype) -> ExpertStore:
    store = ExpertStore(manifest, dtype=dtype, device=CPU)
    for experts in loads:
        store.load(0, experts, FileSource(root, manifest.files))
    return store


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden_size", [32, 20, 264])
def test_the_bits_of_a_group_depend_on_nothing_else(hidden_size: int, dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoints.make("mixtral", tmp_path, hidden_size=hidden_size, head_dim=8, intermediate_size=300)
    manifest = read_manifest(tmp_path)
    crowd = _store(manifest, tmp_path, range(6), dtype=dtype)
    other = _store(manifest, tmp_path, [4, 2], [0, 3], dtype=dtype)
    for rows in (1, 2, 3, 7, 33):
        hidden = torch.randn(40, hidden_size, generator=torch.Generator().manual_seed(rows)).to(dtype)
        mine = torch.arange(rows)
        alone = crowd.compute(0, hidden, mine, [3], [rows])
        assert torch.equal(other.compute(0, hidden.clone(), mine, [3], [rows]), alone)
        # Behind groups that put it at every place in memory.
        for before in (1, 3, 5):
            slots = torch.cat((torch.arange(before), mine, torch.tensor([9])))
            out = crowd.compute(0, hidden, slots, [5, 3, 1], [before, rows, 1])
            assert torch.equal(out[before : before + rows], alone)
        # The same rows, from elsewhere in a longer input.
        moved = torch.cat((hidden[1:], hidden))
        assert torch.equal(other.compute(0, moved, mine + len(hidden) - 1, [3], [rows]), alone)
    crowd.drop(0, [0, 1])
    hidden = torch.randn(1, hidden_size).to(dtype)
    both = [store.compute(0, hidden, torch.zeros(1, dtype=torch.int64), [3], [1]) for store in (crowd, other)]
    assert torch.equal(*both)


def test_a_single_row_of_larger_experts(tmp_path: Path) -> None:
    """Large enough for the product that takes a single row twice."""
    checkpoints.make("mixtral", tmp_path, hidden_size=256, intermediate_size=320, num_hidden_layers=1)
    manifest = read_manifest(tmp_path)
    store = _store(manifest, tmp_path, range(6), dtype=torch.float32)
    module = experts_modules(checkpoints.model("mixtral", hidden_size=256, intermediate_size=320, num_hidden_layers=1))[
        0
    ][1]
    hidden = torch.randn(1, 256, generator=torch.Generator().manual_seed(0))
    row = torch.zeros(1, dtype=torch.int64)
    for expert in range(6):
        want = _reference(module, "eager", (hidden, torch.tensor([[expert]]), torch.ones(1, 1)))
        got = store.compute(0, hidden, row, [expert], [1])
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_no_slots_give_no_rows(mixtral: tuple[Manifest, Path]) -> None:
    store = _store(*mixtral, [0], dtype=torch.float32)
    out = store.compute(0, torch.randn(3, 32), torch.empty(0, dtype=torch.int64), [], [])
    assert out.shape == (0, 32)


def test_hashes_are_those_of_the_bytes_and_pins_hold(mixtral: tuple[Manifest, Path]) -> None:
    manifest, root = mixtral
    source = CountingSource(root, manifest)
    store = ExpertStore(manifest, dtype=torch.float32, device=CPU)
    hashes = store.load(1, [4, 1], source)
    ranges = manifest.layers[1].experts
    assert hashes == {expert: shard_sha256(source.read(ranges[expert])) for expert in (4, 1)}
    again = ExpertStore(manifest, dtype=torch.float32, device=CPU)
    assert again.load(1, [1, 4], source, pinned=hashes | {0: "unused"}) == hashes


def test_a_mismatch_keeps_nothing(mixtral: tuple[Manifest, Path]) -> None:
    manifest, root = mixtral
    store = _store(manifest, root, [2], dtype=torch.float32)
    source = CountingSource(root, manifest)
    pins = {expert: shard_sha256(source.read(manifest.layers[0].experts[expert])) for expert in range(6)}
    before = store.nbytes
    source.flip_after = source.read_bytes + 2 * manifest.layers[0].expert_bytes(0)
    with pytest.raises(ShardMismatch, match=rf"model\.safetensors: expert 4 .*{pins[4]}"):
        store.load(0, [0, 1, 4, 5], source, pinned=pins)
    assert store.held(0) == (2,)
    assert store.nbytes == before


def test_a_file_that_was_cut_keeps_nothing(tmp_path: Path) -> None:
    manifest = read_manifest(checkpoints.make("mixtral", tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    store = ExpertStore(manifest, dtype=torch.float32, device=CPU)
    with pytest.raises(CheckpointCorrupt):
        store.load(0, [0], FileSource(tmp_path, manifest.files))
    assert store.held(0) == ()


def test_an_expert_that_is_not_held(mixtral: tuple[Manifest, Path]) -> None:
    store = _store(*mixtral, [0, 1], dtype=torch.float32)
    hidden, rows = torch.randn(2, 32), torch.tensor([0, 1])
    with pytest.raises(ExpertsUnavailable, match="layer 0: expert 3 is not held"):
        store.compute(0, hidden, rows, [0, 3], [1, 1])
    store.drop(0, [1, 5])
    with pytest.raises(ExpertsUnavailable, match="expert 1"):
        store.compute(0, hidden, rows, [1], [2])
    assert store.held(0) == (0,)


def test_loading_an_expert_again_does_not_hold_it_twice(mixtral: tuple[Manifest, Path]) -> None:
    store = _store(*mixtral, [0, 1], dtype=torch.float32)
    before = store.nbytes
    store.load(0, [1], FileSource(mixtral[1], mixtral[0].files))
    assert store.nbytes == before
    assert store.held(0) == (0, 1)


# In a process of its own: what other tests of this one have freed would be taken again, or given back meanwhile.
DROPPING = """
import json, pathlib, sys
import psutil, torch
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.source import FileSource
from rios.dmoe.experts import ExpertStore
root = pathlib.Path(sys.argv[1])
manifest = read_manifest(root)
source = FileSource(root, manifest.files)
store = ExpertStore(manifest, dtype=torch.float32, device=torch.device("cpu"))
rss, held = [], []
for step in (lambda: store.load(0, [0], source), lambda: store.load(0, [1, 2, 3, 4, 5], source),
             lambda: store.drop(0, [2, 3, 4, 5])):
    step()
    rss.append(psutil.Process().memory_info().rss)
    held.append(store.nbytes)
print(json.dumps({"rss": rss, "held": held}))
"""


def test_dropping_gives_the_memory_back(tmp_path: Path) -> None:
    checkpoints.make("mixtral", tmp_path, hidden_size=256, intermediate_size=1024, num_hidden_layers=1)
    each = read_manifest(tmp_path).expert_bytes(0, 0)  # 3 MiB
    done = subprocess.run(
        [sys.executable, "-c", DROPPING, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    start, loaded, dropped = found["rss"]
    assert found["held"] == [each, 6 * each, 2 * each]
    assert loaded - start < 8 * each
    assert loaded - dropped > 3.5 * each


def test_computing_goes_on_while_experts_come_and_go(mixtral: tuple[Manifest, Path]) -> None:
    manifest, root = mixtral
    store = _store(manifest, root, [0], dtype=torch.float32)
    hidden, rows = torch.randn(4, 32), torch.arange(4)
    want = store.compute(0, hidden, rows, [0], [4])
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        source = FileSource(root, manifest.files)
        try:
            while not stop.is_set():
                store.load(0, [0, 1, 2], source)
                store.drop(0, [1, 2])
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            assert torch.equal(store.compute(0, hidden, rows, [0], [4]), want)
    finally:
        stop.set()
        thread.join(timeout=30)
    assert not thread.is_alive()
    assert not failures


class _Plain(nn.Module):
    """What an experts module tells about itself, with the default gate."""

    def __init__(self, *, has_gate: bool, has_bias: bool, is_transposed: bool) -> None:
        super().__init__()
        self.has_gate, self.has_bias, self.is_transposed = has_gate, has_bias, is_transposed
        self.act_fn = nn.SiLU()

    def _apply_gate(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return self.act_fn(gate) * up


@pytest.mark.parametrize("has_gate", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_transposed", [True, False])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_both_shelves_compute_the_same(has_gate: bool, has_bias: bool, is_transposed: bool, device: str) -> None:
    form_of = _Plain(has_gate=has_gate, has_bias=has_bias, is_transposed=is_transposed)
    up, wide = ("gate_up_proj", 48) if has_gate else ("up_proj", 24)
    shapes: dict[str, tuple[int, ...]] = {
        up: (32, wide) if is_transposed else (wide, 32),
        "down_proj": (24, 32) if is_transposed else (32, 24),
    }
    if has_bias:
        shapes |= {f"{up}_bias": (wide,), "down_proj_bias": (32,)}
    form = Form.of(form_of, shapes)
    generator = torch.Generator().manual_seed(5)
    weights = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(6)]
    linear = CpuShelf(form, dtype=torch.float32)
    linear.put(range(6), weights)
    grouped = GroupedShelf(form, dtype=torch.float32, device=torch.device(device))
    for load in ([3, 0, 1], [], [5, 2], [4, 0]):
        grouped.put(load, [weights[expert] for expert in load])
    grouped.drop([1])
    grouped.put([1], [weights[1]])
    assert sorted(grouped.held) == list(range(6))
    assert grouped.nbytes == 6 * sum(tensor.nbytes for tensor in weights[0].values())
    hidden, index, _ = _routed(17, 32, seed=1)
    for order in (range(6), [5, 3, 1, 0], [3], [2, 5]):
        rows, _, experts, counts = _slots(index, order)
        want = linear.compute(hidden, rows, experts, counts)
        got = grouped.compute(hidden.to(device), rows.to(device), experts, counts).cpu()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    grouped.drop(range(5))
    with pytest.raises(ExpertsUnavailable, match="expert 2"):
        grouped.compute(hidden.to(device), torch.tensor([0, 1], device=device), [5, 2], [1, 1])
