"""GPUs as container engines are asked for them: by the Container Device Interface (CDI), or by Docker's nvidia runtime.

CDI: files of the machine say what a container needs for a device (cncf-tags/container-device-interface, SPEC.md);
`nvidia-ctk cdi generate` writes them. Podman's Docker API takes such names from version 5.4 on; before, it makes the
container without the device and says nothing.
"""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

from rios.deploy.runtimes import gvisor
from rios.deploy.runtimes.engine_service import Kind, translated
from rios.deploy.runtimes.gpus import Gpu, Gpus
from rios.words.errors import SandboxFailed, UnsupportedRuntime

log = logging.getLogger(__name__)

KIND = "nvidia.com/gpu"
CDI = (Path("/etc/cdi"), Path("/var/run/cdi"))
_PODMAN_LEAST = (5, 4)
_SUFFIXES = (".json", ".yaml", ".yml")
_NODE = re.compile(r"/dev/nvidia(\d+)")


@dataclass(frozen=True, slots=True)
class Engine:
    """Who serves Docker's API, by its own words."""

    name: str
    version: str
    runtimes: tuple[str, ...] = ()
    cdi: bool = True
    """Whether it reads CDI's files at all."""

    @classmethod
    def of(cls, version: Mapping[str, Any], info: Mapping[str, Any]) -> Engine:
        """What GET /version and GET /info answered."""
        parts = {str(one["Name"]): str(one["Version"]) for one in version.get("Components") or ()}
        if "Podman Engine" in parts:
            return cls("podman", parts["Podman Engine"])
        return cls("docker", str(version["Version"]), tuple(info.get("Runtimes") or ()), bool(info.get("CDISpecDirs")))

    @property
    def is_silent(self) -> bool:
        """Whether it would leave devices out without a word."""
        numbers = tuple(int(number) for number in re.findall(r"\d+", self.version)[:2])
        return self.name == "podman" and numbers < _PODMAN_LEAST


class GpuWay:
    """How the containers of one kind get GPUs of this machine."""

    def __init__(
        self, kind: Kind, gpus: Gpus, client: Callable[[], docker.APIClient], directories: Sequence[Path] = CDI
    ) -> None:
        """client: of the engine. directories: where CDI's files are."""
        self._kind, self._gpus, self._client, self._directories = kind, gpus, client, directories

    def why_not(self) -> str:
        """Why no container gets one, and what to do; empty where it does."""
        if self._kind.gpu_flags is None:
            return f"passes no GPU on: {self._kind.program} would have to own it whole; ask for another runtime"
        if why := self._gpus.why_not():
            return why
        try:
            if self._kind.gpu_flags and (why := gvisor.why_no_gpu(self._kind.found() or self._kind.program)):
                return why
            self.requests(self._gpus.found())
        except UnsupportedRuntime as error:
            return str(error)
        except (SandboxFailed, OSError, subprocess.SubprocessError) as error:
            return f"passes no GPU on: {self._kind.program} does not say what it can: {error}"
        return ""

    def requests(self, given: Sequence[Gpu]) -> list[dict[str, Any]]:
        """What the engine is asked for. Raises UnsupportedRuntime where it cannot be."""
        if not given:
            return []
        client = self._client()
        with translated("the engine does not say what it is"):
            engine = Engine.of(client.version(), client.info())
        return device_requests(given, engine, self._directories)


def device_requests(given: Sequence[Gpu], engine: Engine, directories: Sequence[Path] = CDI) -> list[dict[str, Any]]:
    """`HostConfig.DeviceRequests` for these GPUs. Raises UnsupportedRuntime, which says what to do."""
    if engine.is_silent:
        least = ".".join(map(str, _PODMAN_LEAST))
        raise UnsupportedRuntime(
            f"passes no GPU on: podman {engine.version} leaves out what its Docker API is asked for; install {least} "
            "or later, or ask for bubblewrap"
        )
    known = cdi_names(given, directories) if engine.cdi else {}
    if len(known) == len(given):
        return [{"Driver": "cdi", "DeviceIDs": [f"{KIND}={known[gpu.uuid]}" for gpu in given]}]
    if "nvidia" in engine.runtimes:
        return [{"Driver": "nvidia", "DeviceIDs": [gpu.uuid for gpu in given], "Capabilities": [["gpu"]]}]
    unknown = next(gpu.uuid for gpu in given if gpu.uuid not in known)
    places = " or ".join(map(str, directories))
    raise UnsupportedRuntime(
        f"passes no GPU on: nothing in {places} names {unknown}"
        + ("" if engine.name == "podman" else ", and the engine has no runtime nvidia")
        + "; install NVIDIA's container toolkit, then `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"
    )


def cdi_names(gpus: Sequence[Gpu], directories: Sequence[Path]) -> dict[str, str]:
    """What CDI's files call GPUs, by their UUIDs: by that, or by an index, whose device node says which it is."""
    found: dict[str, str] = {}
    for name, minors in _devices(directories):
        for gpu in gpus:
            if name == gpu.uuid or minors == {gpu.minor}:
                found.setdefault(gpu.uuid, name)
    return found


def _devices(directories: Sequence[Path]) -> Iterator[tuple[str, set[int]]]:
    """Names of devices, and the numbers of the GPUs whose nodes they bring."""
    for path in sorted(path for place in directories for path in place.glob("*") if path.suffix in _SUFFIXES):
        try:
            said = yaml.safe_load(path.read_text())  # JSON is YAML too
            for device in said["devices"] if said["kind"] == KIND else ():
                nodes = (device.get("containerEdits") or {}).get("deviceNodes") or ()
                matches = [_NODE.fullmatch(str(node.get("hostPath") or node["path"])) for node in nodes]
                yield str(device["name"]), {int(match[1]) for match in matches if match is not None}
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            log.warning("a CDI file cannot be read", extra={"path": str(path), "reason": repr(error)})
