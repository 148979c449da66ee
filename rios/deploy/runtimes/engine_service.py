"""Container engines on this host: which programs they start containers with, and the service that is asked.

Podman has no daemon: its service is started when it is needed, one for each kind of runtime, and ends when nobody has
asked for some minutes. Images and containers lie in storage of rios' own, apart from the host's other containers; so do
what podman knows of running ones and its locks, which it otherwise shares with every other podman of the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import requests.exceptions
from docker.errors import APIError, DockerException
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

from rios.deploy.runtimes.gvisor import GPU_FLAG
from rios.deploy.runtimes.protocol import Isolation
from rios.deploy.spec import RuntimeName
from rios.words.errors import SandboxFailed
from rios.words.foreign import remove_tree

_UP_WITHIN_S = 30.0
_ENDS_S = 10.0
_IDLE_S = 300
_CALL_TIMEOUT_S = 60.0
_SURE_S = 1.0
"""A service of this process that answered so recently, and that lives, is not asked whether it answers."""
_VOLATILE = Path("/run/rios")
_SETTINGS = """# The engine's settings, whatever the host's are.
[engine]
# Seconds that the monitor of a command run inside stays, so that its exit code can be asked for; 300 would be many.
exit_command_delay = 10
# Locks are files beside what runs, and not in one shared memory for all storages of the machine.
lock_type = "file"
"""
API_VERSION = "1.41"
SEARCHED = os.pathsep.join(
    (os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/bin", "/opt/kata/bin")
)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """The engine's errors as rios' own. what: was asked for."""
    try:
        yield
    except APIError as error:
        raise SandboxFailed(f"{what}: {error.explanation or error}") from error
    except (DockerException, requests.exceptions.RequestException, HTTPError) as error:  # the last: as it is answered
        raise SandboxFailed(f"{what}: the engine does not answer: {error}") from error


def volatile(storage: Path) -> Path:
    """Where podman keeps what ends with the machine: it takes an empty one for a start of the machine."""
    return _VOLATILE / hashlib.sha256(str(storage).encode()).hexdigest()[:16]


def take_storage_away(storage: Path) -> None:
    """Remove an engine's storage whose containers were removed. What podman left mounted is let go of first.

    `podman system reset` is not for this: it takes away what every podman of the machine knows of running containers.
    """
    for place in (storage, volatile(storage)):
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((path for path in mounts if path.startswith(f"{place}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=_UP_WITHIN_S, check=False)
        remove_tree(place)


@dataclass(frozen=True, slots=True)
class Kind:
    """A program that starts containers, and what it needs for itself beside what an application gets."""

    name: RuntimeName
    isolation: Isolation
    program: str
    package: str
    flags: tuple[str, ...] = ()
    own_pids: int = 8
    own_bytes: int = 0
    needs_kvm: bool = False
    gpu_flags: tuple[str, ...] | None = ()
    """Those with which it starts what has a GPU; None where it can start no such thing."""

    def found(self) -> str | None:
        """Where its program is; None where it is not installed."""
        return shutil.which(self.program, path=SEARCHED)

    def why_not(self) -> str:
        """What is missing for it on this host; empty where nothing is."""
        if shutil.which("podman", path=SEARCHED) is None:
            return "podman is not installed: install the package podman"
        if os.getuid() != 0:
            return "containers are started as root here, and this process is not: run the host agent as root"
        if self.found() is None:
            return f"{self.program} is not installed: install {self.package}"
        if self.needs_kvm and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return f"{self.program} needs virtual machines, and /dev/kvm cannot be opened: run on a host that has KVM"
        return ""

    def command(self, program: str, storage: Path, address: str) -> list[str]:
        """How podman's service is started for it."""
        flags = [word for flag in self.flags for word in ("--runtime-flag", flag)]
        run = volatile(storage)
        return [
            "podman",
            *("--root", str(storage / "root"), "--runroot", str(run / "storage"), "--tmpdir", str(run / "libpod")),
            *("--cgroup-manager", "cgroupfs"),
            *("--runtime", program, *flags),
            *("system", "service", "--time", str(_IDLE_S), address),
        ]


RUNC = Kind("runc", Isolation.CONTAINER, "runc", "the package runc")
# The sentry's sockets are those of the container's network namespace (network=host), which holds a loopback device and
# nothing else: its own network stack would leave the relay outside. Its threads and its memory are counted with the
# application's: 200 threads were too few (runsc 20221219).
GVISOR = Kind(
    "gvisor", Isolation.KERNEL, "runsc", "the package runsc", ("network=host",), 320, 64 << 20,
    gpu_flags=(f"{GPU_FLAG}=true",),
)  # fmt: skip
KATA = Kind(
    "kata", Isolation.MACHINE, "kata-runtime", "Kata Containers", own_pids=256, own_bytes=256 << 20, needs_kvm=True,
    gpu_flags=None,
)  # fmt: skip
KINDS = {kind.name: kind for kind in (RUNC, GVISOR, KATA)}


class _Client(docker.APIClient):  # type: ignore[misc]  # the library has no types
    """One whose calls all end: the library has some wait without an end, such as for a registry that says nothing."""

    _answering: Any = None

    def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["timeout"] = kwargs.get("timeout") or self.timeout
        return kwargs

    def _stream_helper(self, response: Any, decode: bool = False) -> Any:
        self._answering = response
        return super()._stream_helper(response, decode)

    def break_off(self) -> None:
        """End the answer that is just coming in parts: the engine stops what it does for it, and who reads it fails."""
        if self._answering is not None:
            with contextlib.suppress(AttributeError, OSError):  # it has just ended
                CancellableStream(iter(()), self._answering).close()


class EngineService:
    """The engine's service of one kind, started when it does not answer, until this is closed."""

    def __init__(self, kind: Kind, directory: Path, *, for_gpus: bool = False) -> None:
        """for_gpus: starts only what has a GPU: no other sandbox of the kind gets the flags that this takes."""
        if for_gpus:
            kind = replace(kind, flags=(*kind.flags, *(kind.gpu_flags or ())))
        self._kind, self._directory = kind, directory
        self._name = f"{kind.name}-gpu" if for_gpus else kind.name
        self._socket = directory / f"{self._name}.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: docker.APIClient | None = None
        self._answered_at = 0.0
        self._lock, self._closed = threading.Lock(), False

    def client(self) -> docker.APIClient:
        """A client of the running service. SandboxFailed where it cannot be started, or this is closed."""
        with self._lock:
            if self._closed:  # a service that is started now would be nobody's
                raise SandboxFailed(f"the engine of {self._directory} is not asked any more: it was closed")
            if self._client is None:
                self._client = self._made(_CALL_TIMEOUT_S)
            if not self._answers():
                self._start()
            return self._client

    @contextlib.contextmanager
    def patient(self, timeout_s: float) -> Iterator[docker.APIClient]:
        """A client whose calls may take longer."""
        self.client()
        with contextlib.closing(self._made(timeout_s)) as client:
            yield client

    @property
    def storage(self) -> Path:
        """Where images and containers lie."""
        return self._directory

    @property
    def process_id(self) -> int | None:
        """Of the service, where this object started it."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def _made(self, timeout_s: float) -> docker.APIClient:
        return _Client(base_url=f"unix://{self._socket}", version=API_VERSION, timeout=max(1, int(timeout_s)))

    def _answers(self) -> bool:
        assert self._client is not None
        now = time.monotonic()
        if self._process is not None and self._process.poll() is None and now - self._answered_at < _SURE_S:
            return True
        try:
            answers = self._listens() and bool(self._client.ping())
        except (DockerException, requests.exceptions.RequestException):
            return False
        if answers:
            self._answered_at = now
        return answers

    def _listens(self) -> bool:
        """Whether connections are taken. Where they are refused, as while it starts, the library leaves one open."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
            tried.settimeout(_CALL_TIMEOUT_S)
            try:
                tried.connect(str(self._socket))
            except OSError:
                return False
            return True

    def _start(self) -> None:
        program = self._kind.found()
        if program is None:
            raise SandboxFailed(self._kind.why_not())
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        volatile(self._directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        self._reap()
        self._answered_at = 0.0  # that was the one before
        self.heal()
        settings = self._directory / "containers.conf"
        settings.write_text(_SETTINGS)
        address = f"unix://{self._socket}"
        with (self._directory / f"{self._name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._kind.command(program, self._directory, address),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._directory,  # its monitors leave a file where they are when memory ran out
                env={
                    "PATH": SEARCHED,
                    "HOME": "/root",
                    "LANG": "C.UTF-8",
                    "TMPDIR": str(self._directory),
                    "CONTAINERS_CONF": str(settings),
                },
            )
        deadline = time.monotonic() + _UP_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SandboxFailed(f"podman's service does not answer: {self._last_words()}")
            time.sleep(0.02)

    def heal(self) -> None:
        """Unmount layers that a killed engine left half-made: it cannot remove them while they are mounted."""
        known = self._directory / "root" / "overlay-layers" / "layers.json"
        layers = json.loads(known.read_text()) if known.exists() else []
        for layer in layers:
            if (layer.get("flags") or {}).get("incomplete"):
                merged = self._directory / "root" / "overlay" / str(layer["id"]) / "merged"
                subprocess.run(["umount", "--lazy", merged], capture_output=True, timeout=_UP_WITHIN_S, check=False)

    def unmount(self, place: Path) -> None:
        """Let go of a mount in this storage; of none outside."""
        if place.is_relative_to(self._directory):
            subprocess.run(["umount", "--lazy", place], capture_output=True, timeout=_UP_WITHIN_S, check=False)

    def _last_words(self) -> str:
        lines = (self._directory / f"{self._name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _reap(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_ENDS_S)
            except subprocess.TimeoutExpired:  # containers have monitors of their own, and go on
                self._process.kill()
                self._process.wait(_ENDS_S)
            self._process = None

    def close(self) -> None:
        """End the service where this object started it; containers go on."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()
                self._client = None
            self._reap()
