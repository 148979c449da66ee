"""GPUs in containers: what an engine, gVisor or a cluster is asked for, and what it says where it has none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes import gvisor
from rios.deploy.runtimes import kubernetes_objects as objects
from rios.deploy.runtimes.containers import container_request
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_gpus import Engine, cdi_names, device_requests
from rios.deploy.runtimes.engine_service import GVISOR, KATA, RUNC, EngineService
from rios.deploy.runtimes.kubernetes_objects import Cluster
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import ImageBase, Launch
from rios.words.errors import UnsupportedRuntime
from tests.deploy.gpu_machines import A, B, C, machine, record

PODMAN_OLD, PODMAN = Engine("podman", "4.9.3"), Engine("podman", "5.4.0")
DOCKER, DOCKER_CDI = Engine("docker", "24.0.7", ("runc", "nvidia"), cdi=False), Engine("docker", "28.2.1", ("runc",))


@pytest.fixture
def cdi(tmp_path: Path) -> Path:
    """As `nvidia-ctk cdi generate` writes it: names are indices, and one is all of them."""
    place = tmp_path / "cdi"
    place.mkdir()

    def device(name: str, *minors: int) -> dict[str, Any]:
        return {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{minor}"} for minor in minors]}}

    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [device("0", 0), device("all", 0, 1, 2)]}
    (place / "nvidia.json").write_text(json.dumps(spec))
    (place / "more.yaml").write_text(
        "kind: nvidia.com/gpu\ndevices:\n- name: GPU-bbbb\n  containerEdits:\n    deviceNodes:\n"
        "    - {path: /dev/dri/card1}\n    - {path: /dev/nvidia7, hostPath: /dev/nvidia1}\n"
    )
    (place / "other.yaml").write_text("kind: example.org/chip\ndevices:\n- name: GPU-cccc\n")
    (place / "broken.yaml").write_text("kind: [")
    (place / "empty.json").write_text("")
    return place


def test_names_of_devices_are_read_from_cdi(cdi: Path) -> None:
    assert cdi_names([A, B, C], [cdi]) == {A.uuid: "0", B.uuid: "GPU-bbbb"}
    assert cdi_names([A], [cdi / "nowhere"]) == {}


def test_what_an_engine_is_asked_for(cdi: Path, tmp_path: Path) -> None:
    by_cdi = [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-bbbb"]}]
    assert device_requests([A, B], PODMAN, [cdi]) == by_cdi
    assert device_requests([A, B], DOCKER_CDI, [cdi]) == by_cdi
    assert device_requests([A, B], DOCKER, [cdi]) == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-aaaa", "GPU-bbbb"], "Capabilities": [["gpu"]]}
    ]
    for engine, given, why in (
        (PODMAN_OLD, [A], "podman 4.9.3 leaves out what its Docker API is asked for; install 5.4"),
        (PODMAN, [A, C], f"nothing in {cdi} names GPU-cccc; install NVIDIA's container toolkit, then `nvidia-ctk"),
        (DOCKER_CDI, [C], "names GPU-cccc, and the engine has no runtime nvidia"),
    ):
        with pytest.raises(UnsupportedRuntime) as refused:
            device_requests(given, engine, [cdi])
        assert why in str(refused.value)


def test_an_engine_says_who_it_is() -> None:
    components = [{"Name": "Podman Engine", "Version": "5.10.1"}, {"Name": "Conmon", "Version": "2"}]
    podman = Engine.of({"Version": "5.10.1", "Components": components}, {"Runtimes": {"nvidia": {}}})
    assert (podman, podman.is_silent) == (Engine("podman", "5.10.1"), False)
    docker = Engine.of(
        {"Version": "27.1", "Components": [{"Name": "Engine", "Version": "27.1"}]},
        {"Runtimes": {"nvidia": {}, "runc": {}}},
    )
    assert docker == Engine("docker", "27.1", ("nvidia", "runc"), cdi=False)
    assert not docker.is_silent


def _request(launch: Launch, **more: Any) -> dict[str, Any]:
    return container_request(
        launch, image="sha256:0", runtime="runc", network="none", parent="/rios/x", pids=100, memory_bytes=1 << 28,
        etc=Path("/e"), memory=MemoryFiles("x"), profile=None, nproc=1000, **more,
    )  # fmt: skip


def test_a_container_is_told_what_it_got_and_else_that_it_got_none() -> None:
    """Images of CUDA say "all", and hooks on some machines believe them."""
    launch = Launch(instance="x", base=ImageBase("sha256:0"), env={"NVIDIA_VISIBLE_DEVICES": "all"})
    none = _request(launch)
    assert "NVIDIA_VISIBLE_DEVICES=void" in none["Env"]
    assert "DeviceRequests" not in none["HostConfig"]
    devices = device_requests([B], DOCKER)
    given = _request(launch, given=[B], devices=devices)
    assert {"NVIDIA_VISIBLE_DEVICES=GPU-bbbb", "CUDA_VISIBLE_DEVICES=GPU-bbbb"} <= set(given["Env"])
    assert "NVIDIA_VISIBLE_DEVICES=all" not in given["Env"]
    assert given["HostConfig"]["DeviceRequests"] == devices
    assert given["HostConfig"]["CapDrop"] == ["ALL"]
    assert "Devices" not in given["HostConfig"]


def _runsc(directory: Path, *flags: str) -> Path:
    program = directory / "runsc"
    lines = "\\n".join(f"  -{flag}\\n\\tsomething" for flag in flags)
    program.write_text(f"#!/bin/sh\nif [ $1 = flags ]; then printf -- '{lines}'; else echo runsc version 7; fi\n")
    program.chmod(0o755)
    return program


def test_gvisor_is_asked_whether_it_can_and_only_then_told_to(tmp_path: Path) -> None:
    old, new = (record(tmp_path, name) for name in ("old", "new"))
    assert "runsc version 7 knows no --nvproxy; install a newer release" in gvisor.why_no_gpu(str(_runsc(old, "debug")))
    assert gvisor.why_no_gpu(str(_runsc(new, "nvproxy-docker"))) != ""
    assert gvisor.why_no_gpu(str(_runsc(new, "debug", "nvproxy"))) == ""
    usual, for_gpus = EngineService(GVISOR, tmp_path), EngineService(GVISOR, tmp_path, for_gpus=True)
    words = for_gpus._kind.command("/usr/bin/runsc", tmp_path, "unix:///x.sock")
    flags = [words[index + 1] for index, word in enumerate(words) if word == "--runtime-flag"]
    assert flags == ["network=host", "nvproxy=true"]
    assert usual._kind is GVISOR, "what has no GPU is started as before"
    assert (usual._socket.name, for_gpus._socket.name) == ("gvisor.sock", "gvisor-gpu.sock")


_ASKED = r"podman \S+ leaves out what its Docker API is asked for|nothing in \S+ names GPU-aaaa"


@pytest.mark.needs("root")
@pytest.mark.needs("podman")
@pytest.mark.needs("runsc")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (RUNC, _ASKED),
        (GVISOR, rf"runsc version \S+ knows no --nvproxy|{_ASKED}"),
        (KATA, "kata-runtime would have to own it whole"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_an_engine_of_this_machine_that_cannot_says_so(
    sandbox_directory: Path, tmp_path: Path, kind: Any, why: str
) -> None:
    runtime = EngineRuntime(kind, sandbox_directory, gpus=machine(tmp_path, A), cdi=[tmp_path])
    assert re.search(why, runtime._gpu_way.why_not())
    assert runtime.no_gpus()
    runtime.close()


def test_a_pod_asks_for_whole_devices() -> None:
    env = {"NVIDIA_VISIBLE_DEVICES": "all", "A": "b"}
    cluster = Cluster(kubeconfig="x", namespace="n")

    def container(count: int) -> dict[str, Any]:
        launch = Launch(instance="x", base=ImageBase("i"), env=env, gpus=count)
        found: dict[str, Any] = objects.pod(launch, cluster, "net")["spec"]["containers"][0]
        return found

    two, none = container(2), container(0)
    assert two["resources"]["limits"]["nvidia.com/gpu"] == "2"
    names = {one["name"] for one in two["env"]}
    assert "A" in names
    assert "NVIDIA_VISIBLE_DEVICES" not in names, "the node says it"
    assert not any("nvidia" in name for name in none["resources"]["limits"])
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in none["env"]
