"""Where a replica goes: hosts that can take it, in the order of what its owner wants, with the reason said.

A host that cannot take it says by how much it misses. Of those that can, the fewest replicas of the same deployment
come first (what one host's end takes along is then least), then the objective:

- "cost": the host that asks least, then the nearest, then the fullest one where it still fits (what is left whole can
  take larger ones; Panigrahy et al. 2011, Heuristics for Vector Bin Packing, section 3, best fit by the dot product);
- "latency": the nearest, then the emptiest, then the cheapest;
- "both": the sum of both, each from 0 for the best to 1 for the worst of the hosts that can.

A host that was often away counts as so much dearer and farther. One that is avoided is taken where no other can.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

OBJECTIVES = ("both", "cost", "latency")
_UNITS = {"cpu_milli": "cores", "memory_bytes": "GiB", "gpus": "GPUs", "disk_bytes": "GiB", "replicas": "replicas"}
_SCALE = {"cpu_milli": 1000, "memory_bytes": 1 << 30, "gpus": 1, "disk_bytes": 1 << 30, "replicas": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What a replica takes, or a host has."""

    cpu_milli: int = 0
    """Thousandths of a core."""
    memory_bytes: int = 0
    gpus: int = 0
    disk_bytes: int = 0
    replicas: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            cpu_milli=self.cpu_milli + other.cpu_milli,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            gpus=self.gpus + other.gpus,
            disk_bytes=self.disk_bytes + other.disk_bytes,
            replicas=self.replicas + other.replicas,
        )


def total(amounts: Sequence[Amounts]) -> Amounts:
    """All of them together."""
    return Amounts(
        cpu_milli=sum(one.cpu_milli for one in amounts),
        memory_bytes=sum(one.memory_bytes for one in amounts),
        gpus=sum(one.gpus for one in amounts),
        disk_bytes=sum(one.disk_bytes for one in amounts),
        replicas=sum(one.replicas for one in amounts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOffer:
    """A host as the scheduler sees it."""

    name: str
    total: Amounts
    used: Amounts = field(default_factory=Amounts)
    isolation: int = 0
    """The strongest sandbox that it can give, as a rank."""
    runtimes: frozenset[str] = frozenset()
    region: str = ""
    ask_bp: int = 10_000
    """Its price in basis points of the book's."""
    reliability: float = 1.0
    """The share of the time that it was there, from 0 to 1."""
    latency_ms: float = 0.0
    cordoned: bool = False
    """Whether it takes nothing new."""
    by_name: bool = False
    """Whether it takes only what names one of its runtimes: it cannot run all that others can."""
    gateway: bool = False
    """Whether applications there reach the network's own gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one replica asks of a host."""

    amounts: Amounts
    isolation: int = 0
    """The weakest sandbox that will do."""
    runtime: str | None = None
    region: str | None = None
    objective: str = "both"
    gateway: bool = False
    """Whether it asks the network's own gateway."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The host that was chosen, or None, and why."""

    host: str | None
    reason: str
    misses: Mapping[str, tuple[str, ...]]
    """What each host lacks that cannot take it."""


def choose(
    need: Need,
    hosts: Iterable[HostOffer],
    *,
    siblings: Mapping[str, int] | None = None,
    avoided: Collection[str] = (),
) -> Choice:
    """The host for one more replica.

    siblings: how many replicas of the same deployment each host has. avoided: hosts where its last start failed.
    """
    beside = siblings or {}
    fitting: list[HostOffer] = []
    refused: list[HostOffer] = []
    for host in hosts:
        (fitting if _fits(need, host) else refused).append(host)
    if not fitting:
        misses = {host.name: missing(need, host) for host in refused}
        return Choice(None, _nowhere(misses), misses)
    failing = sorted(host.name for host in fitting if host.name in avoided) if avoided else []
    room = len(fitting)
    if 0 < len(failing) < room:
        fitting = [host for host in fitting if host.name not in avoided]
    score = _scores(need, fitting)
    best = min(fitting, key=lambda host: (beside.get(host.name, 0), score[host.name], host.name))
    text = f"{best.name}: {room} of {room + len(refused)} hosts have room; {_passed_over(failing, room)}"
    return Choice(best.name, text + _why(need, best, fitting, beside), {})


def able(need: Need, hosts: Iterable[HostOffer]) -> list[HostOffer]:
    """The hosts that could take one if nothing else were there."""
    return [host for host in hosts if _fits(need, replace(host, used=Amounts()))]


def missing(need: Need, host: HostOffer) -> tuple[str, ...]:
    """What `host` lacks for one replica, each with the amount; () where it fits."""
    found = []
    if host.cordoned:
        found.append("takes nothing new")
    if need.region is not None and host.region != need.region:
        found.append(f"is in region {host.region or 'unknown'}, not {need.region}")
    if need.runtime is not None and need.runtime not in host.runtimes:
        found.append(f"has no runtime {need.runtime}, but {', '.join(sorted(host.runtimes)) or 'none'}")
    if need.runtime is None and host.by_name:
        found.append(f"takes only what names its runtime {', '.join(sorted(host.runtimes))}")
    if need.gateway and not host.gateway:
        found.append("has no way to the network's gateway, which is on the machine of the gateway alone")
    if host.isolation < need.isolation:
        found.append(f"isolates by rank {host.isolation}; rank {need.isolation} is asked for")
    for name, unit in _UNITS.items():
        wanted = getattr(need.amounts, name)
        left = getattr(host.total, name) - getattr(host.used, name)
        if wanted > left:
            scale = _SCALE[name]
            found.append(f"misses {(wanted - left) / scale:g} of {wanted / scale:g} {unit}")
    return tuple(found)


def admits(host: HostOffer, *, isolation: int, region: str | None) -> bool:
    """Whether a host takes anything new, isolates enough, and is in the region, where one is asked for."""
    return not host.cordoned and host.isolation >= isolation and region in (None, host.region)


def _fits(need: Need, host: HostOffer) -> bool:
    if not admits(host, isolation=need.isolation, region=need.region) or (need.gateway and not host.gateway):
        return False
    if host.by_name if need.runtime is None else need.runtime not in host.runtimes:
        return False
    wanted, total, used = need.amounts, host.total, host.used
    return (
        wanted.cpu_milli <= total.cpu_milli - used.cpu_milli
        and wanted.memory_bytes <= total.memory_bytes - used.memory_bytes
        and wanted.gpus <= total.gpus - used.gpus
        and wanted.disk_bytes <= total.disk_bytes - used.disk_bytes
        and wanted.replicas <= total.replicas - used.replicas
    )


def _fullness(host: HostOffer) -> float:
    """The larger share of cores and memory that is taken."""
    return max(
        host.used.cpu_milli / max(host.total.cpu_milli, 1), host.used.memory_bytes / max(host.total.memory_bytes, 1)
    )


def _scores(need: Need, hosts: Sequence[HostOffer]) -> dict[str, float]:
    """The lower the better."""
    # A host that is there half of the time is worth half: twice its price and its distance.
    trust = [1 / max(host.reliability, 0.01) for host in hosts]
    price = _spread([host.ask_bp * by for host, by in zip(hosts, trust, strict=True)])
    far = _spread([(host.latency_ms + 1) * by for host, by in zip(hosts, trust, strict=True)])
    full = [_fullness(host) for host in hosts]
    # The last in each sum only decides between equals.
    if need.objective == "cost":
        found = [p + 1e-2 * f - 1e-4 * taken for p, f, taken in zip(price, far, full, strict=True)]
    elif need.objective == "latency":
        found = [f + 1e-2 * taken + 1e-4 * p for p, f, taken in zip(price, far, full, strict=True)]
    else:
        found = [p + f + 1e-2 * taken for p, f, taken in zip(price, far, full, strict=True)]
    return {host.name: value for host, value in zip(hosts, found, strict=True)}


def _spread(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [0.0 if high == low else (value - low) / (high - low) for value in values]


def _passed_over(failing: Sequence[str], room: int) -> str:
    if not failing:
        return ""
    if len(failing) == room:
        return "on each of them its last start failed; "
    rest = f" and {len(failing) - 5} more" if len(failing) > 5 else ""
    return f"{', '.join(failing[:5])}{rest} passed over, for its last start failed there; "


def _why(need: Need, best: HostOffer, fitting: Sequence[HostOffer], beside: Mapping[str, int]) -> str:
    least = beside.get(best.name, 0)
    alike = sum(beside.get(host.name, 0) == least for host in fitting)
    text = ""
    if len(fitting) > alike:
        text += f"{alike} of them have the fewest replicas of it ({least}); "
    price, far = f"asks {best.ask_bp / 100:g} % of the book's price", f"{best.latency_ms:g} ms away"
    said = {"cost": price, "latency": far}.get(need.objective, f"{price}, {far}")
    return f"{text}best by {need.objective} of these: {said}, {100 * _fullness(best):.0f} % taken"


def _nowhere(misses: Mapping[str, tuple[str, ...]]) -> str:
    if not misses:
        return "there is no host; start one with `dask worker SCHEDULER --preload rios.worker`"
    shown = [f"{name} {', '.join(said)}" for name, said in list(misses.items())[:5]]
    rest = f"; and {len(misses) - 5} more" if len(misses) > 5 else ""
    return f"no host of {len(misses)} has room: {'; '.join(shown)}{rest}"
