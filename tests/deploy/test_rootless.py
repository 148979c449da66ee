"""The process sandbox of a user without privileges: as closed, with weaker limits, and it says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.campaigns import ROOT

NOBODY_IN_PARTICULAR = 23456


def _as_other(*command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=directory, env={"PATH": os.defpath},
        user=NOBODY_IN_PARTICULAR, group=NOBODY_IN_PARTICULAR, extra_groups=[],
    )  # fmt: skip


def _interpreter(directory: Path) -> str:
    """An interpreter of this version that another user may run, with this environment's packages."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (f"{sys.base_prefix}/bin/python{version}", f"/usr/bin/python{version}"):
        try:
            found = _as_other(candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.')", directory=directory)
        except OSError:
            continue
        if found.stdout.strip() == version:
            (directory / "bin").mkdir(mode=0o755)
            (directory / "bin" / "python").symlink_to(candidate)
            (directory / "pyvenv.cfg").write_text(f"home = {Path(candidate).parent}\n")
            packages = directory / "lib" / f"python{version}" / "site-packages"
            packages.mkdir(mode=0o755, parents=True)
            (packages / "here.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
            return str(directory / "bin" / "python")
    raise AssertionError(f"no Python {version} that another user may run: install python3 of the system")


@pytest.mark.needs("root")
@pytest.mark.needs("bwrap")
def test_all_but_limits_works_without_root(sandbox_directory: Path) -> None:
    directory = sandbox_directory / "rootless"
    directory.mkdir(mode=0o755)
    python = _interpreter(directory)
    state = directory / "state"
    state.mkdir()
    os.chown(state, NOBODY_IN_PARTICULAR, NOBODY_IN_PARTICULAR)
    done = _as_other(python, "-B", "-m", "tests.deploy.rootless", str(state), directory=directory)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["said"] == ["10001", "token", "answer", "limited"]
    assert seen["answered"] == "inside"
    assert seen["executed"] == [3, "10001\ntoken"]
    assert seen["paused"] == ["paused", "running"]
    assert seen["code"] == 143
    assert seen["left"] == 0
    assert seen["limits"] == ["none", "rlimit", "none"]
    assert not seen["metered"]
    assert "no control group" in seen["notes"][0]
