"""Runtimes on a directory of their own, each with the same root file system, and none with anything left over."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes import cgroup
from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import KINDS, take_storage_away
from rios.deploy.runtimes.protocol import Base, Launch, Limits, Runtime, Status
from rios.deploy.runtimes.watching import Policy
from tests.deploy.images import make_rootfs

_numbers = itertools.count(1)
OUTSIDE = "api.example.org"
"""A host that the tests' policy puts at this machine's loopback address, and lets sandboxes connect to."""
HIDDEN = "hidden.example.org"
"""One at the same address... of another network, which nobody allows: it stands for all private ones."""
POLICY = Policy(private=("127.0.0.1/32",), names={OUTSIDE: ("127.0.0.1",), HIDDEN: ("127.0.0.2",)})
NEEDS = {"bubblewrap": ("bwrap",), "runc": ("podman", "runc", "catatonit"), "gvisor": ("podman", "runsc", "catatonit")}


def runtime_parameters() -> list[Any]:
    """The runtimes, each marked with what it needs of the machine."""
    return [
        pytest.param(name, marks=[pytest.mark.needs(what) for what in (*needs, "root", "busybox")])
        for name, needs in NEEDS.items()
    ]


def make_runtime(name: str, directory: Path, policy: Policy = POLICY) -> Runtime:
    if name == "bubblewrap":
        return BubblewrapRuntime(directory, policy=policy)
    return EngineRuntime(KINDS[name], directory, policy=policy)  # type: ignore[index]


@pytest.fixture(scope="session")
def sandbox_directory() -> Iterator[Path]:
    """Where sandboxes' own user may pass through, which pytest's temporary directories do not let them."""
    directory = Path(tempfile.mkdtemp(prefix="rios-sandboxes-"))
    directory.chmod(0o711)
    yield directory
    take_storage_away(directory / "engine")
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def rootfs(sandbox_directory: Path) -> Path:
    return make_rootfs(sandbox_directory / "rootfs.tar")


@dataclass
class Bench:
    """A runtime under test, and what it takes to start something in it."""

    name: str
    runtime: Runtime
    base: Base
    directory: Path
    started: list[str] = field(default_factory=list)

    def launch(self, *command: str, **more: Any) -> Launch:
        """A launch of a command, with an id nobody had."""
        more.setdefault("instance", f"t{os.getpid()}-{next(_numbers)}")
        more.setdefault("limits", Limits(cpu=2.0, memory_bytes=128 << 20, pids=64, tmp_bytes=4 << 20))
        self.started.append(more["instance"])
        return Launch(base=self.base, command=command, **more)

    def start(self, *command: str, **more: Any) -> Status:
        return self.runtime.start(self.launch(*command, **more))

    def run(self, *command: str, **more: Any) -> tuple[Status, str]:
        """Run to the end; how it ended, and its standard output."""
        status = self.start(*command, **more)
        status = self.runtime.wait(status.instance, timeout_s=60)
        return status, self.output(status.instance)

    def python(self, code: str, *arguments: str, **more: Any) -> tuple[Status, str]:
        return self.run("/usr/local/bin/python3", "-S", "-c", code, *arguments, **more)

    def output(self, instance: str) -> str:
        return "\n".join(line.text for line in self.runtime.logs(instance) if line.stream == "stdout")


@pytest.fixture(scope="session")
def benches(sandbox_directory: Path, rootfs: Path) -> Iterator[Callable[[str], Bench]]:
    made: dict[str, Bench] = {}

    def bench(name: str) -> Bench:
        if name not in made:
            runtime = make_runtime(name, sandbox_directory)
            assert not runtime.capabilities().why_not
            made[name] = Bench(name, runtime, runtime.prepare_archive(rootfs), sandbox_directory)
        return made[name]

    yield bench
    for one in made.values():
        one.runtime.close()


@pytest.fixture(params=runtime_parameters())
def bench(request: pytest.FixtureRequest, benches: Callable[[str], Bench]) -> Iterator[Bench]:
    """One after the other; afterwards nothing of what a test started may be there."""
    one = benches(request.param)
    one.started.clear()
    yield one
    for instance in one.started:
        one.runtime.remove(instance)
    assert_nothing_left(one, one.started)


def assert_nothing_left(bench: Bench, instances: list[str]) -> None:
    """No record, no control group, no file in memory, and no process, of these instances."""
    assert not {status.instance for status in bench.runtime.instances()} & set(instances)
    assert not set(cgroup.list_instances()) & set(instances)
    memory = Path(f"/dev/shm/rios-{os.getuid()}")
    assert not memory.is_dir() or not {path.name for path in memory.iterdir()} & set(instances)
    if bench.name != "bubblewrap":
        found = bench.runtime._containers.listed()  # type: ignore[attr-defined]
        names = {name.strip("/") for container in found for name in container["Names"]}
        assert not names & {f"rios-{instance}" for instance in instances}
