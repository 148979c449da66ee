"""What every runtime does: one protocol, one contract (`tests/deploy/test_runtimes.py`).

A runtime belongs to one host. It starts *instances* (one sandbox each) by an id that its caller chooses, so that an
attempt that was cut off can be repeated: the same id never runs twice. What a runtime knows is on disk and in the
kernel, never in its memory alone: another process that opens it with the same directory finds every instance, half-made
ones too, and `remove` takes away whatever there is of one. All calls block, end by a deadline, and may come from any
thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import SecretBytes

from rios.deploy.spec import USER, IsolationName, RuntimeName
from rios.words.display import Shown


class Isolation(enum.IntEnum):
    """How much lies between an application and the host's kernel; more is better."""

    PROCESS = 1
    """Namespaces, a system call filter and a cgroup, made by rios."""
    CONTAINER = 2
    """The same, made by a container engine."""
    KERNEL = 3
    """System calls are answered by a kernel of its own in user space (gVisor)."""
    MACHINE = 4
    """A virtual machine (Kata)."""

    @classmethod
    def named(cls, name: IsolationName) -> Isolation:
        """The level of a name, such as "container"."""
        return cls[name.upper()]


Means = Literal["cgroup", "rlimit", "none"]
"""By what a limit is held: for the whole sandbox, for each of its processes alone, not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a runtime can do on this host. `why_not` says what is missing and what to do; empty where it works."""

    name: RuntimeName
    isolation: Isolation
    why_not: str = ""
    images: bool = False
    """Images, and archives of images where it takes archives."""
    archives: bool = True
    """Archives that lie on this host: root file systems, and images."""
    host_base: bool = False
    """A sandbox without image and root file system, on a read-only view of the host's programs."""
    cpu: Means = "none"
    memory: Means = "none"
    pids: Means = "none"
    port: bool = False
    egress: bool = False
    pause: bool = False
    metered: bool = False
    """Whether CPU time and memory are measured by the kernel, for the whole sandbox, up to its last instruction."""
    volume_quota: Literal["enforced", "watched"] = "watched"
    seccomp: bool = False
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it works here."""
        return not self.why_not


@dataclass(frozen=True, slots=True)
class ImageBase:
    """An image that is on this host, by the digest of its configuration ("sha256:...").

    Of a cluster, which has many hosts: by its reference with a digest ("registry.example.org/app@sha256:...").
    """

    digest: str
    source: str = field(default="", compare=False)
    """By what reference to a digest other hosts can pull it ("host/name@sha256:..."); empty where there is none."""


@dataclass(frozen=True, slots=True)
class RootfsBase:
    """A root file system that lies unpacked on this host, or in its engine, by the digest of its archive."""

    digest: str


@dataclass(frozen=True, slots=True)
class HostBase:
    """The host's /usr, /bin, /sbin and /lib*, read-only, and those of `also`: path inside -> path on the host."""

    also: Mapping[str, str] = field(default_factory=dict)


Base = ImageBase | RootfsBase | HostBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one instance; each is held by what `Capabilities` says."""

    cpu: float = 1.0
    """Cores."""
    memory_bytes: int = 512 << 20
    pids: int = 256
    files: int = 1024
    tmp_bytes: int = 64 << 20
    """Of what it may write beside its volumes, in memory and counted as its memory; each such directory."""
    log_bytes: int = 16 << 20
    """Of logs, what is kept at least; older lines go."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A host and a TCP port that an instance may connect to."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A directory of this host (a volume) at an absolute path inside."""

    source: Path
    """Where the runtime keeps volumes itself (`KeepsVolumes`), this is a volume's name, and no directory."""
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that is needed to start one instance."""

    instance: str
    """An id of 1 to 63 characters of a-z, 0-9 and hyphens, unique on the host for ever."""
    base: Base
    command: tuple[str, ...] = ()
    """Empty: what the image says."""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: int = USER
    scratch: tuple[str, ...] = ()
    """Places in memory that may be written, beside /tmp, /home and /run. The rest of the root is read-only, always."""
    limits: Limits = Limits()
    gpus: int = 0
    """Whole devices; the runtime chooses which, and the environment inside names them."""
    port: int | None = None
    """Where the application listens inside; `Status.endpoint` is how the host reaches it."""
    egress: tuple[Allowed, ...] = ()
    secrets: Mapping[str, SecretBytes] = field(default_factory=dict, repr=False)
    """File name under /run/secrets -> content."""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """File name under /run/rios -> content, read-only; for what is no secret, such as a packed function."""
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """Whose it is: deployment, owner, revision; what `instances` can ask for. No secrets."""


State = Literal["created", "running", "paused", "exited"]
"""created: something of it is there and it has not run (yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is true of one instance at this moment."""

    instance: str
    state: State
    labels: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    """Of an exited one: its own, or 128 + the signal; None where nobody saw it end."""
    out_of_memory: bool = False
    started_at: float | None = None
    """Seconds since 1970, as the two below."""
    finished_at: float | None = None
    endpoint: tuple[str, int] | None = None
    """Host and TCP port that lead to `Launch.port`, from this machine; while it runs."""


@dataclass(frozen=True, slots=True)
class LogLine(Shown):
    """A line that an instance wrote."""

    at: float
    """Seconds since 1970."""
    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What the kernel counted for one instance; still there after it has ended, until `remove`."""

    at: float
    """Seconds since 1970."""
    cpu_seconds: float
    """Since the start, user and system, of all its processes. Never falls."""
    memory_bytes: int
    memory_peak_bytes: int
    pids: int
    egress_bytes: int
    """Sent to the hosts of `Launch.egress`. Never falls while its relay lives."""
    ingress_bytes: int
    """Received from them."""
    gpu_percent: float = 0.0
    """How busy its GPUs are, on average."""
    gpu_memory_bytes: int = 0
    """In use on its GPUs."""


@dataclass(frozen=True, slots=True)
class Executed(Shown):
    """How a command inside an instance ended; at most 1 MiB of each output."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, str]]]:
        outputs = (("stdout", self.stdout), ("stderr", self.stderr))
        return ("exit code", str(self.exit_code)), [(name, text.decode(errors="replace")) for name, text in outputs]


class Runtime(Protocol):
    """One way to run instances on this host."""

    name: RuntimeName

    def capabilities(self) -> Capabilities:
        """What works here, found out by trying. Kept: later calls are quick."""

    def no_gpus(self) -> str:
        """Why no instance gets a GPU, and what to do; empty where it does. Found out anew, for it may be mended."""

    def prepare_image(
        self,
        reference: str,
        *,
        pinned: ImageBase | None = None,
        here: bool = True,
        timeout_s: float = 600.0,
        no_room: Callable[[], str] = str,
    ) -> ImageBase:
        """The image of a reference: what its registry has, where the reference names one that answers, else the one
        that is here. What comes back pins it.

        pinned: what came back for the reference at another time or on another host: this image then, and no other,
        whatever the reference leads to by now. here: without it the registry has the last word: an image that somebody
        else had brought here is not given out for its name or id. no_room: asked before an image is pulled, and several
        times a second meanwhile; where it says why there is none for more, that is broken off. Raises NotFound where
        there is no such image, SandboxFailed for want of room, UnsupportedRuntime where the runtime takes no images.
        """

    def prepare_archive(self, archive: Path, *, timeout_s: float = 600.0) -> Base:
        """A root file system of a tar archive, or the image that `docker save` or `podman save` wrote.

        The same content is unpacked once. Raises InvalidRequest for an archive with names that lead outside, devices,
        or more than the host's bound.
        """

    def prepared_archive(self, digest: str) -> Base | None:
        """What `prepare_archive` gave for an archive whose bytes have that digest ("sha256:..."), where it is here."""

    def start(self, launch: Launch, *, timeout_s: float = 60.0) -> Status:
        """Start an instance; where one with this id runs already, that one, as it is.

        Returns when its process has started. Raises SandboxFailed where it could not be started; nothing is left then.
        An instance that has exited is not started again: take a new id.
        """

    def adopt(self) -> list[Status]:
        """After a restart of the caller: mend what running instances need and lost (their relays), and list all."""

    def instances(self, labels: Mapping[str, str] | None = None) -> list[Status]:
        """All instances with these labels: running, ended and half-made ones."""

    def status(self, instance: str) -> Status:
        """Raises NotFound where there is nothing of that id."""

    def wait(self, instance: str, *, timeout_s: float) -> Status:
        """Until it has exited; DeadlineExceeded by then."""

    def stop(self, instance: str, *, grace_s: float = 10.0) -> Status:
        """SIGTERM, and SIGKILL to all of it after the grace. Ending an ended or paused one is fine."""

    def kill(self, instance: str) -> Status:
        """SIGKILL to all of it, at once."""

    def remove(self, instance: str) -> None:
        """Kill it and take away all there is of it, but not its volumes. Removing what is not there is fine."""

    def pause(self, instance: str) -> Status:
        """Freeze all its processes; it uses no CPU time and keeps its memory."""

    def resume(self, instance: str) -> Status:
        """Let a frozen one go on."""

    def logs(self, instance: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        """Its lines with `at` > since; with follow also those to come, until it ends or the iterator is closed."""

    def exec(
        self, instance: str, command: tuple[str, ...], *, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> Executed:
        """Run a command inside, with the same user and restrictions. DeadlineExceeded ends the command too."""

    def metrics(self, instance: str) -> Metrics:
        """Raises NotFound where there is nothing of that id, or nothing has counted what it used."""

    def put_secrets(self, instance: str, secrets: Mapping[str, SecretBytes]) -> None:
        """Replace the secrets of an instance while it runs. Each file changes at once, never half."""

    def close(self) -> None:
        """Let go of connections; instances go on."""


@runtime_checkable
class KeepsVolumes(Protocol):
    """A runtime whose instances are on other machines, and their volumes too."""

    def ensure_volume(self, source: Path, size_bytes: int) -> None:
        """The volume `source`, made where it is not there, grown to a larger size. Raises SandboxFailed."""

    def remove_volume(self, source: Path) -> None:
        """Take it away with all its data. What is not there is removed already."""
