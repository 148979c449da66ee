"""GPUs in sandboxes, on a machine that has none: device nodes of a directory, files of CDI, and what NVML would say.

The nodes are harmless ones of the kernel, /dev/null and /dev/zero under other names, so that opening them is real.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from rios.deploy.runtimes import arguments, gpus
from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
from rios.deploy.runtimes.gpus import Gpu, Gpus, told_of
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import Capabilities, HostBase, Isolation, Launch, Limits
from rios.deploy.scheduling import choose
from rios.deploy.spec import App
from rios.services.deployments import agent_wire
from rios.services.deployments.hosts import Order
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.specified import need_of
from rios.words.errors import InvalidRequest, SandboxFailed, UnsupportedRuntime
from tests.deploy.gpu_machines import A, B, C, machine, record
from tests.waiting import until

NULL, ZERO = os.makedev(1, 3), os.makedev(1, 5)
_numbers = itertools.count(1)


# --- which there are ------------------------------------------------------------------------------------------


class Nvml:
    """What is asked of NVML, answered by a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *devices: dict[str, Any] | Exception) -> None:
        self.open = 0
        answers = {
            "nvmlInit": lambda: self._count(1),
            "nvmlShutdown": lambda: self._count(-1),
            "nvmlDeviceGetCount": lambda: len(devices),
            "nvmlDeviceGetHandleByIndex": lambda number: devices[number],
            "nvmlDeviceGetUUID": lambda device: self._of(device, "uuid"),
            "nvmlDeviceGetMinorNumber": lambda device: device["minor"],
            "nvmlDeviceGetMigMode": lambda device: self._of(device, "mig"),
            "nvmlDeviceGetUtilizationRates": lambda device: SimpleNamespace(gpu=self._of(device, "percent")),
            "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(used=device["used"]),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)

    def _count(self, by: int) -> None:
        self.open += by

    @staticmethod
    def _of(device: dict[str, Any], name: str) -> Any:
        if name not in device:
            raise pynvml.NVMLError_NotSupported
        if isinstance(device[name], Exception):
            raise device[name]
        return device[name]


def test_what_nvml_shows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    nvml = Nvml(
        monkeypatch,
        {"uuid": "GPU-1", "minor": 3, "mig": [0, 0], "percent": 40, "used": 7},
        {"uuid": "GPU-2", "minor": 4, "mig": [1, 1], "percent": 0, "used": 0},  # split
        {"uuid": lost, "minor": 5, "mig": [0, 0]},
        {"uuid": "GPU-4", "minor": 6, "used": 9},  # of a model that says little
    )
    assert gpus.read_gpus() == (
        Gpu(uuid="GPU-1", minor=3, percent=40, used_bytes=7),
        Gpu(uuid="GPU-4", minor=6, used_bytes=9),
    )
    assert nvml.open == 0


def test_a_machine_without_a_driver_has_none(tmp_path: Path) -> None:
    assert gpus.read_gpus() == ()

    def asked() -> tuple[Gpu, ...]:
        raise AssertionError("NVML is not asked where there is no node")

    none = Gpus(dev=tmp_path, claims=tmp_path / "claims", read=asked)
    assert none.found() == ()
    assert "this machine has none" in none.why_not()


def test_what_has_no_node_here_is_not_given(tmp_path: Path) -> None:
    """As in a container that shows some of the machine's GPUs."""
    found = machine(tmp_path, A, B, missing=("nvidia1",))
    assert found.found() == (A,)
    assert found.why_not() == ""


def test_a_driver_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_READ_S", 0.1)
    machine(tmp_path, A)
    asked: list[int] = []
    answers = threading.Event()

    def hang() -> tuple[Gpu, ...]:
        asked.append(1)
        answers.wait(60)
        return (A,)

    here = Gpus(dev=tmp_path / "dev", claims=tmp_path / "claims", read=hang)
    assert here.found() == ()
    until(lambda: asked, "a question", deadline_s=10)
    assert (here.found(), here.found(), len(asked)) == ((), (), 1), "nor does it hold a thread for each question"
    with pytest.raises(SandboxFailed, match="0 of the 0 of this machine are free"):
        here.take(record(tmp_path, "first"), 1)
    answers.set()
    until(lambda: here.found() == (A,), "an answer", deadline_s=10)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"missing": ("nvidia-uvm",)}, "nvidia-uvm is not there; `nvidia-modprobe -u -c 0` makes it"),
        ({"mode": 0o664}, "is closed to the users of sandboxes"),
        ({"missing": ("nvidia-uvm-tools",)}, ""),
    ],
)
def test_what_keeps_a_sandbox_from_using_one(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    found = machine(tmp_path, A, **more).why_not()
    assert (why in found) if why else found == ""


# --- whose they are -------------------------------------------------------------------------------------------


def test_the_least_used_is_given_and_none_twice(tmp_path: Path) -> None:
    busy = Gpu(uuid=A.uuid, minor=A.minor, used_bytes=5 << 30)
    computing = Gpu(uuid=B.uuid, minor=B.minor, percent=90)
    here = machine(tmp_path, busy, computing, C)
    first, second, third, fourth = (record(tmp_path, name) for name in ("first", "second", "third", "fourth"))
    assert here.take(first, 1) == (C,)
    assert here.take(first, 1) == (C,), "a start that is done again"
    assert here.take(first, 0) == ()
    # Another process of the machine, which knows nothing but what lies on disk.
    other = Gpus(dev=tmp_path / "dev", claims=tmp_path / "claims", read=lambda: (busy, computing, C))
    assert other.of(first) == (C,)
    assert other.take(second, 2) == (busy, computing), "by their numbers"
    with pytest.raises(SandboxFailed, match=r"1 GPUs are asked for, and 0 of the 3 .* given to first, second"):
        here.take(third, 1)
    assert here.of(third) == ()
    shutil.rmtree(second)
    with pytest.raises(SandboxFailed, match="3 GPUs are asked for, and 2 of the 3"):
        here.take(third, 3)
    assert here.take(third, 1) == (computing,)
    assert other.take(fourth, 1) == (busy,)


def test_many_that_ask_at_a_time_get_different_ones(tmp_path: Path) -> None:
    found = [Gpu(uuid=f"GPU-{minor}", minor=minor) for minor in range(8)]
    machine(tmp_path, *found)
    given: list[Gpu] = []

    def take(name: str) -> None:
        here = Gpus(dev=tmp_path / "dev", claims=tmp_path / "claims", read=lambda: found)
        given.extend(here.take(record(tmp_path, name), 2))

    threads = [threading.Thread(target=take, args=(f"r{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(gpu.minor for gpu in given) == list(range(8))


def test_what_its_gpus_do_is_measured(tmp_path: Path) -> None:
    now = [Gpu(uuid="GPU-a", minor=0), Gpu(uuid="GPU-b", minor=1), Gpu(uuid="GPU-c", minor=2)]
    machine(tmp_path, *now)
    here = Gpus(dev=tmp_path / "dev", claims=tmp_path / "claims", read=lambda: now)
    mine, nobodys = record(tmp_path, "mine"), record(tmp_path, "nobodys")
    here.take(mine, 2)
    now[:] = [
        Gpu(uuid="GPU-a", minor=0, percent=50, used_bytes=3),
        Gpu(uuid="GPU-b", minor=1, percent=20, used_bytes=4),
        Gpu(uuid="GPU-c", minor=2, percent=99, used_bytes=99),
    ]
    assert here.used(mine) == (35.0, 7)
    assert here.used(nobodys) == (0.0, 0)


# --- bubblewrap -----------------------------------------------------------------------------------------------


def test_bubblewrap_is_given_these_nodes_and_no_others(tmp_path: Path) -> None:
    here = machine(tmp_path, A, B, missing=("nvidia-uvm-tools",))
    launch = Launch(instance="x", base=HostBase(), command=("serve",), env={"CUDA_VISIBLE_DEVICES": "0,1"}, gpus=1)
    given = arguments.bubblewrap(
        launch, tmp_path, MemoryFiles("x"), None, devices=here.nodes([B]), told=told_of([B])
    )  # fmt: skip
    bound = [tuple(given[index + 1 : index + 3]) for index, word in enumerate(given) if word == "--dev-bind"]
    names = ("nvidiactl", "nvidia-uvm", "nvidia1")
    assert bound == [(str(tmp_path / "dev" / name), f"/dev/{name}") for name in names]
    assert given.index("--dev-bind") > given.index("--dev")
    assert given[given.index("CUDA_VISIBLE_DEVICES") + 1] == "GPU-bbbb"
    assert "--dev-bind" not in arguments.bubblewrap(launch, tmp_path, MemoryFiles("x"), None, devices=here.nodes([]))


@pytest.fixture
def nodes(sandbox_directory: Path) -> Iterator[Path]:
    """A /dev with two GPUs: the first is /dev/null, the second /dev/zero."""
    dev = sandbox_directory / f"dev-{next(_numbers)}"
    dev.mkdir(mode=0o755)
    for name, number in (*((name, NULL) for name in gpus.SHARED), ("nvidia0", NULL), ("nvidia1", ZERO)):
        os.mknod(dev / name, 0o666 | stat.S_IFCHR, number)
        (dev / name).chmod(0o666)
    yield dev
    shutil.rmtree(dev)


LOOK = (
    "cd /dev; echo nvidia*; head -c 3 /dev/nvidia1 | od -An -tx1; echo x >/dev/nvidiactl && echo wrote; env; sleep 60"
)


@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
def test_a_sandbox_sees_its_own_gpu_alone(nodes: Path, sandbox_directory: Path, tmp_path: Path) -> None:
    used = [Gpu(uuid=A.uuid, minor=0, used_bytes=1, percent=60), Gpu(uuid=B.uuid, minor=1)]
    here = Gpus(dev=nodes, claims=tmp_path, read=lambda: used)
    place = sandbox_directory / "gpus"
    place.mkdir(mode=0o711)
    runtime = BubblewrapRuntime(place, gpus=here)
    assert runtime.no_gpus() == ""
    limits = Limits(cpu=2.0, memory_bytes=128 << 20, pids=64, tmp_bytes=1 << 20)

    def launch(name: str, count: int, *command: str) -> Launch:
        return Launch(instance=f"gpu-{os.getpid()}-{name}", base=HostBase(), command=command, gpus=count, limits=limits)

    def seen(instance: str) -> str:
        done = runtime.exec(instance, ("sh", "-c", "cd /dev; echo nvidia*"))
        assert done.exit_code == 0, done
        return done.stdout.decode().strip()

    first = runtime.start(launch("first", 1, "sh", "-c", LOOK))
    shared = "nvidia-uvm nvidia-uvm-tools"
    try:
        assert seen(first.instance) == f"{shared} nvidia1 nvidiactl", "the one that is used least, and no other"
        said = runtime.exec(first.instance, ("sh", "-c", LOOK.removesuffix("; sleep 60"))).stdout.decode()
        assert " 00 00 00\nwrote\n" in said, "they can be opened"
        assert "CUDA_VISIBLE_DEVICES=GPU-bbbb" in said
        assert "NVIDIA_VISIBLE_DEVICES=GPU-bbbb" in said
        second = runtime.start(launch("second", 1, "sleep", "60"))
        assert seen(second.instance) == f"{shared} nvidia0 nvidiactl"
        assert (runtime.metrics(second.instance).gpu_percent, runtime.metrics(second.instance).gpu_memory_bytes) == (
            60,
            1,
        )
        none = runtime.start(launch("none", 0, "sleep", "60"))
        assert seen(none.instance) == "nvidia*", "nothing of them without"
        assert "VISIBLE" not in runtime.exec(none.instance, ("env",)).stdout.decode()
        # Another process, after a restart, knows whose they are.
        again = BubblewrapRuntime(place, gpus=Gpus(dev=nodes, claims=tmp_path, read=lambda: used))
        third = launch("third", 1, "sleep", "60")
        with pytest.raises(SandboxFailed, match="0 of the 2 of this machine are free"):
            again.start(third)
        assert third.instance not in {one.instance for one in again.instances()}, "nothing is left of it"
        again.kill(first.instance)
        with pytest.raises(SandboxFailed, match="0 of the 2"):
            again.start(third)
        again.remove(first.instance)
        assert again.start(third).state == "running"
        assert seen(third.instance) == f"{shared} nvidia1 nvidiactl"
        with pytest.raises(InvalidRequest, match="another launch"):
            again.start(launch("third", 2, "sleep", "60"))
    finally:
        for status in runtime.instances():
            runtime.remove(status.instance)


@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
def test_a_host_without_gpus_refuses(sandbox_directory: Path, tmp_path: Path) -> None:
    runtime = BubblewrapRuntime(sandbox_directory, gpus=Gpus(dev=tmp_path, claims=tmp_path))
    with pytest.raises(UnsupportedRuntime, match="this machine has none"):
        runtime.start(Launch(instance="no-gpu", base=HostBase(), command=("true",), gpus=1))
    assert "no-gpu" not in {status.instance for status in runtime.instances()}


# --- hosts ----------------------------------------------------------------------------------------------------


def _app(count: int) -> dict[str, Any]:
    return App(name="render", command=["sleep", "60"], resources={"gpu": count, "memory": "128MiB"}).stored()


@pytest.mark.needs("root")
def test_a_host_offers_what_it_has_and_scheduling_says_what_it_lacks(tmp_path: Path) -> None:
    def host(name: str, found: Gpus) -> LocalHost:
        return LocalHost(
            name, tmp_path / "apps", lambda _: {}, {"bubblewrap": Isolation.PROCESS}, network_id="n", gpus=found
        )  # fmt: skip

    (tmp_path / "closed").mkdir()
    (tmp_path / "none").mkdir()
    two = host("two", machine(tmp_path, A, B)).offer()
    none = host("none", Gpus(dev=tmp_path / "none", claims=tmp_path / "claims")).offer()
    closed = host("closed", machine(tmp_path / "closed", A, mode=0o600)).offer()
    assert (two.total.gpus, none.total.gpus, closed.total.gpus) == (2, 0, 0)
    assert choose(need_of(_app(2)), [none, two]).host == "two"
    choice = choose(need_of(_app(3)), [none, two])
    assert choice.host is None
    assert choice.misses == {"none": ("misses 3 of 3 GPUs",), "two": ("misses 1 of 3 GPUs",)}
    assert agent_wire.offer_of(agent_wire.plain(two)) == two


@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
def test_a_host_gives_a_replica_its_gpus_until_it_is_cleared(
    nodes: Path, sandbox_directory: Path, tmp_path: Path
) -> None:
    here = Gpus(dev=nodes, claims=tmp_path, read=lambda: (A, B))
    place = sandbox_directory / f"host-{next(_numbers)}"
    host = LocalHost(
        "here", place, lambda directory: {BubblewrapRuntime(directory, gpus=here): Isolation.PROCESS},
        {"bubblewrap": Isolation.PROCESS}, network_id="n", gpus=here,
    )  # fmt: skip

    def order(name: str, count: int) -> Order:
        return Order(replica_id=name, app_id="a", organisation_id="o", revision=1, specification=_app(count))

    names = [f"rep-{os.getpid()}-{next(_numbers)}" for _ in range(2)]
    try:
        host.start(order(names[0], 2))
        assert host.exec(names[0], ["printenv", "CUDA_VISIBLE_DEVICES"], timeout_s=30).stdout == b"GPU-aaaa,GPU-bbbb\n"
        with pytest.raises(SandboxFailed, match=f"given to {names[0]}"):
            host.start(order(names[1], 1))
        host.end(names[0], grace_s=0.1)
        host.clear(names[0])
        assert host.start(order(names[1], 1)).state == "running"
    finally:
        for name in names:
            host.clear(name)
        host.close()


def test_a_runtime_that_passes_none_on_says_so(tmp_path: Path) -> None:
    """Before anything is fetched for it, with what each lacks."""

    class Bare:
        name = "bubblewrap"

        def capabilities(self) -> Capabilities:
            return Capabilities(name="bubblewrap", isolation=Isolation.PROCESS, host_base=True, port=True)

        def no_gpus(self) -> str:
            return "passes no GPU on"

    host = LocalHost("h", tmp_path, lambda _: {Bare(): Isolation.PROCESS}, {}, network_id="n")  # type: ignore[dict-item]
    with pytest.raises(InvalidRequest, match="bubblewrap passes no GPU on"):
        host.runtime_for(App.model_validate(_app(1)))
    assert host.runtime_for(App.model_validate(_app(0))).name == "bubblewrap"
