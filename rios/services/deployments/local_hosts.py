"""What one process of a network can run replicas on by itself: this machine, a cluster; and who answers there as the
network's gateway.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rios.deploy.runtimes.protocol import Isolation
from rios.deploy.runtimes.watching import Policy
from rios.deploy.spec import GATEWAY
from rios.services.deployments.hosts import Host
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.machine import clear_up, promised_here, runtimes_of
from rios.services.deployments.reaper import end_reaper, start_reaper
from rios.services.deployments.room import Keeping
from rios.services.lazy import Closes, Lazy

if TYPE_CHECKING:
    from rios.deploy.runtimes.kubernetes_objects import Cluster


class LocalHosts:
    """This machine, and what else this process can run replicas on."""

    def __init__(self, *hosts: Host, end: Callable[[], None] = lambda: None) -> None:
        """end: what is done last."""
        self._hosts = {host.name: host for host in hosts}
        self._end = end

    def __repr__(self) -> str:
        return f"<LocalHosts {', '.join(self._hosts)}>"

    def now(self) -> Mapping[str, Host]:
        """All of them, always."""
        return self._hosts

    def way(self, host: str, replica_id: str, address: str) -> str:
        """It is this machine's own, or what its host knows."""
        found = self._hosts.get(host)
        return found.way(replica_id, address) if isinstance(found, LocalHost) else address

    def leave(self) -> None:
        """As the protocol says."""
        for host in self._hosts.values():
            host.leave()

    def close(self) -> None:
        """Let go of it."""
        for host in self._hosts.values():
            host.close()
        self._end()


def place_of(home: Path | None, network_id: str) -> Path | None:
    """Where the sandboxes of a network lie; None without a home.

    Sandboxes run as users of their own where they can, who have to pass through; a home is closed to others.
    """
    if home is None:
        return None
    return Path("/var/lib/rios") / network_id if os.getuid() == 0 else home / "apps"


def local_hosts(
    network_id: str,
    directory: Path | None,
    *,
    engine: Host | None = None,
    isolation: Isolation = Isolation.PROCESS,
    cluster: Cluster | None = None,
    lasts: bool = False,
    region: str = "",
    ask_bp: int = 10_000,
    policy: Policy | None = None,
    door: Callable[[Path], Closes] | None = None,
    snapshot_bytes: int = 1 << 36,
    keeping: Keeping | None = None,
) -> LocalHosts:
    """This machine with the runtimes that it has.

    directory: where sandboxes and volumes lie; a temporary one, that is gone at the end, without. isolation: no replica
    runs here with less. engine: what runs models. cluster: where Pods run. lasts: whether the network's ledger outlives
    this process also where this machine has no directory for it: what runs in the cluster is not ended then. region,
    ask_bp: of this machine, as its own agent would say them. policy: of egress, beyond public addresses. door: has the
    network's gateway answer at a socket in a directory, until it is closed; without, no application reaches it.
    snapshot_bytes: room for snapshots on this machine. keeping: of images and root file systems that nobody uses there.
    """
    from rios.services.deployments.kubernetes_host import KubernetesHost

    doors: list[Lazy[Closes]] = []

    def shut() -> None:
        for one in doors:
            one.close()

    def hosts(place: Path) -> Iterator[Host]:
        led = policy or Policy()
        if door is not None:
            led = replace(led, ways={GATEWAY: place / GATEWAY})
            doors.append(Lazy(partial(door, place / GATEWAY)))
        yield LocalHost(
            "localhost", place, partial(runtimes_of, policy=led), promised_here(), network_id=network_id,
            isolation=isolation, region=region, ask_bp=ask_bp, gateway=doors[0] if doors else None,
            snapshot_bytes=snapshot_bytes, keeping=keeping,
        )  # fmt: skip
        if engine is not None:
            yield engine
        if cluster is not None:
            ends = directory is None and not lasts
            yield KubernetesHost(
                place, cluster, network_id=network_id, isolation=isolation, lasts=not ends, policy=policy
            )

    if directory is not None:
        return LocalHosts(*hosts(directory), end=shut)
    made = Path(tempfile.mkdtemp(prefix="rios-apps-"))
    made.chmod(0o711)  # sandboxes have users of their own
    reaper = start_reaper(made)

    def end() -> None:
        try:
            shut()
            clear_up(made)
        finally:
            end_reaper(reaper)

    return LocalHosts(*hosts(made), end=end)
