"""The hosts of a network: this machine, its engine, and the machines whose workers offer them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rios.deploy.runtimes.protocol import Isolation
from rios.dmoe.peer import Peer
from rios.services.deployments.hosts import Host, Hosts
from rios.services.deployments.remote_host import RemoteHost
from rios.words.config import Settings

log = logging.getLogger(__name__)

Agents = Callable[[], Mapping[str, Mapping[str, Any]]]
_FORGOTTEN_S = 30.0
"""A host that is announced no more and that has not answered for so long is let go of."""


class NetworkHosts:
    """Those of `here`, and one for each agent that is announced."""

    def __init__(
        self, here: Hosts, agents: Agents, network_id: str, settings: Settings, *, isolation: Isolation
    ) -> None:
        """agents: by name, what each announces (`agent_keeper.announcement`). isolation: the network's policy."""
        self._here, self._agents = here, agents
        self._network_id, self._settings, self._isolation = network_id, settings, isolation
        self._lock = threading.Lock()
        self._remote: dict[str, RemoteHost] = {}

    def __repr__(self) -> str:
        return f"<NetworkHosts {', '.join(self.now())}>"

    def now(self) -> Mapping[str, Host]:
        """Those that are there; one that was announced and does not answer is, too: it says so when it is asked."""
        announced = {name: _peer(name, said) for name, said in self._agents().items()}
        with self._lock:
            for name, peer in announced.items():
                known = self._remote.get(name)
                if known is None:
                    log.info("a host offers to run applications", extra={"host": name})
                    self._remote[name] = RemoteHost(peer, self._network_id, self._settings, isolation=self._isolation)
                elif known.peer != peer:
                    known.moved(peer)
            silent = [name for name, host in self._remote.items() if host.silent_s > _FORGOTTEN_S]
            gone = [self._remote.pop(name) for name in silent if name not in announced]
            found: dict[str, Host] = {**self._remote, **self._here.now()}
        for host in gone:
            host.close()
        return found

    def way(self, host: str, replica_id: str, address: str) -> str:
        """The replica's own address where it is on this machine, else a port of this process that leads to it."""
        with self._lock:
            remote = self._remote.get(host)
        if remote is None and host not in self._here.now():
            found = self.now().get(host)
            remote = found if isinstance(found, RemoteHost) else None
            if remote is None:
                return ""
        return self._here.way(host, replica_id, address) if remote is None else remote.way(replica_id)

    def leave(self) -> None:
        """As the protocol says; one that is announced from now on is asked for nothing, as nobody acts any more."""
        with self._lock:
            remote = list(self._remote.values())
        for host in remote:
            host.leave()
        self._here.leave()

    def close(self) -> None:
        """Let go of all of them."""
        with self._lock:
            remote, self._remote = list(self._remote.values()), {}
        for host in remote:
            host.close()
        self._here.close()


def _peer(name: str, said: Mapping[str, Any]) -> Peer:
    return Peer(name, (str(said["address"]), int(said["port"])), str(said["key"]), "")
