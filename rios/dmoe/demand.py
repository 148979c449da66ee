"""What the planner is asked: the workers, the experts with their sizes and loads, and both checked and laid flat."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rios.words.errors import InvalidRequest, NoWorkers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# An expert that no token chose while the load was measured still needs a home, and all of them in one place would be
# a poor guess about the next minute: for placing, each counts for at least this part of its layer's mean.
_LEAST_PART_OF_MEAN = 0.01


@dataclass(frozen=True, slots=True)
class Worker:
    """A place for experts: its name, its machine (what fails and fills up together), free bytes and relative speed."""

    name: str
    machine: str
    memory_bytes: int
    speed: float


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """The experts to place.

    expert_bytes: int [layers, experts], or one array per layer where layers differ; in a rectangle, -1 (or any negative
        size) pads the shorter layers at their end.
    load: float, the same shape: rows per second, tokens counted, or all ones. Only the proportions matter.
    coactivation: per layer, float [experts, experts]: how often two experts served the same token (symmetric; the
        diagonal is not read), or None for a layer without counts.
    """

    expert_bytes: NDArray[np.int64] | Sequence[NDArray[np.int64]]
    load: NDArray[np.float64] | Sequence[NDArray[np.float64]]
    coactivation: Sequence[NDArray[np.float64] | None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A demand and its workers, checked, with the experts of all layers in one flat order (layer by layer).

    `load` is what was measured, `pull` what placing goes by: the same with a small least value. `ideal` is the load per
    unit of speed if all were perfectly shared, `layer_ideal` the same for each layer; both in units of `pull`.
    """

    workers: tuple[Worker, ...]
    first: tuple[int, ...]  # flat index of each layer's first expert, and the total at the end
    layer: Ints
    size_bytes: Ints
    load: Floats
    pull: Floats
    coactivation: tuple[Floats | None, ...]
    memory_bytes: Ints
    speed: Floats
    machine: Ints
    machines: int
    ideal: float
    layer_ideal: Floats
    fingerprint: str

    @property
    def experts(self) -> int:
        """Experts of all layers together."""
        return len(self.layer)

    @property
    def layers(self) -> int:
        """Layers that have experts."""
        return len(self.first) - 1

    def name(self, flat: int) -> str:
        """An expert for people: "expert 3 of layer 1"."""
        layer = int(self.layer[flat])
        return f"expert {flat - self.first[layer]} of layer {layer}"


def pose(workers: Sequence[Worker], demand: Demand, *, replicas: int | None, least: int = 1) -> Problem:
    """Check what was asked and lay it flat. Raises InvalidRequest naming the field, the value and the bound."""
    _check_workers(workers, replicas if replicas is not None else least)
    sizes, loads = _rows(demand)
    counts = [len(row) for row in sizes]
    first = np.concatenate(([0], np.cumsum(counts)))
    layer = np.repeat(np.arange(len(counts)), counts)
    load = np.concatenate(loads)
    pull = np.concatenate(_pulls(loads))
    names = {name: index for index, name in enumerate(dict.fromkeys(worker.machine for worker in workers))}
    speed = np.array([worker.speed for worker in workers], dtype=np.float64)
    memory = np.array([worker.memory_bytes for worker in workers], dtype=np.int64)
    coactivation = _coactivation(demand, counts)
    size_bytes = np.concatenate(sizes)
    digest = hashlib.sha256(repr((tuple(workers), replicas, least, counts)).encode())
    for array in (size_bytes, load, *(counts_of for counts_of in coactivation if counts_of is not None)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Problem(
        workers=tuple(workers),
        first=tuple(int(offset) for offset in first),
        layer=layer.astype(np.int64),
        size_bytes=size_bytes,
        load=load,
        pull=pull,
        coactivation=coactivation,
        memory_bytes=memory,
        speed=speed,
        machine=np.array([names[worker.machine] for worker in workers], dtype=np.int64),
        machines=len(names),
        ideal=float(pull.sum() / speed.sum()),
        layer_ideal=np.bincount(layer, weights=pull, minlength=len(counts)) / speed.sum(),
        fingerprint=digest.hexdigest(),
    )


def _check_workers(workers: Sequence[Worker], copies: int) -> None:
    if not workers:
        raise NoWorkers("there is no worker to place experts on: start at least one")
    seen: set[str] = set()
    for worker in workers:
        if worker.name in seen:
            raise InvalidRequest(f"two workers are called {worker.name!r}: names must differ")
        seen.add(worker.name)
        if not (math.isfinite(worker.speed) and worker.speed > 0):
            raise InvalidRequest(f"speed of worker {worker.name!r} is {worker.speed}: it must be finite and above 0")
        if worker.memory_bytes < 0:
            raise InvalidRequest(
                f"memory_bytes of worker {worker.name!r} is {worker.memory_bytes}: it must be at least 0"
            )
    if copies < 1:
        raise InvalidRequest(f"replicas is {copies}: it must be at least 1, or None to let the load decide")
    if copies > len(workers):
        raise InvalidRequest(
            f"replicas is {copies}, but there are {len(workers)} workers and no worker holds an expert twice: "
            f"ask for at most {len(workers)}, or add workers"
        )


def _rows(demand: Demand) -> tuple[list[Ints], list[Floats]]:
    """One array of sizes and one of loads per layer, padding cut off."""
    if len(demand.expert_bytes) == 0:
        raise InvalidRequest("expert_bytes has no layer: a demand needs at least one")
    if len(demand.expert_bytes) != len(demand.load):
        raise InvalidRequest(f"load has {len(demand.load)} layers, expert_bytes has {len(demand.expert_bytes)}")
    sizes: list[Ints] = []
    loads: list[Floats] = []
    for index, (size_row, load_row) in enumerate(zip(demand.expert_bytes, demand.load, strict=True)):
        size = np.asarray(size_row, dtype=np.int64)
        load = np.asarray(load_row, dtype=np.float64)
        if size.ndim != 1 or size.shape != load.shape:
            raise InvalidRequest(
                f"layer {index}: expert_bytes has shape {size.shape}, load {load.shape}; want one row each"
            )
        count = int((size >= 0).sum())
        if count == 0 or (size[:count] < 0).any():
            raise InvalidRequest(f"layer {index}: expert_bytes must be sizes first, then negative padding if any")
        size, load = size[:count], load[:count]
        if not np.isfinite(load).all() or (load < 0).any():
            raise InvalidRequest(f"layer {index}: load must be finite and at least 0, for every expert")
        sizes.append(size)
        loads.append(load)
    return sizes, loads


def _pulls(loads: list[Floats]) -> list[Floats]:
    busy = [float(row.mean()) for row in loads if row.any()]
    usual = sum(busy) / len(busy) if busy else 1.0
    return [np.maximum(row, _LEAST_PART_OF_MEAN * (float(row.mean()) or usual)) for row in loads]


def _coactivation(demand: Demand, counts: list[int]) -> tuple[Floats | None, ...]:
    if demand.coactivation is None:
        return (None,) * len(counts)
    if len(demand.coactivation) != len(counts):
        raise InvalidRequest(f"coactivation has {len(demand.coactivation)} layers, expert_bytes has {len(counts)}")
    checked: list[Floats | None] = []
    for index, (matrix, count) in enumerate(zip(demand.coactivation, counts, strict=True)):
        if matrix is None:
            checked.append(None)
            continue
        table = np.array(matrix, dtype=np.float64)
        if table.shape != (count, count) or not np.isfinite(table).all() or (table < 0).any():
            raise InvalidRequest(
                f"layer {index}: coactivation must be [{count}, {count}], finite and at least 0; shape is {table.shape}"
            )
        np.fill_diagonal(table, 0.0)
        checked.append(table)
    return tuple(checked)
