"""What one host has of one deployment: expert shards, perhaps a trunk, and the clients that want them kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rios.dmoe.experts import ExpertStore
from rios.dmoe.fetch import KeptOffer, PeerSource
from rios.dmoe.manifest import Manifest
from rios.dmoe.offer import Offer, SourceOffer
from rios.dmoe.source import ByteSource
from rios.words.errors import InsufficientMemory, InvalidRequest

if TYPE_CHECKING:
    from rios.dmoe.serving import TrunkService

log = logging.getLogger(__name__)


class MemoryBudget:
    """Bytes that shards, trunks and caches may take on this host; reserved before anything is read."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.reserved_bytes = 0
        self._lock = threading.Lock()

    def reserve(self, count_bytes: int, what: str) -> None:
        """Take `count_bytes`, or raise `InsufficientMemory` with the numbers."""
        with self._lock:
            if self.reserved_bytes + count_bytes > self.capacity_bytes:
                free = self.capacity_bytes - self.reserved_bytes
                raise InsufficientMemory(
                    f"{what} needs {count_bytes:,} bytes, {free:,} of {self.capacity_bytes:,} are free on this host; "
                    "add a worker, deploy with fewer replicas or a smaller dtype"
                )
            self.reserved_bytes += count_bytes

    def reserve_share(self, fraction: float, most_bytes: int, what: str, *, beside_bytes: int = 0) -> int:
        """Take a fraction of what is free together with `beside_bytes`, which were taken before.

        At most `most_bytes` and all that is free; returns how much. Raises as `reserve`.
        """
        with self._lock:
            free = self.capacity_bytes - self.reserved_bytes
            count_bytes = max(0, min(int(fraction * (free + beside_bytes)), most_bytes, free))
        self.reserve(count_bytes, what)
        return count_bytes

    def release(self, count_bytes: int) -> None:
        """Give back."""
        with self._lock:
            self.reserved_bytes -= count_bytes


@dataclass
class Hosted:
    """One deployment on this host."""

    name: str
    handle: int
    manifest: Manifest
    dtype: torch.dtype
    source: ByteSource
    store: ExpertStore
    budget: MemoryBudget
    sessions: dict[str, int] = field(default_factory=dict)  # session -> open connections
    idle_since: float = field(default_factory=time.monotonic)
    trunk: TrunkService | None = None
    trunk_bytes: int = 0  # reserved for it: its weights and its key-value cache
    lock: threading.Lock = field(default_factory=threading.Lock)
    offer: Offer = field(init=False)

    def __post_init__(self) -> None:
        source = self.source
        self.offer = KeptOffer(source) if isinstance(source, PeerSource) else SourceOffer(self.manifest, source)

    def size(self, values: int) -> int:
        """Bytes in memory of so many weights."""
        return values * self.dtype.itemsize

    def load(self, layer: int, experts: Sequence[int], pinned: dict[int, str]) -> dict[int, str]:
        """Load experts of one layer; returns the SHA-256 of each. What is held already is left as it is."""
        if not 0 <= layer < len(self.manifest.layers):
            raise InvalidRequest(f"layer {layer} is outside 0..{len(self.manifest.layers) - 1}")
        of_layer = self.manifest.layers[layer]
        bad = [expert for expert in experts if not 0 <= expert < of_layer.num_experts]
        if bad:
            raise InvalidRequest(f"layer {layer} has experts 0..{of_layer.num_experts - 1}, not {bad}")
        with self.lock:
            missing = sorted(set(experts) - set(self.store.held(layer)))
            if not missing:
                return {}
            need = self.size(sum(of_layer.expert_values(expert) for expert in missing))
            self.budget.reserve(need, f"{self.name}: {len(missing)} experts of layer {layer}")
            try:
                return self.store.load(layer, missing, self.source, pinned)
            except BaseException:
                self.budget.release(need)
                raise

    def drop(self, layer: int, experts: Sequence[int]) -> None:
        """Drop experts of one layer; the memory returns."""
        with self.lock:
            held = sorted(set(experts) & set(self.store.held(layer)))
            if held:
                self.store.drop(layer, held)
                of_layer = self.manifest.layers[layer]
                self.budget.release(self.size(sum(of_layer.expert_values(expert) for expert in held)))

    def held(self) -> dict[str, list[int]]:
        """Experts held, by layer, as JSON."""
        return {str(layer): list(self.store.held(layer)) for layer in range(len(self.manifest.layers))}

    def enter(self, session: str) -> None:
        """A connection of `session` uses this deployment."""
        self.sessions[session] = self.sessions.get(session, 0) + 1

    def leave(self, session: str) -> None:
        """A connection of `session` has ended."""
        count = self.sessions.get(session, 0) - 1
        if count > 0:
            self.sessions[session] = count
        else:
            self.sessions.pop(session, None)
            if not self.sessions:
                self.idle_since = time.monotonic()

    def close_trunk(self) -> None:
        """End the trunk, if there is one; its memory returns."""
        with self.lock:
            trunk, self.trunk = self.trunk, None
        if trunk is not None:
            trunk.close()
            self.budget.release(self.trunk_bytes)

    def close(self) -> None:
        """Free everything. Whoever is fetching stops."""
        if isinstance(self.source, PeerSource):
            self.source.close()
        self.close_trunk()
        for layer in range(len(self.manifest.layers)):
            self.drop(layer, self.store.held(layer))

    def stats(self) -> dict[str, Any]:
        """Figures for `info` and metrics."""
        return {
            "architecture": self.manifest.model_type,
            "layers": len(self.manifest.layers),
            "experts": sum(len(self.store.held(layer)) for layer in range(len(self.manifest.layers))),
            "expert_bytes": self.store.nbytes,
            "fetched_bytes": self.source.fetched_bytes if isinstance(self.source, PeerSource) else 0,
            "trunk": self.trunk.stats() if self.trunk is not None else None,
        }
