"""What is built to be installed: one wheel, whichever way it is made, and none that lacks a bundle."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.campaigns import ROOT

TIMEOUT_S = 600
BUNDLES = ("extension/labextension/package.json", "rios/widgets/static/widget.js", "rios/gateway/static/dashboard.js")


def build(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "build", *options, "--outdir", str(out), str(source)],
        env=os.environ | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, int]:
    """The files of the one wheel there, and their checksums."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


@pytest.mark.long
@pytest.mark.needs("npm")
def test_the_wheel_of_the_source_distribution_is_the_same(tmp_path: Path) -> None:
    assert all((ROOT / one).is_file() for one in BUNDLES), "make lab"
    for folder, options in (("both", ()), ("direct", ("--wheel",))):
        done = build(ROOT, tmp_path / folder, *options)
        assert done.returncode == 0, done.stdout + done.stderr
    found = contents(tmp_path / "both")
    assert found == contents(tmp_path / "direct")
    assert {"rios/widgets/static/widget.js", "rios/gateway/static/dashboard.js"} <= set(found)
    assert any(name.endswith("share/jupyter/labextensions/rios-lab/package.json") for name in found)
    assert any(name.endswith("etc/jupyter/jupyter_server_config.d/rios-lab.json") for name in found)

    (packed,) = (tmp_path / "both").glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    (source / "rios/gateway/static/dashboard.js").unlink()
    refused = build(source, tmp_path / "none", "--wheel")
    assert refused.returncode != 0
    assert "rios/gateway/static/dashboard.js is not built: run `make lab`" in refused.stdout + refused.stderr


@pytest.mark.needs("npm")
@pytest.mark.parametrize(("kind", "name"), [("labextension", "rios-lab v"), ("server extension", "rios.lab ")])
def test_jupyter_lists_both_halves_of_the_panels(kind: str, name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *kind.split(), "list"],
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = [line for line in (done.stdout + done.stderr).splitlines() if name in f"{line} "]
    assert any("enabled" in line for line in lines), done.stdout + done.stderr
    assert any("OK" in line for line in lines), done.stdout + done.stderr
