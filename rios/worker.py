"""The Dask preload of a rios host: `dask worker tcp://head:8786 --preload rios.worker`.

It starts the process that serves shards, announces it (name, address, key, owner) with the worker's heartbeats, starts
it again when it ends, and shows its figures on the worker's `/metrics`. The serving process outlives the Dask worker
for as long as clients use it, so a lost scheduler does not end a running generation.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric

from rios.dmoe import comms, ram
from rios.dmoe.greeting import connect
from rios.dmoe.template import start_supervisor
from rios.dmoe.trust import trust_of
from rios.dmoe.warm import own_folder
from rios.services.deployments.agent_keeper import METRIC, AgentKeeper
from rios.services.keeping import Keeper
from rios.words.config import settings
from rios.words.errors import InvalidRequest, RiosError
from rios.words.ids import Address, check_address
from rios.words.logs import configure

log = logging.getLogger(__name__)

_RANKS = 1024
_NOTE = "rank-"
_NOTED_S = 7 * 86400.0  # a nanny's worker that started so long ago may find another rank when it is started again
_SCRAPE_S = 2.0


class Seat:
    """A worker's number on its machine, from 0: the lowest that no living worker has, or what RIOS_RANK says.

    It chooses the device and the port, and is part of the name of a worker that was given none, so a worker that a
    nanny starts again is the host that it was: it gets the rank of the one before, though lower ones may have become
    free. Held for life as an abstract socket: the kernel frees it with the process, however that ends, and all users of
    a machine see the same ones, whatever their /tmp.
    """

    def __init__(self, nanny: str | None = None) -> None:
        """nanny: the address of the nanny that started the worker."""
        wanted = os.environ.get("RIOS_RANK")
        self._note = None if nanny is None or wanted is not None else _note_of(nanny)
        ranks = range(_RANKS) if wanted is None else [_number("RIOS_RANK", wanted)]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for rank in (*_noted(self._note), *ranks):
            try:
                self._socket.bind(f"\0rios-rank-{rank}")
            except OSError:  # somebody else's
                continue
            self.rank = rank
            self._write()
            return
        self._socket.close()
        raise InvalidRequest(
            f"this machine has {_RANKS} workers already"
            if wanted is None
            else f"RIOS_RANK is {wanted}, which another worker of this machine has; give each its own, or to none"
        )

    def name(self, address: str) -> str:
        """What the worker is called that was given no name: the machine's, and the rank."""
        node = platform.node()
        # Machines whose name nobody set all have the same one.
        return f"{address if node.partition('.')[0] in ('', 'localhost') else node}-{self.rank}"

    def leave(self) -> None:
        """Free the rank. What a nanny starts after that has it again, where nobody took it meanwhile."""
        self._socket.close()

    def _write(self) -> None:
        if self._note is None:
            return
        try:
            self._note.write_text(str(self.rank))
            for other in self._note.parent.glob(f"{_NOTE}*"):
                if time.time() - other.stat().st_mtime > _NOTED_S:
                    other.unlink(missing_ok=True)
        except OSError as error:
            log.info("the rank is not noted", extra={"reason": str(error)})


def _note_of(nanny: str) -> Path | None:
    """Where the rank of a nanny's worker is noted: it is killed without a word when it has to be started again."""
    try:
        return own_folder() / f"{_NOTE}{hashlib.sha256(nanny.encode()).hexdigest()[:16]}"
    except OSError as error:
        log.info("ranks are not noted", extra={"reason": str(error)})
        return None


def _noted(note: Path | None) -> list[int]:
    try:
        rank = -1 if note is None else int(note.read_text())
    except (OSError, ValueError):  # there is none yet
        return []
    return [rank] if 0 <= rank < _RANKS else []


class HostPlugin(WorkerPlugin):
    """Keeps one host process beside a Dask worker."""

    name = "rios-host"

    def __init__(self) -> None:
        self.key = secrets.token_hex(16)
        self.worker_name = ""
        self.address = ""

    def setup(self, worker: Worker) -> None:
        """Start the host; its announcement travels with the heartbeats once it is there."""
        self.address = worker.address.rsplit("://", 1)[1].rsplit(":", 1)[0].strip("[]")
        self._seat = Seat(None if worker.nanny is None else str(worker.nanny))
        given = worker.name not in (None, "", worker.address)
        self.worker_name = str(worker.name) if given else self._seat.name(self.address)
        if not logging.getLogger("rios").hasHandlers():
            configure(context={"worker": self.worker_name})
        memory, share = os.environ.get("RIOS_MEMORY_BYTES"), os.environ.get(ram.VARIABLE)
        port = _number("RIOS_DATA_PORT", os.environ.get("RIOS_DATA_PORT", "0"))
        orders = {
            "name": self.worker_name,
            "key": self.key,
            "bind": self.address,
            "port": port + self._seat.rank if port else 0,
            "threads": worker.state.nthreads,
            "memory_bytes": _number("RIOS_MEMORY_BYTES", memory) if memory else None,
            "ram_bytes": worker.memory_manager.memory_limit or (_number(ram.VARIABLE, share) if share else None),
            "device_index": self._seat.rank,
            "host_class": os.environ.get("RIOS_HOST_CLASS"),
        }
        self._keeper = Keeper("the serving process", start_supervisor, orders)
        worker.metrics["rios"] = lambda _: self.announcement()
        self._agent = _agent(self.worker_name, self.address)
        if self._agent is not None:
            agent = self._agent
            worker.metrics[METRIC] = lambda _: agent.announcement()
        self._figures = _Figures(self)
        REGISTRY.register(self._figures)

    @property
    def said(self) -> dict[str, Any]:
        """What the host announced last; empty until it serves."""
        return self._keeper.said

    def announcement(self) -> dict[str, Any]:
        """What others need to reach the host; empty until it serves."""
        said = self.said
        if not said:
            return {}
        return {
            "name": self.worker_name,
            "address": self.address,
            "port": said["port"],
            "pid": said["pid"],
            "machine": said["machine"],
            "key": self.key,
            "worker_pid": os.getpid(),
            "owner": _OWNER,
            "ask_bp": settings().ask_bp,
        }

    def teardown(self, worker: Worker) -> None:
        """The worker ends: the host serves its clients to the end, then ends too."""
        worker.metrics.pop("rios", None)
        worker.metrics.pop(METRIC, None)
        if self._agent is not None:
            self._agent.close()
        REGISTRY.unregister(self._figures)
        self._keeper.close()
        self._seat.leave()


class _Figures:
    """The host's figures as Prometheus gauges, asked for when somebody scrapes."""

    _GAUGES = (
        ("reserved_bytes", "Bytes reserved for shards and trunks"),
        ("memory_bytes", "Bytes that shards and trunks may take"),
        ("rss_bytes", "Resident memory of the host process"),
        ("calls", "Calls answered since the host process started"),
        ("rows", "Expert rows computed since the host process started"),
        ("compute_ns", "Nanoseconds spent computing rows"),
    )

    def __init__(self, plugin: HostPlugin) -> None:
        self._plugin = plugin

    def _ask(self) -> dict[str, Any]:
        """What the host says of itself in the greeting of a control connection."""
        said, plugin = self._plugin.said, self._plugin
        if not said:
            raise RiosError("it has not started")
        connection, info = connect(
            (plugin.address, int(said["port"])),
            {"role": "control", "key": plugin.key, "session": "metrics"},
            timeout_s=_SCRAPE_S,
            max_bytes=settings().max_frame_bytes,
            trust=trust_of(settings()),
        )
        connection.close()
        return info

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the host at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The gauges now; `rios_host_up` is 0 while the host does not answer."""
        up = GaugeMetricFamily("rios_host_up", "Whether the host process answers", labels=["host"])
        try:
            info = self._ask()
        except RiosError as error:
            log.warning("no figures from the host", extra={"reason": str(error)})
            up.add_metric([self._plugin.worker_name], 0)
            yield up
            return
        up.add_metric([self._plugin.worker_name], 1)
        yield up
        for field, help_text in self._GAUGES:
            gauge = GaugeMetricFamily(f"rios_host_{field}", help_text, labels=["host"])
            gauge.add_metric([self._plugin.worker_name], info[field])
            yield gauge
        if info["gpu"] and "percent" in info["gpu"]:
            gpu = GaugeMetricFamily("rios_host_gpu_percent", "GPU utilisation by NVML", labels=["host"])
            gpu.add_metric([self._plugin.worker_name], info["gpu"]["percent"])
            yield gpu


def _number(variable: str, text: str) -> int:
    """A setting that is a whole number."""
    if not text.isdecimal():
        raise InvalidRequest(f"{variable} is {text!r}; it must be a whole number, at least 0")
    return int(text)


def _owner() -> Address | None:
    """Who is paid for this worker's work: RIOS_OWNER; None for the owner of the network's wallet.

    Raises InvalidRequest for what is no address, for a mistyped one, and for that of nobody.
    """
    said = settings().owner
    if not said:
        return None
    owner = check_address(said, name="RIOS_OWNER")
    if int(owner, 16) == 0:
        raise InvalidRequest("RIOS_OWNER is the zero address, to which nobody has a key; give your own")
    return owner


def _agent(name: str, address: str) -> AgentKeeper | None:
    """What keeps the agent of this machine, where it runs applications."""
    options = settings()
    if not options.host_apps:
        return None
    directory = options.apps or (Path("/var/lib/rios") if os.getuid() == 0 or options.home is None else options.home)
    return AgentKeeper(options, directory / "agent", name=name, address=address, owner=_OWNER)


def _check_numbers() -> None:
    """Raise InvalidRequest for a setting of this module that is no number."""
    for variable in ("RIOS_RANK", "RIOS_DATA_PORT", "RIOS_MEMORY_BYTES"):
        if text := os.environ.get(variable):
            _number(variable, text)


# Dask only logs what `dask_setup` raises, and would have a worker without a host; what the import raises ends it.
_OWNER = _owner()
_check_numbers()


async def dask_setup(worker: Worker) -> None:
    """Called by Dask when the worker preloads this module."""
    await comms.dask_setup(worker)
    await worker.plugin_add(plugin=HostPlugin(), name=HostPlugin.name)
