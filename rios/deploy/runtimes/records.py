"""What is known of instances, on disk: a directory each, made before anything else of an instance and removed last.

Whoever opens the same directory, now or after a crash, sees the same instances. A directory has

    record.json   what was asked for, without secrets
    turn          locked by whoever starts or removes the instance
    alive         locked by the process that watches over it (the shim, or the relay), as long as it lives
    gpus.json     which GPUs it was given
    started.json  when its process had started, and the loopback port that leads to it
    exit.json     how it ended
    bytes         what its relay counted
    log, log.1    its lines
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rios.deploy.runtimes.durable import read_json, write_json
from rios.deploy.runtimes.protocol import HostBase, ImageBase, Launch, Status
from rios.words.canonical import digest
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound

_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TURN_TIMEOUT_S = 120.0
_GONE = ".gone-"


def described(launch: Launch) -> dict[str, Any]:
    """A launch as JSON values: of secrets and files, the names alone."""
    base = launch.base
    kind = "host" if isinstance(base, HostBase) else "image" if isinstance(base, ImageBase) else "rootfs"
    return {
        "instance": launch.instance,
        "base": {"kind": kind, "of": dict(base.also) if isinstance(base, HostBase) else base.digest},
        "command": list(launch.command),
        "env": dict(launch.env),
        "workdir": launch.workdir,
        "user": launch.user,
        "scratch": list(launch.scratch),
        "limits": {key: str(value) for key, value in dataclasses.asdict(launch.limits).items()},
        "port": launch.port,
        "egress": [[allowed.host, allowed.port] for allowed in launch.egress],
        "secrets": sorted(launch.secrets),
        "files": sorted(launch.files),
        "mounts": [[str(mount.source), mount.path, mount.read_only] for mount in launch.mounts],
        "labels": dict(launch.labels),
        # Only where there are any: what was started before there were GPUs is described as it was then.
        **({"gpus": launch.gpus} if launch.gpus else {}),
    }


def check_id(instance: str) -> str:
    """Raises InvalidRequest where it can be no instance's name."""
    if not _ID.fullmatch(instance):
        raise InvalidRequest(f"{instance!r} is no id of an instance: 1 to 63 of a-z, 0-9 and hyphens, none at its ends")
    return instance


class Record:
    """The directory of one instance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instance = directory.name

    @property
    def exists(self) -> bool:
        """Whether it is written down what was asked for."""
        return (self.directory / "record.json").exists()

    def make(self, launch: Launch) -> bool:
        """Write down what was asked for. False where it is written already; InvalidRequest where that was another."""
        asked = described(launch)
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        known = self.read()
        if known is None:
            write_json(self.directory / "record.json", {"asked": asked, "made_at": time.time()})
            return True
        if digest(known["asked"]) != digest(asked):
            raise InvalidRequest(f"the instance {self.instance} was started with another launch; take a new id")
        return False

    def read(self) -> dict[str, Any] | None:
        return read_json(self.directory / "record.json")

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for. NotFound where there is no such instance (any more)."""
        known = self.read()
        if known is None:
            raise NotFound(f"there is no instance {self.instance} on this host")
        asked: dict[str, Any] = known["asked"]
        return asked

    def labelled(self, labels: Mapping[str, str] | None) -> bool:
        """Whether it was started with all of these labels."""
        known = self.read()
        own = known["asked"]["labels"] if known else {}
        return all(own.get(key) == value for key, value in (labels or {}).items())

    @contextlib.contextmanager
    def turn(self, timeout_s: float = _TURN_TIMEOUT_S, *, make: bool = False) -> Iterator[None]:
        """One at a time, across processes: to start and to remove. DeadlineExceeded where another does not end.

        make: the directory where there is none; else NotFound, also where it goes while this waits.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if make:
                self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            if (fd := self._opened()) is not None:
                try:
                    if try_lock(fd) and is_still(fd, self.directory / "turn"):
                        yield
                        return
                finally:
                    os.close(fd)
            elif not make:
                raise NotFound(f"there is no instance {self.instance} on this host")
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"the instance {self.instance} is being started or removed for {timeout_s} s")
            time.sleep(0.01)

    def _opened(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return os.open(self.directory / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return None

    def life(self) -> int:
        """A descriptor for the watching process: `alive` is true until that has ended. Raises where one lives."""
        fd = os.open(self.directory / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(100):  # whoever asks `alive` holds the lock for a moment
            if try_lock(fd):
                return fd
            time.sleep(0.01)
        os.close(fd)
        raise InvalidRequest(f"the instance {self.instance} is being watched over already")

    @property
    def alive(self) -> bool:
        """Whether the watching process lives. Its lock ends with it, while ids of processes come again."""
        try:
            fd = os.open(self.directory / "alive", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(fd)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Take the directory away: at once, so that nobody finds a part of it, whoever is killed meanwhile."""
        gone = self.directory.with_name(f"{_GONE}{self.instance}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            self.directory.rename(gone)
        while gone.exists():
            with contextlib.suppress(FileNotFoundError):  # who lists instances may be taking it away as well
                shutil.rmtree(gone)


def try_lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    """Whether an open file could be locked at once, by `flock`."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_still(fd: int, path: Path) -> bool:
    """Whether an open file is still the one of that name, which may have been removed, and made anew, meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return os.fstat(fd).st_ino == path.stat().st_ino
    return False


class Records:
    """All instances of one runtime on this host."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    def of(self, instance: str) -> Record:
        """The record of an instance, whether there is one or not. Raises InvalidRequest for what is no id."""
        return Record(self.directory / check_id(instance))

    def all(self, labels: Mapping[str, str] | None = None) -> list[Record]:
        """Also those of which there is no more than a directory, where no labels are asked for.

        What was left of removed ones, for whoever removed them was killed, goes as far as it can.
        """
        found = []
        for path in sorted(self.directory.iterdir()):
            if path.name.startswith(_GONE):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir():
                found.append(Record(path))
        return [record for record in found if record.labelled(labels)]

    def there(self, instance: str) -> Record:
        """The record of an instance of which there is something. Raises NotFound."""
        record = self.of(instance)
        if not record.directory.is_dir():
            raise NotFound(f"there is no instance {instance} on this host")
        return record

    def each(self, labels: Mapping[str, str] | None, status: Callable[[Record], Status]) -> list[Status]:
        """`status` of all with these labels."""
        found = []
        for record in self.all(labels):
            with contextlib.suppress(NotFound):  # removed meanwhile
                found.append(status(record))
        return found
