"""Shards of private models on disk: unreadable without the key, and what was changed is found out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import rios
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.manifest import Manifest
from rios.dmoe.sealed import FRAME_BYTES, Seal, Tampered, seal_of
from rios.dmoe.shard_cache import ShardCache
from rios.dmoe.source import FileSource
from rios.words.config import Settings
from rios.words.errors import InvalidRequest
from tests.checkpoints import make

DATA = random.Random(5).randbytes(3 * FRAME_BYTES + 1234)
DIGEST = hashlib.sha256(DATA).hexdigest()
KEY = "ab" * 32


def cached(folder: Path, *, key: str = KEY) -> ShardCache:
    return ShardCache(folder, 1 << 30, Seal(bytes.fromhex(key)))


def fill(cache: ShardCache, data: bytes = DATA, step: int = 10_000) -> None:
    with cache.partial(hashlib.sha256(data).hexdigest(), len(data)) as partial:
        assert partial.found(len(data)) == b""
        for start in range(0, len(data), step):
            partial.append(data[start : start + step])
        partial.keep()


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


@pytest.mark.parametrize("size", [1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, len(DATA)])
@pytest.mark.parametrize("step", [777, FRAME_BYTES, 1 << 22])
def test_what_is_kept_comes_back(tmp_path: Path, size: int, step: int) -> None:
    data = DATA[:size]
    digest = hashlib.sha256(data).hexdigest()
    fill(cached(tmp_path), data, step)
    assert cached(tmp_path).get(digest) == data
    for start, stop in ((0, size), (size // 2, size), (size // 3, size // 2 + 1), (size - 1, size)):
        assert cached(tmp_path).piece(digest, start, stop) == data[start:stop]
    assert cached(tmp_path).piece(digest, 0, size + 1) is None


def test_nothing_of_it_lies_in_clear(tmp_path: Path) -> None:
    fill(cached(tmp_path))
    kept = only(tmp_path).read_bytes()
    assert not any(DATA[start : start + 16] in kept for start in range(0, len(DATA) - 16, 16))
    assert DIGEST not in only(tmp_path).name  # which would tell whose it is
    fill(cached(tmp_path / "again"))
    assert only(tmp_path / "again").read_bytes() != kept  # nothing is encrypted twice alike
    assert cached(tmp_path, key="cd" * 32).get(DIGEST) is None
    renamed = tmp_path / Seal(bytes.fromhex("cd" * 32)).name(DIGEST)
    only_one = next(path for path in tmp_path.iterdir() if path.is_file())
    renamed.write_bytes(only_one.read_bytes())
    assert cached(tmp_path, key="cd" * 32).get(DIGEST) is None


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


STEP = FRAME_BYTES + 28
TAMPERING: dict[str, Callable[[bytes], bytes]] = {
    "salt": lambda data: flipped(data, 20),
    "nonce": lambda data: flipped(data, 40),
    "ciphertext": lambda data: flipped(data, 40 + 12 + 100),
    "tag": lambda data: flipped(data, 40 + STEP - 1),
    "the last byte": lambda data: flipped(data, len(data) - 1),
    "frames swapped": lambda data: (
        data[:40] + data[40 + STEP : 40 + 2 * STEP] + data[40 : 40 + STEP] + data[40 + 2 * STEP :]
    ),
    "a frame left out": lambda data: data[:40] + data[40 + STEP :],
    "cut off at a frame": lambda data: data[: 40 + STEP],
    "cut off": lambda data: data[:-5],
    "more": lambda data: data + bytes(40),
    "the plain bytes": lambda data: DATA,
}


@pytest.mark.parametrize("way", TAMPERING)
def test_tampering_is_found_out(tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = cached(tmp_path)
    fill(cache)
    path = only(tmp_path)
    path.write_bytes(TAMPERING[way](path.read_bytes()))
    if way not in ("cut off at a frame", "the last byte", "cut off", "more"):
        assert cache.piece(DIGEST, 0, 10) is None
    assert cache.get(DIGEST) is None
    assert not path.exists()
    assert "damaged range removed" in caplog.text


def test_one_files_frames_are_no_other_files(tmp_path: Path) -> None:
    seal = Seal(bytes.fromhex(KEY))
    fill(cached(tmp_path))
    with pytest.raises(Tampered):
        seal.open(only(tmp_path).read_bytes(), "0" * 64)


def test_an_interrupted_fetch_goes_on(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    with cache.partial(DIGEST, len(DATA)) as partial:
        partial.append(DATA[: 2 * FRAME_BYTES + 50])
    part = only(tmp_path)
    part.write_bytes(part.read_bytes() + b"half a frame")
    with cache.partial(DIGEST, len(DATA)) as partial:
        found = partial.found(len(DATA))
        assert found == DATA[: 2 * FRAME_BYTES]
        partial.append(DATA[len(found) :])
        partial.keep()
    assert cache.get(DIGEST) == DATA
    with cache.partial(DIGEST, len(DATA)) as partial:
        partial.append(DATA)
        partial.clear()
        partial.append(DATA)
        partial.keep()
    assert cache.get(DIGEST) == DATA


def test_a_spoiled_start_is_fetched_again(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    with cache.partial(DIGEST, len(DATA)) as partial:
        partial.append(DATA[: 2 * FRAME_BYTES])
    part = only(tmp_path)
    part.write_bytes(flipped(part.read_bytes(), 40 + STEP + 20))
    with cache.partial(DIGEST, len(DATA)) as partial:
        assert partial.found(len(DATA)) == DATA[:FRAME_BYTES]


def test_where_the_key_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    assert seal_of(Settings()) is None
    for options in (Settings(shard_key=KEY), Settings(shard_key_file=file)):  # type: ignore[arg-type]
        found = seal_of(options)
        assert found is not None
        assert found.name("x") == Seal(bytes.fromhex(KEY)).name("x")
        assert KEY not in repr(options) + repr(found)
    file.chmod(0o640)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        seal_of(Settings(shard_key_file=file))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        seal_of(Settings(shard_key_file=tmp_path / "none"))
    with pytest.raises(InvalidRequest, match="64 hexadecimal") as refused:
        seal_of(Settings(shard_key=KEY[1:]))  # type: ignore[arg-type]
    assert KEY[1:] not in str(refused.value)


def expert_bytes(checkpoint: Path, manifest: Manifest) -> list[bytes]:
    """The first bytes of each expert's tensors, which no file of a host may hold."""
    source = FileSource(checkpoint, manifest.files)
    parts = [part for layer in manifest.layers for expert in layer.experts for part in expert]
    return [bytes(data[:64]) for data in source.read(parts)]


@pytest.mark.parametrize("private", [True, False])
def test_a_private_model_on_the_disks_of_hosts(tmp_path: Path, private: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that fetch shards from the client keep them: sealed when the model is private, in clear when it is not."""
    checkpoint = make("olmoe", tmp_path / "model")
    manifest = read_manifest(checkpoint)
    home = tmp_path / "hosts"
    monkeypatch.setenv("RIOS_HOST_CLASS", "tests.blind:BlindHost")
    options = {"shard_key": KEY, "tls": True}
    with (
        rios.local(workers=1, home=home, **options) as net,
        net.dmoe.deploy(checkpoint, private=private, progress=False) as model,
    ):
        answer = model.generate(list(range(5)), max_new_tokens=4, ignore_eos=True)
        assert len(answer.token_ids) == 4
    kept = [path.read_bytes() for path in (home / "shards").iterdir()]
    assert len(kept) > 3
    clear = [piece for piece in expert_bytes(checkpoint, manifest) if any(piece in file for file in kept)]
    assert bool(clear) is not private
