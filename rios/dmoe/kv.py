"""The key-value cache of a trunk: one padded pool for requests that share a forward, or one cache per request.

In the pool a request is a row and a token's position is its index, left-aligned. Rows in use are 0 .. n-1 without a
hole, so a step reads and writes views of the pool and copies only the new tokens. Cells that hold no token are zero:
attention gives them a weight of exactly 0, and 0 times what a departed request left (an infinity, at worst) must be 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin

from rios.words.errors import InsufficientMemory

# Rows double up to this many at a time; positions grow by half, in whole chunks, up to this many at a time.
_ROWS_STEP = 8
_CHUNK = 64
_CHUNKS_STEP = 16


@dataclass(slots=True, eq=False)
class Slot:
    """A request's place in the cache. Only `Trunk.open`, `step` and `close` change it."""

    capacity: int
    """Tokens it may hold at most."""
    length: int = 0
    """Tokens it holds."""
    row: int = -1
    """Its row in the pool; -1 where it has a cache of its own."""
    touched: int = 0
    """Cells of its row that may differ from zero: `length`, or more after a step that failed."""
    cache: Cache | None = None
    """Its own cache, where requests do not share a pool: what the model makes at the first forward."""
    state: str = "open"
    """"open", "closed", or "lost": a step failed half-way through layers whose cache cannot be taken back."""


@dataclass(slots=True)
class Plan:
    """Where the tokens of one forward go. `low` to `high` are the rows, in the order of the batch."""

    low: int = 0
    high: int = 0
    start: int = 0
    """Position of the first new token; of the furthest row's, where rows differ."""
    stop: int = 0
    """Positions that attention sees."""
    width: int = 0
    """New tokens per row, with padding."""
    order: list[int] = field(default_factory=list)
    """Row b of the batch is for the request `order[b]`."""
    aligned: bool = True
    """All rows start at the same position: plain causal attention is exact, as padding comes after."""
    full: bool = True
    """All rows have `width` new tokens: no padding."""
    into: tuple[Any, ...] | None = None
    """Index of the cells to write; None: `start` to `stop` of every row."""
    valid: tuple[Any, ...] | None = None
    """Index of the new tokens among the padded ones, in the order of `into`."""


# Of the forward that runs: several are under way at a time where they ask for experts together.
_running: ContextVar[Plan] = ContextVar("rios_plan")


@dataclass(slots=True)
class _Shape:
    rows: int = 0
    positions: int = 0
    fill: float = 0.0


class PoolLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, [rows, heads, positions, dim]; the two may differ in heads and dim."""

    is_sliding = False

    def __init__(self, shape: _Shape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shape = shape

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make tensors of the pool's shape, as the first forward shows their heads and dim."""
        self.keys = self._empty(key_states)
        self.values = self._empty(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, [batch, heads, new, dim]; those that attention is to see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.tensors()
        return self._put(keys, key_states), self._put(values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the mask covers, and where they begin."""
        return _running.get().stop, 0

    def get_seq_length(self) -> int:
        """Positions before the new tokens."""
        return _running.get().start

    def get_max_length(self) -> int:
        """-1: it grows."""
        return -1

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(cells.nbytes for cells in self.tensors())

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position of one row; 0 before the first forward."""
        return sum(cells.nbytes // (cells.shape[0] * cells.shape[2]) for cells in self.tensors())

    def resize(self, rows: int, positions: int) -> None:
        """Take the pool's new shape; the first `rows` and `positions` keep what they hold."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._empty(old)
            new[:rows, :, :positions] = old[:rows, :, :positions]
            setattr(self, name, new)

    def free(self) -> None:
        """Give the memory back."""
        self.keys = self.values = None
        self.is_initialized = False

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values; nothing before the first forward."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    def _empty(self, like: Tensor) -> Tensor:
        shape = (self._shape.rows, like.shape[1], self._shape.positions, like.shape[3])
        try:
            if self._shape.fill:
                return torch.full(shape, self._shape.fill, dtype=like.dtype, device=like.device)
            return torch.zeros(shape, dtype=like.dtype, device=like.device)  # resident only where it is written
        except RuntimeError as error:  # torch's allocators; torch.OutOfMemoryError is one too
            raise InsufficientMemory(
                f"a key-value cache of {shape[0]} requests by {shape[2]} tokens does not fit ({error});"
                " take fewer or shorter requests at a time"
            ) from error

    def _put(self, cells: Tensor, states: Tensor) -> Tensor:
        plan = _running.get()
        rows = cells[plan.low : plan.high]
        if plan.into is None:
            rows[:, :, plan.start : plan.stop] = states
        else:
            rows[plan.into] = states[:, :, 0] if plan.width == 1 else states[plan.valid]
        return rows[:, :, : plan.stop]


class Pool(Cache):
    """The cache that several requests share, a row each.

    `fill` is what cells hold that no token was written to: other than 0 only to see whether it leaks.
    """

    def __init__(self, layers: int, device: torch.device, *, fill: float = 0.0) -> None:
        self.cells_max: int | None = None
        """Positions of all rows together from which on it holds no more than it needs."""
        self._device = device
        self._shape = _Shape(fill=fill)
        self._rows: list[Slot] = []
        self._own = [PoolLayer(self._shape) for _ in range(layers)]
        super().__init__(layers=list(self._own))

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(layer.nbytes for layer in self._own)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position of one row; 0 before the first forward."""
        return sum(layer.bytes_per_token for layer in self._own)

    def open(self, capacity: int) -> Slot:
        """A row for a request that needs up to `capacity` positions."""
        slot = Slot(capacity=capacity, row=len(self._rows))
        self._rows.append(slot)
        return slot

    @torch.inference_mode()
    def close(self, slot: Slot) -> None:
        """Free the row of `slot`; the last row moves into the hole."""
        last = self._rows.pop()
        if not self._rows:
            self._reshape(0, 0)
            return
        if last is not slot:
            if last.touched:  # else it may have no row in the tensors yet
                for cells in self._tensors():
                    cells[slot.row, :, : last.touched] = cells[last.row, :, : last.touched]
            self._clear(slot.row, last.touched, slot.touched)
            slot.row, slot.touched, last.row = last.row, last.touched, slot.row
            self._rows[last.row] = last
        self._clear(slot.row, 0, slot.touched)
        if len(self._rows) * 4 <= self._shape.rows:  # shrinks late, so as not to grow again at the next request
            self._fit(len(self._rows) * 2, max(other.touched for other in self._rows))

    @torch.inference_mode()
    def plan(self, groups: Sequence[tuple[Sequence[Slot], Sequence[int]]]) -> list[Plan]:
        """Make ready for a forward of each group's slots, with so many new tokens for each; they may run in any order.

        Raises InsufficientMemory.
        """
        self._grow(max(slot.length + count for group in groups for slot, count in zip(*group, strict=True)))
        lows = self._side_by_side([slots for slots, _ in groups])
        return [self._planned(slots, counts, low) for (slots, counts), low in zip(groups, lows, strict=True)]

    def use(self, plan: Plan) -> None:
        """The forward that begins is this one."""
        _running.set(plan)

    def _planned(self, slots: Sequence[Slot], counts: Sequence[int], low: int) -> Plan:
        plan = Plan()
        plan.low = low
        plan.high = low + len(slots)
        plan.order = sorted(range(len(slots)), key=lambda i: slots[i].row)
        plan.start = max(slot.length for slot in slots)
        plan.stop = max(slot.length + count for slot, count in zip(slots, counts, strict=True))
        plan.width = max(counts)
        plan.aligned = all(slot.length == plan.start for slot in slots)
        plan.full = min(counts) == plan.width
        if not (plan.aligned and plan.full):
            row, column, position = _tokens([slots[i].length for i in plan.order], [counts[i] for i in plan.order])
            index = torch.from_numpy(np.stack((row, column, position))).to(self._device)
            plan.into = (index[0], slice(None), index[2])
            plan.valid = (index[0], slice(None), index[1])
        for slot, count in zip(slots, counts, strict=True):
            slot.touched = max(slot.touched, slot.length + count)
        return plan

    def _side_by_side(self, groups: Sequence[Sequence[Slot]]) -> list[int]:
        """Make the rows of each group neighbours; returns the lowest row of each."""
        if len(groups) == 1:
            return [self._together(groups[0])]
        rows = [sorted(slot.row for slot in slots) for slots in groups]
        if all(mine[-1] - mine[0] == len(mine) - 1 for mine in rows):
            return [mine[0] for mine in rows]
        lows, low = [0] * len(groups), 0
        for place in sorted(range(len(groups)), key=lambda place: sum(rows[place]) / len(rows[place])):
            lows[place] = low
            self._gather(sorted(slot.row for slot in groups[place]), low)  # where those before have left them
            low += len(groups[place])
        return lows

    def _together(self, slots: Sequence[Slot]) -> int:
        """Make the rows of `slots` neighbours, with as few swaps as can be; returns the lowest row."""
        rows = sorted(slot.row for slot in slots)
        count = len(rows)
        if rows[-1] - rows[0] == count - 1:
            return rows[0]
        limit = len(self._rows) - count
        _, low = max((bisect_left(rows, a + count) - i, a) for i, a in _windows(rows, limit))
        self._gather(rows, low)
        return low

    def _gather(self, rows: Sequence[int], low: int) -> None:
        """Bring what is in `rows` to those from `low` on; what was there takes the places that become free."""
        high = low + len(rows)
        wanted = set(rows)
        outside = [row for row in rows if not low <= row < high]
        intruders = [row for row in range(low, high) if row not in wanted]
        for mine, theirs in zip(outside, intruders, strict=True):
            self._swap(mine, theirs)

    def _swap(self, a: int, b: int) -> None:
        first, second = self._rows[a], self._rows[b]
        kept = max(first.touched, second.touched)
        for cells in self._tensors():
            held = cells[a, :, :kept].clone()
            cells[a, :, :kept] = cells[b, :, :kept]
            cells[b, :, :kept] = held
        first.row, second.row = b, a
        self._rows[a], self._rows[b] = second, first

    def _grow(self, positions: int) -> None:
        shape, rows = self._shape, len(self._rows)
        if rows <= shape.rows and positions <= shape.positions:
            return
        needed = max(positions, *(slot.touched for slot in self._rows))
        most_rows, most = max(rows, shape.rows), max(positions, shape.positions)
        if rows > shape.rows:
            most_rows = max(rows, min(shape.rows * 2, shape.rows + _ROWS_STEP))
        if positions > shape.positions:
            most = max(positions, shape.positions + min(shape.positions // 2, _CHUNK * _CHUNKS_STEP))
        if self.cells_max is None or most_rows * most <= self.cells_max:
            self._fit(most_rows, most)
        else:  # what is needed, and nothing of what was there for others
            self._fit(rows, needed)

    def _fit(self, rows: int, positions: int) -> None:
        self._reshape(rows, -(-positions // _CHUNK) * _CHUNK)

    def _reshape(self, rows: int, positions: int) -> None:
        if not rows:
            self._shape.rows = self._shape.positions = 0
            for layer in self._own:
                layer.free()
            return
        kept = min(rows, self._shape.rows), min(positions, self._shape.positions)
        self._shape.rows, self._shape.positions = rows, positions
        try:
            for layer in self._own:
                layer.resize(*kept)
        except InsufficientMemory:
            self._shape.rows, self._shape.positions = kept  # what every layer has, resized or not
            raise

    def _clear(self, row: int, start: int, stop: int) -> None:
        if start < stop:
            for cells in self._tensors():
                cells[row, :, start:stop] = self._shape.fill

    def _tensors(self) -> Iterator[Tensor]:
        for layer in self._own:
            yield from layer.tensors()


def _tokens(starts: Sequence[int], counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and position of each token of a ragged batch, row after row (int64)."""
    number = np.asarray(counts)
    row = np.repeat(np.arange(len(number)), number)
    column = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
    return row, column, column + np.asarray(starts)[row]


def _windows(rows: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Index of the first of `rows` inside each window worth trying, and the row that the window starts at."""
    for row in rows:
        start = min(row, limit)
        yield bisect_left(rows, start), start


def own_nbytes(held: object) -> int:
    """Bytes of every tensor in one request's cache: keys and values, and whatever states its layers keep beside."""
    if isinstance(held, Tensor):
        return held.nbytes
    if isinstance(held, Cache | CacheLayerMixin | LinearAttentionCacheLayerMixin):
        held = vars(held)
    if isinstance(held, dict):
        held = list(held.values())
    return sum(own_nbytes(part) for part in held) if isinstance(held, list | tuple) else 0
