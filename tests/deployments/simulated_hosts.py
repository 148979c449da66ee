"""Hosts that run nothing: for what no machine here has, a thousand hosts, and hosts that go away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rios.deploy.runtimes.protocol import Executed, ImageBase, LogLine, Metrics, Status
from rios.deploy.scheduling import Amounts, HostOffer
from rios.services.deployments.hosts import APP, Ended, Host, Order
from rios.words.errors import HostLost, NotFound


class SimulatedHost:
    """A host that says that it does what it is told. `gone` makes it silent."""

    def __init__(self, name: str, *, cpu: int = 64, memory_gib: int = 256) -> None:
        self.name = name
        self.snapshots: Any = None
        self.gone = False
        self.running: dict[str, Status] = {}
        self.started = 0
        total = Amounts(cpu_milli=cpu * 1000, memory_bytes=memory_gib << 30, disk_bytes=1 << 40, replicas=500)
        self._offer = HostOffer(name=name, total=total, isolation=3, runtimes=frozenset({"bubblewrap"}))
        self._lock = threading.Lock()

    def _here(self) -> None:
        if self.gone:
            raise HostLost(f"{self.name} does not answer")

    def offer(self) -> HostOffer:
        return self._offer

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        return False

    def prepare(self, specification: Mapping[str, Any], image: ImageBase | None = None, *, here: bool = True) -> None:
        self._here()

    def unpack(self, specification: Mapping[str, Any], digest: str) -> list[str]:
        return []

    def instances(self) -> list[Status]:
        self._here()
        with self._lock:
            return list(self.running.values())

    def start(self, order: Order) -> Status:
        self._here()
        with self._lock:
            self.started += order.replica_id not in self.running  # asked for again, it is the same one
            now = Status(
                instance=order.replica_id, state="running", labels={APP: order.app_id}, started_at=time.time(),
                endpoint=("127.0.0.1", 1),
            )  # fmt: skip
            return self.running.setdefault(order.replica_id, now)

    def give_up(self, replica_id: str) -> None:
        pass

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        self._here()
        with self._lock:
            found = self.running.get(replica_id)
        return Ended(status=found, metrics=None if found is None else self.metrics(replica_id))

    def clear(self, replica_id: str) -> None:
        self._here()
        with self._lock:
            self.running.pop(replica_id, None)

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        pass

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        self._here()

    def remove_volume(self, organisation_id: str, app_id: str, path: str) -> None:
        self._here()

    def metrics(self, replica_id: str) -> Metrics:
        self._here()
        if replica_id not in self.running:
            raise NotFound(replica_id)
        return Metrics(
            at=time.time(),
            cpu_seconds=0.1,
            memory_bytes=1,
            memory_peak_bytes=1,
            pids=1,
            egress_bytes=0,
            ingress_bytes=0,
        )

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        return iter(())

    def exec(self, replica_id: str, command: Sequence[str], *, timeout_s: float) -> Executed:
        if replica_id not in self.running:
            raise NotFound(replica_id)
        return Executed(0, replica_id.encode(), b"")

    def put_secrets(self, replica_id: str, secrets: Mapping[str, Any]) -> None:
        pass

    def leave(self) -> None:
        if self.snapshots is not None:
            self.snapshots.leave()

    def close(self) -> None:
        pass


class SimulatedHosts:
    """Some of them."""

    def __init__(self, hosts: Sequence[SimulatedHost]) -> None:
        self.hosts: dict[str, Host] = {host.name: host for host in hosts}

    def now(self) -> Mapping[str, Host]:
        return self.hosts

    def way(self, host: str, replica_id: str, address: str) -> str:
        return address

    def leave(self) -> None:
        for host in self.hosts.values():
            host.leave()

    def close(self) -> None:
        pass
