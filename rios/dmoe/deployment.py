"""A deployed model as its client keeps it: who holds what, which hosts run trunks, and repairs."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rios.dmoe.control import HostControl, welcomes
from rios.dmoe.examined import Examined
from rios.dmoe.generator import Generator
from rios.dmoe.member import Member, Shard, givers_of, spare_of
from rios.dmoe.membership import Membership
from rios.dmoe.offer import SourceOffer
from rios.dmoe.pairs import MeasuredPairs
from rios.dmoe.peer import Peer
from rios.dmoe.placement import Plan
from rios.dmoe.planning import CacheRoom, HostRoom, MeasuredLoad, Planner
from rios.dmoe.shard_server import ShardServer
from rios.dmoe.source import FileSource
from rios.dmoe.tokenizer import Tokenizing
from rios.words.config import Settings
from rios.words.errors import DeadlineExceeded, HostLost, InsufficientMemory, NoWorkers, RiosError
from rios.words.events import UsageSink

log = logging.getLogger(__name__)

_REPAIR_AFTER_S = 1.0  # a host that was only restarted is back before (measured: 0.3 s), and brings its shards itself
_REPLACE_AFTER_S = 10.0  # a second copy is made elsewhere when a host stays away for this long: no flapping
_GIVE_BACK_S = 5.0  # all must have been well for so long before what was made in need is given back
_AGAIN_S = 30.0  # a host that had no room, or hosts for which there was no plan, are asked again after so long
_TICK_S = 0.1
_SOURCES = 4  # hosts that are asked for a shard before this process is


class Deployment:
    """One model on the hosts of a network. `close` frees it everywhere."""

    def __init__(
        self,
        name: str,
        path: Path,
        examined: Examined,
        membership: Membership,
        settings: Settings,
        *,
        replicas: int | None,
        tokenizer_files: dict[str, str] | None,
        eos: Sequence[int],
        options: dict[str, Any],
        sinks: list[UsageSink],
        progress: Any,
    ) -> None:
        self.name = name
        manifest = self.manifest = examined.manifest
        dtype = self.dtype = examined.dtype
        self.tokenizing = Tokenizing(tokenizer_files)
        self.members: dict[str, Member] = {}
        self.pinned: dict[tuple[int, int], str] = {}
        self.trunk_pinned: dict[str, str] = {}
        self._id = f"{name}-{uuid.uuid4().hex[:8]}"
        self._path = path
        self._membership = membership
        self._settings = settings
        self._session = uuid.uuid4().hex
        self._options = {**options, "tokenizer_files": tokenizer_files}
        self._progress = progress
        self._moved_at = time.monotonic()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._dirty = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rios-deployment", daemon=True)
        # It opens no port before a host needs one.
        self._shard_server = ShardServer(SourceOffer(manifest, FileSource(path, manifest.files)), settings)
        self._routers: dict[str, HostControl] = {}
        room = CacheRoom.of(examined.cache_bytes, manifest.context_length, settings)
        self._planner = Planner(name, manifest, dtype, replicas, room)
        self._measured = MeasuredLoad([layer.num_experts for layer in manifest.layers])
        self._pairs = MeasuredPairs([layer.num_experts for layer in manifest.layers])
        self._counts = [[0] * layer.num_experts for layer in manifest.layers]
        self._look_at_load = time.monotonic() + settings.replan_interval_s
        self._calm_since: float | None = None
        self._plan_after = 0.0
        hosts = self._infos()
        rooms = self._rooms(hosts)
        self._planner.choose_copies(rooms)
        self._wish = self._planner.replicas
        self._trunk_names: frozenset[str] = frozenset()
        self._shards: dict[str, Shard] = {}
        self.plan: Plan
        self._adopt(*self._planner.plan(rooms, None, None))
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

    # --- life ------------------------------------------------------------------------------------------------

    def _moved(self, experts: int) -> None:
        self._moved_at = time.monotonic()
        self._progress(experts)

    def start(self, timeout_s: float, *, silence_s: float | None = None) -> None:
        """Wait until every expert is loaded and a trunk answers; raises what a host said when it cannot be.

        silence_s: end too when no expert was loaded for so long. A host that is lost meanwhile is done without.
        """
        deadline = time.monotonic() + timeout_s
        self._moved_at = time.monotonic()
        try:
            while True:
                self._try(self._follow_membership, self._repair)
                if failed := next((member.error for member in self.members.values() if member.error), None):
                    raise failed
                if all(member.settled for member in self.members.values()):
                    break
                self._check_patience(deadline, silence_s)
                time.sleep(0.01)
            self._route()
            self.generator.start()
        except BaseException:
            self.close()
            raise
        self._thread.start()
        self._membership.subscribe(self._wake.set)

    def _check_patience(self, deadline: float, silence_s: float | None) -> None:
        now = time.monotonic()
        if now > deadline or (silence_s is not None and now > self._moved_at + silence_s):
            why = "not deployed in time" if now > deadline else f"nothing was loaded for {silence_s:g} s"
            states = ", ".join(f"{m.peer.name} {m.state}" for m in self.members.values())
            raise DeadlineExceeded(f"{self.name}: {why} (RIOS_CONTROL_TIMEOUT_S): {states}")

    def close(self) -> None:
        """Free it on every host."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._wake.set()
        self._membership.unsubscribe(self._wake.set)
        self.generator.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=self._settings.connect_timeout_s)  # it may be adding a host
        for router in list(self._routers.values()):
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
        peers = {name: peer for name, (peer, _) in self._membership.hosts.items()}
        said = welcomes(peers, self._settings, session=self._session)
        found = {name: (peers[name], welcome) for name, welcome in said.items()}
        if not found:
            raise NoWorkers("no worker answers: start one with `dask worker ADDRESS --preload rios.worker`")
        return found

    def _rooms(self, hosts: dict[str, tuple[Peer, dict[str, Any]]]) -> list[HostRoom]:
        """The hosts as a plan sees them."""
        rooms = []
        for name, (_, info) in hosts.items():
            member = self.members.get(name)
            held: Shard = member.held if member is not None else {}
            rooms.append(self._seen(name, info, held, runs=member is not None and member.trunk_ready))
        for name, member in self.members.items():
            # One that was lost a moment ago comes back with its part.
            if name not in hosts and member.info and not member.away_for(_REPLACE_AFTER_S):
                rooms.append(self._seen(name, member.info, member.wanted, runs=member.wants_trunk))
        return rooms

    def _seen(self, name: str, info: dict[str, Any], held: Shard, *, runs: bool) -> HostRoom:
        trunk = info["deployments"].get(self._id, {}).get("trunk") if runs else None
        cache = trunk["kv_budget_bytes"] if trunk else 0
        own = self._planner.bytes_of(held) + cache + (self._planner.trunk_bytes if runs else 0)
        free = info["memory_bytes"] - info["reserved_bytes"] + own
        serves = runs and self.generator.active == name
        return HostRoom(name, info["machine"], info["speed"], free, runs, serves, cache)

    def expert_bytes(self, shard: Shard) -> int:
        """Bytes in memory of these experts."""
        return self._planner.bytes_of(shard)

    @property
    def replicas(self) -> int:
        """Copies of each expert in all; hot ones may have more where nobody said how many."""
        return self._planner.replicas

    def want_copies(self, copies: int) -> None:
        """Have exactly so many copies of each expert, and beside more than one a stand-by trunk, from soon on.

        Hosts load what is missing and drop what is too much while requests go on. Never more than there are hosts;
        where there is no room it stays as it is, and is tried again.
        """
        self._wish = copies
        self._wake.set()

    def _adopt(self, found: Plan, trunks: frozenset[str]) -> None:
        """A plan comes into force; `_apply` tells the hosts."""
        self.plan, self._trunk_names = found, trunks
        self._shards = self._planner.shards(found)

    def _add(self, peer: Peer) -> Member:
        opening = {"path": str(self._path), "dtype": self.dtype, "private": bool(self._options.get("private"))}
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
            trunk_pinned=self.trunk_pinned,
            options=self._options,
            changed=self._member_changed,
            spare=lambda one: spare_of(one, list(self.members.values()), self.generator.active),
            progress=self._moved,
        )
        self.members = {**self.members, peer.name: member}  # replaced whole: other threads go through it
        return member

    def _sources(self, member: Member, address: str) -> list[Peer]:
        """Who gives shards to a host that does not see the files: others that have them, and at last this process.

        address: how that host sees this machine.
        """
        peers = [other.peer for other in givers_of(member, list(self.members.values()))[:_SOURCES]]
        try:
            peers.append(self._shard_server.peer(address))
        except HostLost as error:
            log.warning("no shards from here", extra={"host": member.peer.name, "reason": str(error)})
        return peers

    def _apply(self) -> None:
        """Tell each member what the plan wants of it."""
        nothing: Shard = {layer.index: frozenset() for layer in self.manifest.layers}
        for name, member in self.members.items():
            member.want(self._shards.get(name, nothing), trunk=name in self._trunk_names)

    # --- watching --------------------------------------------------------------------------------------------

    def _member_changed(self, member: Member) -> None:
        self._dirty.set()
        self._wake.set()
        if self._thread.is_alive() and member.state == "serving":
            self._route()
            self.generator.refresh()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_TICK_S)
            self._wake.clear()
            if self._stop.is_set():
                return
            self._try(self._follow_membership, self._repair, self._recover)
            self._try(self._follow_wish, self._follow_load, self._tell_news)

    def _try(self, *steps: Callable[[], None]) -> None:
        """Whatever it is that fails, the next turn may be better, and without one nothing would be repaired again."""
        try:
            for step in steps:
                step()
        except RiosError as error:
            log.warning("repair failed; trying again", extra={"deployment": self.name, "reason": str(error)})
        except Exception:
            log.exception("repair failed; trying again", extra={"deployment": self.name})

    def _tell_news(self) -> None:
        if self._dirty.is_set():
            self._dirty.clear()
            self._route()
        # Also where nothing has changed: a stand-by may have been lost, or not been there yet.
        self.generator.refresh()

    def _follow_membership(self) -> None:
        """New hosts join; hosts that moved are met at their new address; those gone for long are replaced."""
        hosts = self._membership.hosts
        for name, (peer, _) in hosts.items():
            member = self.members.get(name)
            if member is not None and member.has_moved(peer):
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
                self._replan(self.plan)
        for name, member in list(self.members.items()) if self._membership.scheduler_alive else ():
            if name in hosts or not (member.away_for(_REPLACE_AFTER_S) or member.has_moved(None)):
                continue
            if len(self.members) > 1:
                log.info("host replaced", extra={"deployment": self.name, "host": name})
                self.members = {other: kept for other, kept in self.members.items() if other != name}
                threading.Thread(target=member.close, daemon=True).start()
                self._replan(self._planner.as_it_is(self.plan, {n: m.wanted for n, m in self.members.items()}))

    def _replan(self, current: Plan) -> bool:
        """Plan again for the hosts there are; what can stay of `current` stays. Whether there was a plan."""
        try:
            hosts = {name: value for name, value in self._infos().items() if name in self.members}
            if hosts:
                self._adopt(*self._planner.plan(self._rooms(hosts), current, self._measured.load, self._pairs.tables))
        except (InsufficientMemory, NoWorkers) as error:
            log.warning("no plan for these hosts", extra={"deployment": self.name, "reason": str(error)})
            self._plan_after = time.monotonic() + _AGAIN_S
            return False
        self._apply()
        return True

    def _repair(self) -> None:
        """Experts that no live host holds, or will soon, go to a host that has room."""
        now = time.monotonic()
        members = list(self.members.values())
        alive = [m for m in members if m.state in ("serving", "loading")]
        gone = any(m.lost_at is not None and now - m.lost_at > _REPAIR_AFTER_S for m in members)
        if not alive or not (gone or any(m.refused_within(_AGAIN_S) for m in members)):
            return
        # A host that was lost for less keeps its part: it comes back with it.
        there = [m for m in members if m in alive or m.lost_at is None or now - m.lost_at <= _REPAIR_AFTER_S]
        for layer, sizes in zip(self.manifest.layers, self._planner.expert_bytes, strict=True):
            place = layer.index
            known = frozenset().union(*(m.wanted.get(place, frozenset()) for m in there))
            known = known.union(*(m.held.get(place, frozenset()) for m in alive))
            for expert in sorted(set(range(layer.num_experts)) - known):
                target = max(alive, key=self._room)
                if self._room(target) < int(sizes[expert]):
                    break
                wanted = dict(target.wanted)
                wanted[place] = wanted.get(place, frozenset()) | {expert}
                target.want(wanted, trunk=target.wants_trunk)
        if not any(member.wants_trunk for member in alive):
            self._want_trunk()

    def _recover(self) -> None:
        """When all have been well for a while: what was made in need is given back, a wish refused is made again."""
        now = time.monotonic()
        if not self._calm() or self._as_planned() or now < self._plan_after:
            self._calm_since = None
            return
        if self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since > _GIVE_BACK_S:
            self._calm_since = None
            log.info("back to the plan", extra={"deployment": self.name})
            self._replan(self.plan)

    def _follow_wish(self) -> None:
        """As many copies as somebody wishes by now; where there is no room for those, as many as before."""
        planner, wish = self._planner, self._wish
        if wish == planner.replicas or time.monotonic() < self._plan_after or not self._calm():
            return
        before = planner.exact, planner.replicas
        planner.exact, planner.replicas = True, wish
        if not self._replan(self.plan):
            planner.exact, planner.replicas = before

    def _follow_load(self) -> None:
        """Now and then: where the load has become uneven, hot experts get more copies, or some move; where it is even,
        experts that serve the same tokens come together."""
        now = time.monotonic()
        active = self.generator.active
        if now < self._look_at_load or active not in self.members:
            return
        self._look_at_load = now + self._settings.replan_interval_s
        self._measured.take((active, self.members[active].info.get("incarnation")), self.load_counts())
        load = self._measured.load
        if load is None or len(self.members) < 2 or not (self._calm() and self._as_planned()):
            return
        hosts = {name: value for name, value in self._infos().items() if name in self.members}
        rooms = self._rooms(hosts)
        uneven = self._planner.unevenness(rooms, self.plan, load)
        together, trunks = self._pairs.tables, self._trunk_names
        found: Plan | None = None
        if uneven > self._settings.replan_above:
            found, trunks = self._planner.plan(rooms, self.plan, load, together)
        elif together is not None and self._pairs.news():
            found = self._planner.closer(rooms, self.plan, load, together)
        if found is None:
            return
        log.info(
            "placement follows the load",
            extra={"deployment": self.name, "busiest": round(uneven, 2), "then": round(found.max_over_ideal, 2)},
        )
        self._adopt(found, trunks)
        self._apply()

    def _calm(self) -> bool:
        """Whether every host is there, has what it should, and has refused nothing of late."""
        return all(m.settled and not m.refused_within(_AGAIN_S) for m in self.members.values())

    def _as_planned(self) -> bool:
        """Whether the hosts are those of the plan and were asked for no more and no less than it says."""
        return self.members.keys() == self._shards.keys() and all(
            m.wanted == self._shards[name] and m.wants_trunk == (name in self._trunk_names)
            for name, m in self.members.items()
        )

    def _room(self, member: Member) -> int:
        """Bytes that a host could take more than it should hold already."""
        info = member.info
        if member.refused_within(_AGAIN_S):
            return -1
        wanted = self._planner.bytes_of(member.wanted)
        own = self._planner.bytes_of(member.held)
        # A trunk that it runs is in what it reserved; one that it should start is not yet.
        trunk = self._planner.trunk_bytes if member.wants_trunk and not member.trunk_ready else 0
        return int(info.get("memory_bytes", 0)) - int(info.get("reserved_bytes", 0)) + own - wanted - trunk

    # --- trunks ----------------------------------------------------------------------------------------------

    def _trunks(self) -> list[Peer]:
        """Hosts that run a trunk now; those that were chosen first come first."""
        order = sorted(self.members.values(), key=lambda m: (m.state != "serving", not m.wants_trunk, m.peer.name))
        return [member.peer for member in order if member.trunk_ready]

    def _want_trunk(self) -> None:
        """No trunk is left: start one on a live host."""
        alive = [m for m in self.members.values() if m.state == "serving"]
        if alive and not any(m.wants_trunk for m in alive):
            target = max(alive, key=self._room)
            if self._room(target) < self._planner.trunk_bytes:
                return
            log.info("trunk wanted", extra={"deployment": self.name, "host": target.peer.name})
            target.want(target.wanted, trunk=True)

    def _route(self) -> None:
        """Tell every trunk who holds what."""
        with self._lock:
            members = [m for m in self.members.values() if m.state in ("serving", "loading")]
            held = {m.peer.name: {str(layer): sorted(experts) for layer, experts in m.held.items()} for m in members}
            met = [m.peer for m in self.members.values()]
            peers = [peer.to_dict() for peer in met]
            for name in [name for name, router in self._routers.items() if router.peer not in met]:
                self._routers.pop(name).close()
            for member in (m for m in members if m.trunk_ready):
                try:
                    router = self._routers.get(member.peer.name)
                    if router is None or router.closed:
                        router = HostControl(member.peer, self._settings, session=self._session)
                        if self._stop.is_set():  # closed while this connected, and those that it knew of are too
                            router.close()
                            return
                        self._routers[member.peer.name] = router
                    router.call("route", deployment=self._id, peers=peers, held=held, timeout_s=2.0)
                except RiosError as error:
                    log.info("trunk not told", extra={"host": member.peer.name, "reason": str(error)})
                    self._dirty.set()

    # --- figures ---------------------------------------------------------------------------------------------

    def load_counts(self) -> list[list[int]]:
        """Rows per expert, [layer][expert], that the active trunk has counted; while it is away, what it said last."""
        active = self.generator.active
        router = self._routers.get(active) if active else None
        if router is not None:
            try:
                answer = router.call("load_counts", deployment=self._id, timeout_s=5.0)
                counts = answer["load"]
                if counts:
                    self._pairs.take(answer["pairs"])
            except RiosError as error:
                log.info("no load from the trunk", extra={"host": active, "reason": str(error)})
            else:
                self._counts = counts or self._counts
        return self._counts

    def trunk_stats(self) -> dict[str, Any]:
        """What the active trunk says of itself; empty while there is none."""
        active = self.generator.active
        if active is None or active not in self.members:
            return {}
        with HostControl(self.members[active].peer, self._settings, session=self._session) as control:
            stats = control.welcome["deployments"].get(self._id) or {}
        return dict(stats.get("trunk") or {})
