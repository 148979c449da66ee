"""Images without a registry: archives as engines save them, found again by their digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from rios.deploy.runtimes.protocol import HostBase, ImageBase
from rios.words.errors import InvalidRequest, NotFound, UnsupportedRuntime
from tests.deploy.conftest import Bench
from tests.deploy.images import make_image


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image as `docker save` writes it: one layer, and a command of its own."""
    directory = tmp_path_factory.mktemp("image")
    return make_image(
        directory / "saved.tar", "example.org/lab/tool:1", command=("/bin/echo", "by itself"), env=("OF_THE_IMAGE=1",)
    )


def test_a_saved_image_runs_its_own_command(bench: Bench, saved: Path) -> None:
    if bench.name == "bubblewrap":
        with pytest.raises(UnsupportedRuntime, match="root file systems alone"):
            bench.runtime.prepare_archive(saved)
        return
    image = bench.runtime.prepare_archive(saved)
    assert isinstance(image, ImageBase)
    assert image.digest.removeprefix("sha256:").isalnum()
    assert bench.runtime.prepare_archive(saved) == image
    assert bench.runtime.prepare_image("example.org/lab/tool:1") == image
    assert bench.runtime.prepare_image(image.digest) == image
    before = bench.base
    bench.base = image
    try:
        assert bench.run()[1] == "by itself"
        _, said = bench.run("/bin/sh", "-c", "id -u; echo $OF_THE_IMAGE")
        assert said.split() == ["10001", "1"], "the user is never the image's own choice"
    finally:
        bench.base = before


def test_what_a_runtime_does_not_take(bench: Bench, tmp_path: Path) -> None:
    if bench.name == "bubblewrap":
        with pytest.raises(UnsupportedRuntime, match="no images"):
            bench.runtime.prepare_image("example.org/lab/tool:1")
        with pytest.raises(InvalidRequest, match="no command"):
            bench.start()
        bench.base = ImageBase("sha256:0")
        expected = "no images"
    else:
        with pytest.raises(NotFound, match="cannot be pulled"):
            bench.runtime.prepare_image("127.0.0.1:1/nobody/nothing:1")
        bench.base = HostBase()
        expected = "neither"
    before = bench.runtime.prepare_archive(bench.directory / "rootfs.tar")
    try:
        with pytest.raises(UnsupportedRuntime, match=expected):
            bench.start("true")
    finally:
        bench.base = before
    with pytest.raises(InvalidRequest, match="no such archive"):
        bench.runtime.prepare_archive(tmp_path / "nowhere.tar")
