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
from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import KINDS, take_storage_away
from rios.deploy.runtimes.kubernetes import KubernetesRuntime
from rios.deploy.runtimes.kubernetes_objects import Cluster, claim_name
from rios.deploy.runtimes.protocol import Base, KeepsVolumes, Launch, Limits, Runtime, Status
from rios.deploy.runtimes.watching import Policy
from tests.deploy.images import make_rootfs
from tests.deploy.kubernetes_server import IMAGE, NAMESPACE, KubernetesServer, cluster_of

_numbers = itertools.count(1)
OUTSIDE = "api.example.org"
"""A host that the tests' policy puts at this machine's loopback address, and lets sandboxes connect to."""
HIDDEN = "hidden.example.org"
"""One at the same address... of another network, which nobody allows: it stands for all private ones."""
OWN = "own.example.org"
"""A name that a tenant leads to an address that this machine has in a network that the operator allows."""
POLICY = Policy(
    private=("127.0.0.1/32", "127.1.0.0/16"),
    names={OUTSIDE: ("127.0.0.1",), HIDDEN: ("127.0.0.2",), OWN: ("127.1.0.1",)},
)
ELSEWHERE = "kubernetes"
"""The runtime whose instances are elsewhere: this machine's kernel holds and counts nothing of them."""
NEEDS = {"bubblewrap": ("bwrap",), "runc": ("podman", "runc", "catatonit"), "gvisor": ("podman", "runsc", "catatonit")}


def runtime_parameters() -> list[Any]:
    """The runtimes, each marked with what it needs of the machine."""
    return [
        pytest.param(name, marks=[pytest.mark.needs(what) for what in (*needs, "root", "busybox")])
        for name, needs in NEEDS.items()
    ]


every_runtime = pytest.mark.parametrize(
    "bench",
    [
        *runtime_parameters(),
        pytest.param(ELSEWHERE, marks=[pytest.mark.needs(what) for what in ("bwrap", "root", "busybox")]),
    ],
    indirect=True,
)
"""For what holds of each of them; without it, of those that this machine's kernel runs."""


def make_runtime(name: str, directory: Path, policy: Policy = POLICY) -> Runtime:
    if name == ELSEWHERE:
        cluster = Cluster(kubeconfig=str(directory / "cluster" / "kubeconfig"), namespace=NAMESPACE)
        return KubernetesRuntime(cluster, "tests", policy=policy)
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


@pytest.fixture(scope="session")
def cluster(sandbox_directory: Path, rootfs: Path) -> Iterator[KubernetesServer]:
    """A cluster whose only image is the root file system."""
    with cluster_of(sandbox_directory / "cluster", rootfs) as server:
        yield server


@dataclass
class Bench:
    """A runtime under test, and what it takes to start something in it."""

    name: str
    runtime: Runtime
    base: Base
    directory: Path
    started: list[str] = field(default_factory=list)
    cluster: KubernetesServer | None = None

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

    def volume(self, name: str) -> tuple[Path, Path]:
        """A volume as a mount names it, and the directory where this test finds its files."""
        source = self.directory / name
        if not isinstance(self.runtime, KeepsVolumes):
            source.mkdir(mode=0o700)
            return source, source
        self.runtime.ensure_volume(source, 1 << 20)
        assert self.cluster is not None
        assert self.cluster.node.has(None, claim_name(source))
        return source, self.cluster.node.claims[claim_name(source)]

    def processes(self, instance: str) -> list[int]:
        """Its processes, as this machine numbers them."""
        if self.cluster is None:
            return list(Cgroup(instance).processes())
        return self.cluster.node.pods[f"rios-{instance}"].processes()

    def output(self, instance: str) -> str:
        return "\n".join(line.text for line in self.runtime.logs(instance) if line.stream == "stdout")


@pytest.fixture(scope="session")
def benches(sandbox_directory: Path, rootfs: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Bench]]:
    made: dict[str, Bench] = {}

    def bench(name: str) -> Bench:
        if name not in made:
            server = request.getfixturevalue("cluster") if name == ELSEWHERE else None
            runtime = make_runtime(name, sandbox_directory)
            assert not runtime.capabilities().why_not
            base = runtime.prepare_archive(rootfs) if server is None else runtime.prepare_image(IMAGE)
            made[name] = Bench(name, runtime, base, sandbox_directory, cluster=server)
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
    if bench.cluster is not None:
        kinds = bench.cluster.objects
        assert not [one for kind in kinds for name in instances for one in bench.cluster.of(kind, name)]
        assert not {path.name for path in bench.cluster.directory.iterdir() if "-" in path.name} & set(instances)
    elif bench.name != "bubblewrap":
        found = bench.runtime._containers.listed()  # type: ignore[attr-defined]
        names = {name.strip("/") for container in found for name in container["Names"]}
        assert not names & {f"rios-{instance}" for instance in instances}
