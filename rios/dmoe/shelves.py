"""Where the experts of one layer lie in memory, and how their rows are computed there."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers.integrations.moe import _grouped_linear

from rios.dmoe.device import out_of_memory
from rios.words.errors import ExpertsUnavailable, InsufficientMemory

_ALIGNMENT_BYTES = 64
"""A cache line. The order of additions in a matrix product may depend on how its operands lie in memory, so
all of them begin on one: then the same rows give the same bits on every host, whatever else is computed with
them."""

_HUGE_PAGE_BYTES = 2 << 20


class Shelf(Protocol):
    """The experts of one layer on one device. `put` and `drop` are called by one thread at a time."""

    @property
    def held(self) -> Iterable[int]:
        """The experts that are on it."""

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""

    def put(self, experts: Sequence[int], tensors: Iterable[Mapping[str, Tensor]]) -> None:
        """Take the parameters of `experts`, in order; nothing is kept if `tensors` raises."""
        ...

    def drop(self, experts: Iterable[int]) -> None:
        """Keep these experts no longer; those that are not there are none."""

    def compute(self, hidden: Tensor, slot_rows: Tensor, experts: Sequence[int], counts: Sequence[int]) -> Tensor:
        """See `ExpertStore.compute`."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """How experts of one class compute: what `use_experts_implementation` was told about it."""

    shapes: Mapping[str, tuple[int, ...]]
    """Parameters of one expert."""
    up: str
    """Name of the first projection, which holds the gate too where there is one."""
    bias: bool
    transposed: bool
    """Weights are [in, out], not [out, in]."""
    between: Callable[[Tensor], Tensor]
    """From the first projection to the second: gate or activation. Rows are independent."""

    @classmethod
    def of(cls, module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Form:
        """The form of an experts module of transformers."""
        return cls(
            shapes=shapes,
            up="gate_up_proj" if module.has_gate else "up_proj",
            bias=bool(module.has_bias),
            transposed=bool(module.is_transposed),
            between=module._apply_gate if module.has_gate else module.act_fn,
        )


@dataclass(frozen=True, slots=True)
class _Slab:
    """One expert in memory of its own: dropping it gives the pages back, which an allocator need not do."""

    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    nbytes: int


class CpuShelf:
    """Experts in main memory, one linear pair per group: measured 5 % faster there than a grouped product.

    Weights of float32 lie as [in, out], whatever the checkpoint has: groups of 1, 2 and 3 rows of 512 through 960 take
    0.83, 0.73 and 0.76 of the time that they take as [out, in], larger ones the same. Others lie as [out, in]: in
    bfloat16 the other way took five times as long.
    """

    def __init__(self, form: Form, *, dtype: torch.dtype) -> None:
        self._form = form
        self._dtype = dtype
        self._slabs: dict[int, _Slab] = {}

    @property
    def held(self) -> Iterable[int]:
        return self._slabs

    @property
    def nbytes(self) -> int:
        return sum(slab.nbytes for slab in self._slabs.values())

    def put(self, experts: Sequence[int], tensors: Iterable[Mapping[str, Tensor]]) -> None:
        new = {expert: self._slab(found) for expert, found in zip(experts, tensors, strict=True)}
        self._slabs = self._slabs | new  # replaced whole: a thread that computes keeps the one it began with

    def drop(self, experts: Iterable[int]) -> None:
        gone = set(experts)
        self._slabs = {expert: slab for expert, slab in self._slabs.items() if expert not in gone}

    def compute(self, hidden: Tensor, slot_rows: Tensor, experts: Sequence[int], counts: Sequence[int]) -> Tensor:
        slabs, between = self._slabs, self._form.between
        groups = torch.split(hidden.index_select(0, slot_rows), list(counts))
        if hidden.shape[1] * hidden.element_size() % _ALIGNMENT_BYTES:
            groups = tuple(group.clone() for group in groups)
        outputs = []
        for expert, group in zip(experts, groups, strict=True):
            slab = slabs.get(expert)
            if slab is None:
                raise _unavailable(expert)
            middle = between(linear(group, slab.up, slab.up_bias))
            outputs.append(linear(middle, slab.down, slab.down_bias))
        return torch.cat(outputs) if outputs else torch.empty_like(hidden[:0])

    def _slab(self, found: Mapping[str, Tensor]) -> _Slab:
        sizes = {name: _aligned(found[name].numel() * self._dtype.itemsize) for name in self._form.shapes}
        nbytes = sum(sizes.values())
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise InsufficientMemory(f"no {nbytes} bytes for an expert: {error.strerror}") from error
        if nbytes >= _HUGE_PAGE_BYTES:
            with contextlib.suppress(OSError):  # 3 to 5 % at few rows; a kernel may be built without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        views = {}
        offset = 0
        weights = (self._form.up, "down_proj")
        turned = (self._dtype is torch.float32) != self._form.transposed  # whether it lies otherwise than it comes
        for name, size in sizes.items():
            tensor = found[name].t() if turned and name in weights else found[name]
            view = torch.frombuffer(memory, dtype=self._dtype, count=tensor.numel(), offset=offset)
            views[name] = view.view(tensor.shape).copy_(tensor)
            offset += size
        up, down = (views[name].t() if self._dtype is torch.float32 else views[name] for name in weights)
        return _Slab(
            up=up,
            up_bias=views[f"{weights[0]}_bias"] if self._form.bias else None,
            down=down,
            down_bias=views[f"{weights[1]}_bias"] if self._form.bias else None,
            nbytes=nbytes,
        )


class GroupedShelf:
    """Experts in device memory: one bank per `put`, one grouped product per bank and projection."""

    def __init__(self, form: Form, *, dtype: torch.dtype, device: torch.device) -> None:
        self._form = form
        self._dtype = dtype
        self._device = device
        self._banks: tuple[_Bank, ...] = ()

    @property
    def held(self) -> Iterable[int]:
        return [expert for bank in self._banks for expert in bank.rows]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for bank in self._banks for tensor in bank.tensors.values())

    def put(self, experts: Sequence[int], tensors: Iterable[Mapping[str, Tensor]]) -> None:
        if not experts:
            return
        try:
            bank = {
                name: torch.empty((len(experts), *shape), dtype=self._dtype, device=self._device)
                for name, shape in self._form.shapes.items()
            }
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise InsufficientMemory(f"no memory on {self._device} for {len(experts)} experts") from error
        for row, found in enumerate(tensors):
            for name, rows in bank.items():
                rows[row].copy_(found[name])
        self.drop(experts)
        self._complete()
        self._banks = (*self._banks, _Bank({expert: row for row, expert in enumerate(experts)}, bank))

    def drop(self, experts: Iterable[int]) -> None:
        gone = set(experts)
        banks = tuple(kept for bank in self._banks if (kept := bank.without(gone)) is not None)
        self._complete()
        self._banks = banks

    def _complete(self) -> None:
        """Wait for what this thread has queued: others compute on streams of their own, which would not."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _in_use(self, bank: _Bank) -> None:
        """Memory of a bank that is dropped now goes to nobody else before this thread's stream has read it."""
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            for tensor in bank.tensors.values():
                tensor.record_stream(stream)

    def compute(self, hidden: Tensor, slot_rows: Tensor, experts: Sequence[int], counts: Sequence[int]) -> Tensor:
        banks = self._banks
        begins = [0, *accumulate(counts)]
        out = torch.empty((len(slot_rows), hidden.shape[1]), dtype=hidden.dtype, device=hidden.device)
        found = 0
        for bank in banks:
            mine = sorted((bank.rows[e], begins[g], counts[g]) for g, e in enumerate(experts) if e in bank.rows)
            found += len(mine)
            if not mine:
                continue
            self._in_use(bank)
            slots = [slot for _, begin, count in mine for slot in range(begin, begin + count)]
            per_row = [0] * len(bank.rows)
            for row, _, count in mine:
                per_row[row] += count
            if slots == list(range(len(slot_rows))):
                return self._product(bank, hidden.index_select(0, slot_rows), per_row)
            where = torch.tensor(slots, device=hidden.device)
            rows = hidden.index_select(0, slot_rows.index_select(0, where))
            out.index_copy_(0, where, self._product(bank, rows, per_row))
        if found != len(experts):
            held = {expert for bank in banks for expert in bank.rows}
            raise _unavailable(next(expert for expert in experts if expert not in held))
        return out

    def _product(self, bank: _Bank, rows: Tensor, per_row: Sequence[int]) -> Tensor:
        form = self._form
        ends = torch.tensor(list(accumulate(per_row)), dtype=torch.int32, device=rows.device)
        # One bias per row of the input, as transformers' own grouped product takes it.
        of_row = None
        if form.bias:
            of_row = torch.repeat_interleave(torch.tensor(per_row, device=rows.device), output_size=len(rows))
        for name, then in ((form.up, form.between), ("down_proj", None)):
            bias = None if of_row is None else bank.tensors[f"{name}_bias"].index_select(0, of_row)
            rows = _grouped_linear(rows, bank.tensors[name], ends, bias=bias, is_transposed=form.transposed)
            rows = rows if then is None else then(rows)
        return rows


@dataclass(frozen=True, slots=True)
class _Bank:
    rows: Mapping[int, int]
    """Expert to row."""
    tensors: Mapping[str, Tensor]
    """Parameters, stacked over the rows."""

    def without(self, gone: set[int]) -> _Bank | None:
        """This bank compacted: one parameter at a time, so that only one is ever held twice."""
        kept = [expert for expert in self.rows if expert not in gone]
        if len(kept) == len(self.rows):
            return self
        if not kept:
            return None
        index = [self.rows[expert] for expert in kept]
        return _Bank(
            {expert: row for row, expert in enumerate(kept)},
            {name: tensor[index] for name, tensor in self.tensors.items()},
        )


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _unavailable(expert: int) -> ExpertsUnavailable:
    return ExpertsUnavailable(f"expert {expert} is not held by this host")
