"""GPUs of this machine: which there are, who has which, and what a sandbox needs to use its own.

A GPU is one instance's at a time, whichever runtime, network or process of the machine started that. Claims lie in one
place for all of them; each holds as long as the directory of its instance is there, which is removed last of all. So
whoever is killed half-way loses no GPU and gives none twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios.deploy.runtimes.durable import read_json, write_json
from rios.deploy.runtimes.watching import begun
from rios.words.errors import DeadlineExceeded, SandboxFailed

log = logging.getLogger(__name__)

DEV, CLAIMS = Path("/dev"), Path("/run/rios/gpus")
SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
"""Nodes of the driver that every GPU is used through; tools alone need the last, which may be missing."""
_ASKED_BY = "NVIDIA_VISIBLE_DEVICES"
NO_GPU = {_ASKED_BY: "void"}
"""Said to every container without a GPU: images made for CUDA say "all", by which the hooks of NVIDIA's container
toolkit, and nodes of a cluster, give all GPUs of a machine to whoever says so."""
_NEEDED = SHARED[:2]
_TURN_S = 15.0
_READ_S = 10.0
"""A driver that nobody has used for a while takes seconds; one that hangs never answers."""
_KEPT = "gpus.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device, as NVML shows it."""

    uuid: str
    """As NVML and CUDA name it: "GPU-8932f937-..."."""
    minor: int
    """Its node is /dev/nvidia<minor>."""
    percent: int = 0
    """Of the last moments, those in which it computed."""
    used_bytes: int = 0


def read_gpus() -> tuple[Gpu, ...]:
    """Those that NVML shows; none where there is no driver. One that is split (MIG) is no whole device, so left out."""
    import pynvml  # few machines have a GPU

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("NVML shows no GPU", extra={"reason": str(error)})
        return ()
    try:
        found = [_read(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        log.warning("NVML does not say what GPUs there are", extra={"reason": str(error)})
        return ()
    finally:
        pynvml.nvmlShutdown()
    return tuple(gpu for gpu in found if gpu is not None)


def _read(number: int) -> Gpu | None:
    import pynvml

    def known(ask: Callable[[Any], Any], otherwise: Any) -> Any:
        """What not every model says."""
        try:
            return ask(handle)
        except pynvml.NVMLError_NotSupported:
            return otherwise

    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        if known(pynvml.nvmlDeviceGetMigMode, (0, 0))[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            return None
        rates = known(pynvml.nvmlDeviceGetUtilizationRates, None)
        return Gpu(
            uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
            minor=int(pynvml.nvmlDeviceGetMinorNumber(handle)),
            percent=0 if rates is None else int(rates.gpu),
            used_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        )
    except pynvml.NVMLError as error:  # such as one that has fallen off its bus
        log.warning("a GPU does not answer", extra={"gpu": number, "reason": str(error)})
        return None


class Gpus:
    """Those of one machine."""

    def __init__(
        self, *, dev: Path = DEV, claims: Path = CLAIMS, read: Callable[[], Sequence[Gpu]] = read_gpus
    ) -> None:
        """dev: where device nodes are. claims: where it is kept who has which, for all processes. read: asks NVML."""
        self._dev, self._claims, self._read = dev, claims, read
        self._lock = threading.Lock()
        self._reading: Future[Sequence[Gpu]] | None = None

    def __repr__(self) -> str:
        return f"<Gpus of {self._dev}>"

    def found(self) -> tuple[Gpu, ...]:
        """All that have a device node here."""
        if not any(self._dev.glob("nvidia[0-9]*")):
            return ()  # most machines: NVML is not looked for
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = begun(self._read, "rios-gpus")
            reading = self._reading
        try:
            return tuple(gpu for gpu in reading.result(_READ_S) if self._node(gpu).exists())
        except TimeoutError:  # it is asked again once it has answered
            log.warning("no GPU is seen: NVML does not answer", extra={"after_s": _READ_S})
            return ()

    def why_not(self) -> str:
        """Why no sandbox can use one; empty where it can."""
        found = self.found()
        if not found:
            return "gets no GPU: this machine has none"
        for name in _NEEDED:
            if not (self._dev / name).exists():
                return f"gets no GPU: {self._dev / name} is not there; `nvidia-modprobe -u -c 0` makes it"
        for place in (*(self._dev / name for name in _NEEDED), *map(self._node, found)):
            if place.stat().st_mode & 0o006 != 0o006:
                return (
                    f"gets no GPU: {place} is closed to the users of sandboxes, who are never root; "
                    "`chmod a+rw` opens it, and the driver's option NVreg_DeviceFileMode=0666 for good"
                )
        return ""

    def nodes(self, given: Sequence[Gpu]) -> dict[str, Path]:
        """The device nodes that a sandbox with these has: path inside -> node. None at all without any."""
        if not given:
            return {}
        places = [*(self._dev / name for name in SHARED), *map(self._node, given)]
        return {f"/dev/{place.name}": place for place in places if place.exists()}

    def _node(self, gpu: Gpu) -> Path:
        return self._dev / f"nvidia{gpu.minor}"

    # --- whose they are --------------------------------------------------------------------------------------

    def take(self, record: Path, count: int) -> tuple[Gpu, ...]:
        """So many for the instance whose directory is `record`: those that it has, then the least used ones.

        They are its own until that directory is gone. Raises SandboxFailed where too few are free.
        """
        if not count:
            return ()
        with self._turn():
            found = {gpu.uuid: gpu for gpu in self.found()}
            kept = read_json(self._claims / "claims.json") or {}
            held = {uuid: str(place) for uuid, place in kept.items() if Path(place).is_dir()}
            own = [gpu for gpu in found.values() if held.get(gpu.uuid) == str(record)]
            free = [gpu for gpu in found.values() if gpu.uuid not in held]
            free.sort(key=lambda gpu: (gpu.used_bytes, gpu.percent, gpu.minor))
            given = sorted([*own, *free][:count], key=lambda gpu: gpu.minor)
            if len(given) < count:
                others = sorted({Path(place).name for place in held.values()} - {record.name})
                raise SandboxFailed(
                    f"{count} GPUs are asked for, and {len(own) + len(free)} of the {len(found)} of this machine are "
                    f"free; the others are given to {', '.join(others) or 'nobody, and do not answer'}"
                )
            write_json(self._claims / "claims.json", held | {gpu.uuid: str(record) for gpu in given})
        write_json(record / _KEPT, {"gpus": [{"uuid": gpu.uuid, "minor": gpu.minor} for gpu in given]})
        return tuple(given)

    def of(self, record: Path) -> tuple[Gpu, ...]:
        """Those that an instance was given, as its directory says."""
        kept = read_json(record / _KEPT) or {"gpus": []}
        return tuple(Gpu(uuid=one["uuid"], minor=one["minor"]) for one in kept["gpus"])

    def used(self, record: Path) -> tuple[float, int]:
        """Of those that an instance was given: how busy they are on average, in percent, and the bytes in use."""
        own = {gpu.uuid for gpu in self.of(record)}
        now = [gpu for gpu in self.found() if gpu.uuid in own] if own else []
        return sum(gpu.percent for gpu in now) / max(len(now), 1), sum(gpu.used_bytes for gpu in now)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time gives GPUs away."""
        self._claims.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + _TURN_S
        fd = os.open(self._claims / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded(f"another process gives GPUs away for {_TURN_S:g} s") from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(fd)


def told_of(given: Sequence[Gpu]) -> Mapping[str, str]:
    """What the environment of a sandbox says of its GPUs, over all else that is said there; nothing without any."""
    names = ",".join(gpu.uuid for gpu in given)
    return {"CUDA_VISIBLE_DEVICES": names, _ASKED_BY: names} if given else {}
