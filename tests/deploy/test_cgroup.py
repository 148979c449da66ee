"""Control groups: a tree of version 2 made of plain files, and the kernel's own, whichever it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rios.deploy.runtimes import cgroup
from rios.deploy.runtimes.cgroup import Cgroup
from rios.words.errors import SandboxFailed
from tests.waiting import until


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a kernel with version 2 shows, as far as it is read."""
    group = tmp_path / "rios" / "x"
    group.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    for directory in (tmp_path, tmp_path / "rios"):
        (directory / "cgroup.subtree_control").write_text("")
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    (group / "memory.current").write_text("1000\n")
    (group / "memory.peak").write_text("3000\n")
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (group / "pids.current").write_text("4\n")
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    return tmp_path


def test_version_2_is_written_and_read(tree: Path) -> None:
    assert cgroup.version(tree) == 2
    group = Cgroup("x", mount=tree)
    group.make(cpu=1.5, memory_bytes=1 << 26, pids=50)
    at = tree / "rios" / "x"
    assert (at / "cpu.max").read_text() == "150000 100000"
    assert (at / "memory.max").read_text() == str(1 << 26)
    assert (at / "memory.swap.max").read_text() == "0"
    assert (at / "pids.max").read_text() == "50"
    assert (tree / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert group.entrances() == [str(at / "cgroup.procs")]
    counted = group.counted()
    assert (counted.cpu_seconds, counted.memory_bytes, counted.memory_peak_bytes) == (2.5, 1000, 3000)
    assert (counted.pids, counted.out_of_memory) == (4, 2)
    assert group.frozen
    assert cgroup.list_instances(tree) == ["x"]


def test_a_host_without_groups_is_told_apart(tmp_path: Path) -> None:
    assert cgroup.version(tmp_path) == 0
    (tmp_path / "cgroup.controllers").write_text("cpuset")
    (tmp_path / "cgroup.subtree_control").write_text("")
    assert cgroup.version(tmp_path) == 0
    with pytest.raises(SandboxFailed, match="no control group"):
        Cgroup("x", mount=tmp_path / "cgroup.controllers", layout=1).make(cpu=1, memory_bytes=1 << 26, pids=5)


@pytest.mark.needs("root")
def test_the_kernels_own() -> None:
    group = Cgroup("test-of-groups")
    group.make(cpu=1.0, memory_bytes=1 << 26, pids=20)
    try:
        script = "".join(f'echo 0 > "{entrance}"; ' for entrance in group.entrances())
        with subprocess.Popen(["sh", "-c", f"{script} sleep 100 & exec sleep 100"]):
            until(lambda: len(group.processes()) == 2, "two processes in the group", deadline_s=20)
            assert group.counted().pids == 2
            group.freeze(True)
            assert group.frozen
            group.kill()  # what is frozen, too
            assert not group.processes()
    finally:
        group.remove()
    assert not group.exists
    group.remove()
