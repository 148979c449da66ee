"""The Dask preload of a rios host: `dask worker tcp://head:8786 --preload rios.worker`.

It starts the process that serves shards, announces it (name, address, key, device, memory) with the worker's
heartbeats, and shows its figures on the worker's `/metrics`. The serving process outlives the Dask worker for as long
as clients use it, so a lost scheduler does not end a running generation.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric

from rios.dmoe.control import HostControl
from rios.dmoe.link import Peer
from rios.words.config import settings
from rios.words.errors import RiosError

log = logging.getLogger(__name__)


class HostPlugin(WorkerPlugin):
    """Keeps one host process beside a Dask worker."""

    name = "rios-host"

    def __init__(self) -> None:
        self.key = secrets.token_hex(16)
        self.said: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.worker_name = ""
        self.address = ""

    def setup(self, worker: Worker) -> None:
        """Start the host; its announcement travels with the heartbeats once it is there."""
        self.worker_name = str(worker.name)
        self.address = worker.address.rsplit("://", 1)[1].rsplit(":", 1)[0].strip("[]")
        limit = worker.memory_manager.memory_limit
        orders = {
            "name": self.worker_name,
            "key": self.key,
            "bind": self.address,
            "port": int(os.environ.get("RIOS_DATA_PORT", "0")),
            "threads": worker.state.nthreads,
            "memory_bytes": int(os.environ["RIOS_MEMORY_BYTES"]) if "RIOS_MEMORY_BYTES" in os.environ else limit,
            "device_index": _trailing_number(self.worker_name),
            "host_class": os.environ.get("RIOS_HOST_CLASS"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rios.dmoe.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A group of its own: a signal to the worker's group must not end the host in mid-sentence.
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(orders).encode() + b"\n")
        self.process.stdin.flush()
        threading.Thread(target=self._listen, name="rios-announcements", daemon=True).start()
        worker.metrics["rios"] = lambda _: self.announcement()
        REGISTRY.register(_Figures(self))

    def announcement(self) -> dict[str, Any]:
        """What others need to reach the host; empty until it serves."""
        if not self.said:
            return {}
        return {
            "name": self.worker_name,
            "address": self.address,
            "port": self.said["port"],
            "pid": self.said["pid"],
            "machine": self.said["machine"],
            "key": self.key,
            "worker_pid": os.getpid(),
        }

    def peer(self) -> Peer:
        """The host, to connect to."""
        return Peer(self.worker_name, (self.address, int(self.said["port"])), self.key, str(self.said["machine"]))

    def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)
        self.said = {}

    def teardown(self, worker: Worker) -> None:
        """The worker ends: the host serves its clients to the end, then ends too."""
        worker.metrics.pop("rios", None)
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


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

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the host at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The gauges now; `rios_host_up` is 0 while the host does not answer."""
        up = GaugeMetricFamily("rios_host_up", "Whether the host process answers", labels=["host"])
        try:
            if not self._plugin.said:
                raise RiosError("not started")
            with HostControl(self._plugin.peer(), settings(), session="metrics") as control:
                info = control.call("info", timeout_s=2.0)
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


def _trailing_number(name: str) -> int:
    """Workers of `--nworkers N` are called NAME-0, NAME-1 ...: the number chooses the GPU."""
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits) if digits else 0


async def dask_setup(worker: Worker) -> None:
    """Called by Dask when the worker preloads this module."""
    logging.getLogger("rios").setLevel("INFO")
    await worker.plugin_add(plugin=HostPlugin(), name=HostPlugin.name)
