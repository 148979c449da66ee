"""From what hosts say of themselves and what the trunk counts to a plan: who holds what, and who runs a trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rios.dmoe.demand import Demand, Worker
from rios.dmoe.manifest import Manifest
from rios.dmoe.placement import Plan, closer, plan, unevenness
from rios.words.config import Settings
from rios.words.errors import InsufficientMemory, InvalidRequest

Shard = dict[int, frozenset[int]]
Load = list[NDArray[np.float64]]

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class HostRoom:
    """A host as a plan sees it.

    free_bytes   what this deployment may take there, with what it has taken already
    cache_bytes  of these, the key-value cache of the trunk that runs there
    """

    name: str
    machine: str
    speed: float
    free_bytes: int
    runs_trunk: bool  # now
    serves: bool  # its trunk is the one that answers requests
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CacheRoom:
    """What the key-value cache of a new trunk takes: `fraction` of a host's free memory, and no more than `most_bytes`.

    least_bytes: with so little it can still answer somebody; the plan leaves no more where memory is short.
    """

    fraction: float
    most_bytes: int
    least_bytes: int

    @classmethod
    def of(cls, found: tuple[int, int] | None, context_length: int, settings: Settings) -> CacheRoom:
        """At best as much as all requests that may run can use, at least what one of `prefill_tokens` needs.

        found: `rios.dmoe.probe.cache_bytes`; None where it is not known before the weights are there.
        """
        if found is None:
            return cls(settings.kv_fraction, 1 << 62, 0)
        per_token, fixed = found
        return cls(
            settings.kv_fraction,
            settings.max_running * (fixed + per_token * context_length),
            fixed + per_token * min(context_length, settings.prefill_tokens),
        )

    def share(self, free_bytes: int, *, little: bool) -> int:
        """Bytes to leave on a host with so many free beside its trunk."""
        return max(0, min(int(self.fraction * free_bytes), self.least_bytes if little else self.most_bytes))


class Planner:
    """The sizes of one model, and the wishes about its copies."""

    def __init__(
        self, name: str, manifest: Manifest, dtype: str, replicas: int | None, cache: CacheRoom | None = None
    ) -> None:
        """replicas: exactly so many copies of each expert; None: as `choose_copies` says, and more of hot ones.

        cache: what trunks need beside their weights; without it nothing is left for that.
        """
        self.name = name
        self.exact = replicas is not None
        self.replicas = replicas or 1
        self._cache = cache or CacheRoom(0.0, 0, 0)
        self.layers = [layer.index for layer in manifest.layers]
        self.expert_bytes = [
            np.array([layer.expert_values(e) for e in range(layer.num_experts)], dtype=np.int64) * _ITEM_BYTES[dtype]
            for layer in manifest.layers
        ]
        self.trunk_bytes = sum(part.values for part in manifest.trunk) * _ITEM_BYTES[dtype]

    def bytes_of(self, shard: Mapping[int, frozenset[int]]) -> int:
        """Bytes in memory of these experts."""
        return sum(int(self.expert_bytes[layer][expert]) for layer, held in shard.items() for expert in held)

    def choose_copies(self, hosts: Sequence[HostRoom]) -> None:
        """Where nobody said: two copies where both fit into half of the free memory, else one.

        Raises `InvalidRequest` where somebody said more than there are hosts.
        """
        if self.exact and self.replicas > len(hosts):
            raise InvalidRequest(
                f"replicas is {self.replicas}, but there are {len(hosts)} workers and no worker holds an expert twice: "
                f"ask for at most {len(hosts)}, or add workers"
            )
        if not self.exact:
            total = sum(int(layer.sum()) for layer in self.expert_bytes)
            room = sum(host.free_bytes for host in hosts)
            self.replicas = 2 if len(hosts) > 1 and 2 * total <= room / 2 else 1

    def plan(
        self, hosts: Sequence[HostRoom], current: Plan | None, load: Load | None, together: Load | None = None
    ) -> tuple[Plan, frozenset[str]]:
        """Who holds what, and the hosts of trunks. With fewer hosts than copies, as many copies as there are hosts.

        load: rows per expert as they were measured; None: all count the same. together: how often two experts served
        the same token, [experts, experts] for each layer. Raises `InsufficientMemory`.
        """
        trunks = self._trunks(hosts)
        copies = min(self.replicas, len(hosts))
        demand = Demand(self.expert_bytes, load or [np.ones(len(layer)) for layer in self.expert_bytes], together)
        # Without a measured load all experts are equal, and none asks for more copies than the others.
        exactly = copies if self.exact or load is None else None
        try:
            found = plan(self._workers(hosts, trunks), demand, replicas=exactly, least=copies, current=current)
        except InsufficientMemory:  # experts come before a large cache
            workers = self._workers(hosts, trunks, little=True)
            found = plan(workers, demand, replicas=exactly, least=copies, current=current)
        return _with_load(found, load), trunks

    def closer(self, hosts: Sequence[HostRoom], current: Plan, load: Load, together: Load) -> Plan | None:
        """`current` changed so that tokens need fewer hosts; None where that is not worth loading experts."""
        copies = min(self.replicas, len(hosts))
        workers = self._workers(hosts, self._trunks(hosts))
        demand = Demand(self.expert_bytes, load, together)
        found = closer(workers, demand, current, replicas=copies if self.exact else None, least=copies)
        return None if found is None else _with_load(found, load)

    def unevenness(self, hosts: Sequence[HostRoom], current: Plan, load: Load) -> float:
        """How busy the busiest host would be under `load` if all stayed where it is, in parts of the ideal."""
        return unevenness(self._workers(hosts, self._trunks(hosts)), Demand(self.expert_bytes, load), current)

    def _workers(self, hosts: Sequence[HostRoom], trunks: frozenset[str], *, little: bool = False) -> list[Worker]:
        """The hosts with the memory that is left for experts. little: beside trunks with small caches."""
        found = []
        for host in hosts:
            free = host.free_bytes
            if host.name in trunks:
                free -= self.trunk_bytes
                free -= host.cache_bytes if host.runs_trunk else self._cache.share(free, little=little)
            found.append(Worker(host.name, host.machine, max(0, free), host.speed))
        return found

    def _trunks(self, hosts: Sequence[HostRoom]) -> frozenset[str]:
        """Hosts of the trunk and, where there is a second host and copy, of a stand-by.

        Those that run one keep it, the one that serves before all; else the fastest of those with much room, for it
        shares its host with experts.
        """
        count = min(2 if self.replicas > 1 else 1, len(hosts))
        most = max(host.free_bytes for host in hosts)
        if most < self.trunk_bytes:
            raise InsufficientMemory(
                f"the trunk of {self.name} needs {self.trunk_bytes:,} bytes, the host with the most room has "
                f"{most:,} free; add a worker with more memory or deploy with a smaller dtype"
            )

        def order(host: HostRoom) -> tuple[bool, bool, bool, float, int, str]:
            little = 2 * host.free_bytes < most
            return not host.serves, not host.runs_trunk, little, -host.speed, -host.free_bytes, host.name

        fitting = [host for host in hosts if host.free_bytes >= self.trunk_bytes]
        return frozenset(host.name for host in sorted(fitting, key=order)[:count])

    def shards(self, of: Plan) -> dict[str, Shard]:
        """What each host holds by a plan, with every layer named."""
        found: dict[str, dict[int, set[int]]] = {
            worker.name: {layer: set() for layer in self.layers} for worker in of.workers
        }
        for layer, experts in zip(self.layers, of.holders, strict=True):
            for expert, holders in enumerate(experts):
                for name in holders:
                    found[name][layer].add(expert)
        return {name: {layer: frozenset(experts) for layer, experts in shard.items()} for name, shard in found.items()}

    def as_it_is(self, of: Plan, shards: Mapping[str, Shard]) -> Plan:
        """A plan changed to what hosts hold, or will soon, by now: what a new one should leave in place."""
        holders = tuple(
            tuple(
                tuple(name for name, shard in shards.items() if expert in shard.get(layer, ()))
                for expert in range(len(sizes))
            )
            for layer, sizes in zip(self.layers, self.expert_bytes, strict=True)
        )
        weights = tuple(tuple(tuple(1 / len(names) for _ in names) for names in layer) for layer in holders)
        return replace(of, holders=holders, weights=weights, fingerprint="")


def _with_load(of: Plan, load: Load | None) -> Plan:
    """The plan with a word about the load that it goes by."""
    said = "Load: not measured yet, all experts count the same."
    if load is not None:
        said = f"Load: as the trunk has counted it of late, {sum(int(layer.sum()) for layer in load):,} rows."
    return replace(of, reasons=(said, *(line for line in of.reasons if not line.startswith("Load: "))))


class MeasuredLoad:
    """Rows per expert of late, from counters that a trunk keeps and another begins again."""

    def __init__(self, experts: Sequence[int]) -> None:
        self.load: Load | None = None  # None while too little was counted to tell one expert from another
        self._enough_rows = 16 * sum(experts)
        self._trunk: object = None
        self._last: Load = [np.zeros(count) for count in experts]
        self._more: Load = [np.zeros(count) for count in experts]

    def take(self, trunk: object, counts: Sequence[Sequence[int]]) -> None:
        """Take in a reading of `trunk`. Whenever enough has come together, it counts for as much as all before."""
        now = [np.array(layer, dtype=np.float64) for layer in counts]
        begun = trunk != self._trunk or any((new < old).any() for new, old in zip(now, self._last, strict=True))
        since = now if begun else [new - old for new, old in zip(now, self._last, strict=True)]
        self._trunk, self._last = trunk, now
        self._more = [more + new for more, new in zip(self._more, since, strict=True)]
        if sum(layer.sum() for layer in self._more) >= self._enough_rows:
            known = self.load if self.load is not None else self._more
            self.load = [old / 2 + more / 2 for old, more in zip(known, self._more, strict=True)]
            self._more = [np.zeros_like(layer) for layer in self._more]
