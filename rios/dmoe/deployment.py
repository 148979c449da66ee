"""A deployed model as its client keeps it: who holds what, which hosts run trunks, and repairs."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rios.dmoe.checkpoint import FileSource
from rios.dmoe.control import HostControl
from rios.dmoe.demand import Demand, Worker
from rios.dmoe.generator import Generator
from rios.dmoe.link import Peer
from rios.dmoe.manifest import Manifest
from rios.dmoe.member import Member, Shard
from rios.dmoe.membership import Membership
from rios.dmoe.offer import SourceOffer
from rios.dmoe.placement import Plan, plan
from rios.dmoe.shard_server import ShardServer
from rios.dmoe.tokenizer import Tokenizing
from rios.words.config import Settings
from rios.words.errors import DeadlineExceeded, HostLost, InsufficientMemory, NoWorkers, RiosError
from rios.words.events import UsageSink

log = logging.getLogger(__name__)

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_REPAIR_AFTER_S = 1.0  # a host that was only restarted is back before (measured: 0.3 s), and brings its shards itself
_REPLACE_AFTER_S = 10.0  # a second copy is made elsewhere when a host stays away for this long: no flapping
_TICK_S = 0.1
_SOURCES = 4  # hosts that are asked for a shard before this process is


class Deployment:
    """One model on the hosts of a network. `close` frees it everywhere."""

    def __init__(
        self,
        name: str,
        path: Path,
        manifest: Manifest,
        membership: Membership,
        settings: Settings,
        *,
        dtype: str,
        replicas: int | None,
        tokenizer_files: dict[str, str] | None,
        eos: Sequence[int],
        options: dict[str, Any],
        sinks: list[UsageSink],
        progress: Any,
    ) -> None:
        self.name = name
        self.manifest = manifest
        self.dtype = dtype
        self.tokenizing = Tokenizing(tokenizer_files)
        self.members: dict[str, Member] = {}
        self.pinned: dict[tuple[int, int], str] = {}
        self._id = f"{name}-{uuid.uuid4().hex[:8]}"
        self._path = path
        self._membership = membership
        self._settings = settings
        self._session = uuid.uuid4().hex
        self._options = {**options, "tokenizer_files": tokenizer_files}
        self._progress = progress
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._dirty = threading.Event()
        # It opens no port before a host needs one.
        self._shard_server = ShardServer(SourceOffer(manifest, FileSource(path, manifest.files)), settings)
        self._routers: dict[str, HostControl] = {}
        self._expert_bytes = [
            np.array([layer.expert_values(e) for e in range(layer.num_experts)], dtype=np.int64) * _ITEM_BYTES[dtype]
            for layer in manifest.layers
        ]
        self._trunk_bytes = sum(part.values for part in manifest.trunk) * _ITEM_BYTES[dtype]
        hosts = self._infos()
        self.replicas = replicas if replicas is not None else self._affordable(hosts)
        self.plan: Plan = self._planned(hosts, None)
        self.generator = Generator(
            self._id,
            settings,
            trunks=self._trunks,
            want_trunk=self._want_trunk,
            tokenizing=self.tokenizing,
            eos=eos,
            sinks=sinks,
        )
        for peer, _ in hosts.values():
            self._add(peer)
        self._apply()
        for member in self.members.values():
            member.start()
        self._thread = threading.Thread(target=self._watch, name="rios-deployment", daemon=True)

    # --- life ------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float) -> None:
        """Wait until every expert is loaded and a trunk answers; raises what a host said when it cannot be."""
        deadline = time.monotonic() + timeout_s
        try:
            while not all(member.settled for member in self.members.values()):
                for member in self.members.values():
                    if member.error is not None:
                        raise member.error
                if time.monotonic() > deadline:
                    states = ", ".join(f"{m.peer.name} {m.state}" for m in self.members.values())
                    raise DeadlineExceeded(
                        f"{self.name}: not deployed after {timeout_s:g} s (RIOS_CONTROL_TIMEOUT_S): {states}"
                    )
                time.sleep(0.01)
            self._route()
            self.generator.start()
        except BaseException:
            self.close()
            raise
        self._thread.start()
        self._membership.subscribe(self._wake.set)

    def close(self) -> None:
        """Free it on every host."""
        self._stop.set()
        self._wake.set()
        self._membership.unsubscribe(self._wake.set)
        self.generator.close()
        for router in self._routers.values():
            router.close()
        closing = [threading.Thread(target=member.close) for member in self.members.values()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._shard_server.close()

    # --- planning --------------------------------------------------------------------------------------------

    def _infos(self) -> dict[str, tuple[Peer, dict[str, Any]]]:
        """The hosts that are there, with what they say of themselves now."""
        found: dict[str, tuple[Peer, dict[str, Any]]] = {}
        for name, (peer, _) in sorted(self._membership.hosts.items()):
            try:
                with HostControl(peer, self._settings, session=self._session) as control:
                    found[name] = (peer, control.welcome)
            except RiosError as error:
                log.warning("host does not answer", extra={"host": name, "reason": str(error)})
        if not found:
            raise NoWorkers("no worker answers: start one with `dask worker ADDRESS --preload rios.worker`")
        return found

    def _affordable(self, hosts: dict[str, tuple[Peer, dict[str, Any]]]) -> int:
        """Two copies where both fit into half of the free memory, else one."""
        free = sum(info["memory_bytes"] - info["reserved_bytes"] for _, info in hosts.values())
        total = sum(int(layer.sum()) for layer in self._expert_bytes)
        return 2 if len(hosts) > 1 and 2 * total <= free / 2 else 1

    def _planned(self, hosts: dict[str, tuple[Peer, dict[str, Any]]], current: Plan | None) -> Plan:
        room = {
            name: info["memory_bytes"] - info["reserved_bytes"] + self._own_bytes(name)
            for name, (_, info) in hosts.items()
        }
        trunks = self._trunk_hosts(room, {name: info["speed"] for name, (_, info) in hosts.items()})
        workers = [
            Worker(
                name,
                info["machine"],
                max(0, room[name] - (self._trunk_bytes if name in trunks else 0)),
                info["speed"],
            )
            for name, (_, info) in hosts.items()
        ]
        load = [np.ones(len(layer)) for layer in self._expert_bytes]
        found = plan(workers, Demand(self._expert_bytes, load), replicas=self.replicas, current=current)
        self._trunk_names = set(trunks)
        return found

    def _trunk_hosts(self, room_bytes: dict[str, int], speed: dict[str, float]) -> list[str]:
        """Hosts of the trunk and, where there is a second host and copy, of a stand-by.

        Those that run one keep it; else the fastest of those with much room, for it shares its host with experts.
        """
        count = min(2 if self.replicas > 1 else 1, len(room_bytes))
        most = max(room_bytes.values())
        if most < self._trunk_bytes:
            raise InsufficientMemory(
                f"the trunk of {self.name} needs {self._trunk_bytes:,} bytes, the host with the most room has "
                f"{most:,} free; add a worker with more memory or deploy with a smaller dtype"
            )

        def order(name: str) -> tuple[bool, bool, float, int, str]:
            member = self.members.get(name)
            runs_one = member is not None and member.trunk_ready
            return not runs_one, 2 * room_bytes[name] < most, -speed[name], -room_bytes[name], name

        fitting = [name for name, free_bytes in room_bytes.items() if free_bytes >= self._trunk_bytes]
        return sorted(fitting, key=order)[:count]

    def _own_bytes(self, name: str) -> int:
        """Bytes that this deployment itself has reserved on a host."""
        member = self.members.get(name)
        if member is None:
            return 0
        return self.expert_bytes(member.held) + (self._trunk_bytes if member.trunk_ready else 0)

    def expert_bytes(self, shard: Shard) -> int:
        """Bytes in memory of these experts."""
        return sum(int(self._expert_bytes[layer][expert]) for layer, held in shard.items() for expert in held)

    def _add(self, peer: Peer) -> Member:
        opening = {"path": str(self._path), "dtype": self.dtype}
        member = Member(
            peer,
            self._settings,
            deployment=self._id,
            session=self._session,
            opening=opening,
            files=self.manifest.files,
            sources=self._sources,
            manifest_json=self.manifest.to_json().encode(),
            pinned=self.pinned,
            options=self._options,
            changed=self._member_changed,
            progress=self._progress,
        )
        self.members[peer.name] = member
        return member

    def _sources(self, member: Member, address: str) -> list[Peer]:
        """Who gives shards to a host that does not see the files: others that have them, and at last this process.

        address: how that host sees this machine.
        """
        others = [m for m in list(self.members.values()) if m is not member and m.state in ("loading", "serving")]

        def order(other: Member) -> tuple[bool, int]:
            shared = sum(len(other.held.get(layer, frozenset()) & wanted) for layer, wanted in member.wanted.items())
            return not other.sees_files, -shared

        peers = [other.peer for other in sorted(others, key=order)[:_SOURCES]]
        try:
            peers.append(self._shard_server.peer(address))
        except HostLost as error:
            log.warning("no shards from here", extra={"host": member.peer.name, "reason": str(error)})
        return peers

    def _apply(self) -> None:
        """Tell each member what the plan wants of it."""
        for name, member in self.members.items():
            shard = {layer: frozenset(experts) for layer, experts in self.plan.shard(name).items() if experts}
            full: Shard = {layer.index: shard.get(layer.index, frozenset()) for layer in self.manifest.layers}
            member.want(full, trunk=name in self._trunk_names)

    # --- watching --------------------------------------------------------------------------------------------

    def _member_changed(self, member: Member) -> None:
        self._dirty.set()
        self._wake.set()
        if self._thread_started and member.state == "serving":
            self._route()
            self.generator.refresh()

    @property
    def _thread_started(self) -> bool:
        return hasattr(self, "_thread") and self._thread.is_alive()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_TICK_S)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self._follow_membership()
                self._repair()
                if self._dirty.is_set():
                    self._dirty.clear()
                    self._route()
                    self.generator.refresh()
            except RiosError as error:
                log.warning("repair failed; trying again", extra={"deployment": self.name, "reason": str(error)})

    def _follow_membership(self) -> None:
        """New hosts join; hosts that moved are met at their new address; those gone for long are replaced."""
        hosts = self._membership.hosts
        for name, (peer, _) in hosts.items():
            member = self.members.get(name)
            if member is not None and member.peer != peer and member.state in ("lost", "connecting"):
                wanted, trunk = member.wanted, member.wants_trunk
                threading.Thread(target=member.close, daemon=True).start()
                member = self._add(peer)
                member.want(wanted, trunk=trunk)
                member.start()
            elif member is None:
                log.info("host joins", extra={"deployment": self.name, "host": name})
                member = self._add(peer)
                member.want({layer.index: frozenset() for layer in self.manifest.layers}, trunk=False)
                member.start()
                self._replan()
        now = time.monotonic()
        for name, member in list(self.members.items()):
            away = member.lost_at is not None and now - member.lost_at > _REPLACE_AFTER_S
            if away and name not in hosts and self._membership.scheduler_alive and len(self.members) > 1:
                log.info("host replaced", extra={"deployment": self.name, "host": name})
                del self.members[name]
                threading.Thread(target=member.close, daemon=True).start()
                self._replan()

    def _replan(self) -> None:
        """Plan again for the hosts there are; what can stay stays."""
        try:
            hosts = {name: value for name, value in self._infos().items() if name in self.members}
            copies = min(self.replicas, len(hosts))
            if copies != self.replicas:
                return  # fewer hosts than copies: `_repair` sees to it that each expert has one
            self.plan = self._planned(hosts, self.plan)
        except (InsufficientMemory, NoWorkers) as error:
            log.warning("no plan for these hosts", extra={"deployment": self.name, "reason": str(error)})
            return
        with self._lock:
            self._apply()

    def _repair(self) -> None:
        """Experts that no live host holds, or will soon, go to a host that has room."""
        now = time.monotonic()
        alive = [m for m in self.members.values() if m.state in ("serving", "loading")]
        gone = [m for m in self.members.values() if m.lost_at is not None and now - m.lost_at > _REPAIR_AFTER_S]
        if not gone or not alive:
            return
        for lost in gone:
            for layer, experts in lost.wanted.items():
                orphans = [e for e in experts if not any(e in m.wanted.get(layer, ()) for m in alive)]
                for expert in orphans:
                    size = int(self._expert_bytes[layer][expert])
                    target = max(alive, key=self._room)
                    if self._room(target) < size:
                        break
                    wanted = dict(target.wanted)
                    wanted[layer] = wanted.get(layer, frozenset()) | {expert}
                    target.want(wanted, trunk=target.wants_trunk)
        if not any(member.wants_trunk for member in alive):
            self._want_trunk()

    def _room(self, member: Member) -> int:
        info = member.info
        wanted = self.expert_bytes(member.wanted)
        own = self._own_bytes(member.peer.name)
        return int(info.get("memory_bytes", 0)) - int(info.get("reserved_bytes", 0)) + own - wanted

    # --- trunks ----------------------------------------------------------------------------------------------

    def _trunks(self) -> list[Peer]:
        """Hosts that run a trunk now; those that were chosen first come first."""
        order = sorted(self.members.values(), key=lambda m: (m.state != "serving", m.peer.name))
        return [member.peer for member in order if member.trunk_ready]

    def _want_trunk(self) -> None:
        """No trunk is left: start one on a live host."""
        alive = [m for m in self.members.values() if m.state == "serving"]
        if alive and not any(m.wants_trunk for m in alive):
            target = max(alive, key=self._room)
            self._trunk_names.add(target.peer.name)
            target.want(target.wanted, trunk=True)

    def _route(self) -> None:
        """Tell every trunk who holds what."""
        with self._lock:
            members = [m for m in self.members.values() if m.state in ("serving", "loading")]
            held = {m.peer.name: {str(layer): sorted(experts) for layer, experts in m.held.items()} for m in members}
            peers = [m.peer.to_dict() for m in self.members.values()]
            for member in members:
                if not member.trunk_ready:
                    continue
                try:
                    router = self._routers.get(member.peer.name)
                    if router is None or router.closed or router.peer != member.peer:
                        router = HostControl(member.peer, self._settings, session=self._session)
                        self._routers[member.peer.name] = router
                    router.call("route", deployment=self._id, peers=peers, held=held, timeout_s=2.0)
                except RiosError as error:
                    log.info("trunk not told", extra={"host": member.peer.name, "reason": str(error)})
                    self._dirty.set()

    # --- figures ---------------------------------------------------------------------------------------------

    def load_counts(self) -> list[list[int]]:
        """Rows per expert, [layer][expert], that the active trunk has counted."""
        active = self.generator.active
        router = self._routers.get(active) if active else None
        if router is None:
            return [[0] * layer.num_experts for layer in self.manifest.layers]
        counts: list[list[int]] = router.call("load_counts", deployment=self._id, timeout_s=5.0)["load"]
        return counts

    def trunk_stats(self) -> dict[str, Any]:
        """What the active trunk says of itself; empty while there is none."""
        active = self.generator.active
        if active is None or active not in self.members:
            return {}
        with HostControl(self.members[active].peer, self._settings, session=self._session) as control:
            stats = control.welcome["deployments"].get(self._id) or {}
        return dict(stats.get("trunk") or {})
