from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from rios.dmoe.kv import Plan, Pool, Slot, own_nbytes
from rios.words.errors import InsufficientMemory

torch.set_num_threads(1)
LAYERS, HEADS, KEY, VALUE = 2, 3, 4, 6
CPU = torch.device("cpu")


def cells(request: int, start: int, stop: int, layer: int, dim: int) -> torch.Tensor:
    """Unlike numbers for every request, position, layer, head and coordinate, [HEADS, stop - start, dim]."""
    position = torch.arange(start, stop).view(1, -1, 1) * 1000.0
    inner = torch.arange(HEADS).view(-1, 1, 1) * 10.0 + torch.arange(dim).view(1, 1, -1)
    return position + inner + request * 1e5 + layer * 500.0 + dim * 0.25


@dataclass
class Driver:
    """A pool with a model's part played: each forward writes numbers that tell whose they are."""

    pool: Pool = field(default_factory=lambda: Pool(LAYERS, CPU))
    slots: dict[int, Slot] = field(default_factory=dict)

    def open(self, request: int) -> None:
        self.slots[request] = self.pool.open(10**6)

    def close(self, request: int) -> None:
        self.pool.close(self.slots.pop(request))

    def forward(self, work: dict[int, int], *, keep: bool = True) -> None:
        """New tokens for some requests; checks what attention would see."""
        self.forwards([work], keep=keep)

    @torch.inference_mode()
    def forwards(self, groups: list[dict[int, int]], *, keep: bool = True) -> None:
        """Several forwards in step: each layer of all of them before the next."""
        plans = self.pool.plan([([self.slots[request] for request in work], list(work.values())) for work in groups])
        for layer in range(LAYERS):
            for work, plan in zip(groups, plans, strict=True):
                self.pool.use(plan)
                self._check(work, plan, layer, keep)
        for work in groups:
            for request, count in work.items():
                self.slots[request].length += count if keep else 0

    def _check(self, work: dict[int, int], plan: Plan, layer: int, keep: bool) -> None:
        order = [list(work)[i] for i in plan.order]
        starts = {request: self.slots[request].length for request in order}
        new = [
            torch.stack(
                [self._new(request, starts[request], work[request], plan.width, layer, dim) for request in order]
            )
            for dim in (KEY, VALUE)
        ]
        for seen, dim in zip(self.pool.update(*new, layer), (KEY, VALUE), strict=True):
            assert seen.shape == (len(order), HEADS, plan.stop, dim)
            for row, request in zip(seen, order, strict=True):
                stop = starts[request] + work[request]
                assert torch.equal(row[:, :stop], cells(request, 0, stop, layer, dim))
                assert not keep or not row[:, stop:].any()

    @staticmethod
    def _new(request: int, start: int, count: int, width: int, layer: int, dim: int) -> torch.Tensor:
        padded = torch.full((HEADS, width, dim), torch.nan)
        padded[:, :count] = cells(request, start, start + count, layer, dim)
        return padded


def sizes(pool: Pool) -> tuple[int, int]:
    keys = pool.layers[0].keys
    return (keys.shape[0], keys.shape[2]) if keys is not None else (0, 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_request_sees_its_own_tokens_and_zeros(data: Any) -> None:
    driver, opened = Driver(), 0
    for _ in range(data.draw(st.integers(3, 14))):
        alive = sorted(driver.slots)
        action = data.draw(st.sampled_from(["open", "step", "step", "step", "close", "failed"]))
        if action == "open" or not alive:
            driver.open(opened)
            opened += 1
        elif action == "close":
            driver.close(data.draw(st.sampled_from(alive)))
        else:
            chosen = data.draw(st.lists(st.sampled_from(alive), min_size=1, unique=True))
            counts = data.draw(st.sampled_from([st.just(1), st.integers(1, 5), st.integers(1, 70)]))
            groups: dict[int, dict[int, int]] = {}
            for request in chosen:
                groups.setdefault(data.draw(st.integers(0, 2)), {})[request] = data.draw(counts)
            driver.forwards(list(groups.values()), keep=action == "step")
            if action == "failed":  # the same tokens again, as after an error in the experts
                driver.forward({request: data.draw(counts) for request in chosen}, keep=False)
                for request in chosen:
                    driver.close(request)
    for request in list(driver.slots):
        driver.close(request)
    assert driver.pool.nbytes == 0


def test_memory_is_taken_as_requests_fill_and_returns_with_the_last() -> None:
    driver = Driver()
    driver.open(0)
    assert driver.pool.nbytes == 0
    driver.forward({0: 5})
    assert sizes(driver.pool) == (1, 64)
    assert driver.pool.nbytes == 64 * driver.pool.bytes_per_token
    assert driver.pool.bytes_per_token == LAYERS * HEADS * (KEY + VALUE) * 4
    driver.forward({0: 60})
    assert sizes(driver.pool) == (1, 128)
    for request in range(1, 9):
        driver.open(request)
    driver.forward(dict.fromkeys(range(9), 1))
    assert sizes(driver.pool) == (9, 128)
    for request in range(9):
        driver.close(request)
    assert driver.pool.nbytes == 0


def test_the_pool_shrinks_when_few_are_left() -> None:
    driver = Driver()
    for request in range(16):
        driver.open(request)
    driver.forward({0: 300} | dict.fromkeys(range(1, 16), 3))
    full = driver.pool.nbytes
    for request in range(13):
        driver.close(request)
    assert driver.pool.nbytes < full / 4
    driver.forward(dict.fromkeys((13, 14, 15), 2))


def test_a_bounded_pool_holds_what_is_needed_and_no_more() -> None:
    """Nine short requests after a long one: neither twice the rows nor the long one's positions."""
    driver = Driver()
    driver.pool.cells_max = 9 * 128
    driver.open(0)
    driver.forward({0: 500})
    driver.open(1)
    driver.forward({1: 60})
    driver.close(0)
    for request in range(2, 10):
        driver.open(request)
        driver.forward({1: 1, request: 40})
        rows, positions = sizes(driver.pool)
        assert rows * positions <= driver.pool.cells_max
    driver.forward(dict.fromkeys(range(1, 10), 1))
    assert sizes(driver.pool) == (9, 128)


def test_growth_is_by_more_than_a_token_at_a_time() -> None:
    driver = Driver()
    driver.open(0)
    shapes = set()
    for _ in range(400):
        driver.forward({0: 1})
        shapes.add(sizes(driver.pool))
    assert len(shapes) <= 6


def test_a_step_of_all_rows_swaps_none_and_of_scattered_rows_few() -> None:
    driver = Driver()
    for request in range(6):
        driver.open(request)
    driver.forward(dict.fromkeys(range(6), 2))
    driver.forward(dict.fromkeys((5, 3, 4, 0, 2, 1), 1))
    assert [driver.slots[request].row for request in range(6)] == list(range(6))
    driver.forward(dict.fromkeys((0, 1, 3, 4, 5), 1))
    assert sorted(driver.slots[request].row for request in (0, 1, 3, 4, 5)) in ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert sum(driver.slots[request].row != request for request in range(6)) == 2


def test_forwards_in_step_leave_rows_where_they_are_when_they_can() -> None:
    driver = Driver()
    for request in range(6):
        driver.open(request)
    driver.forwards([dict.fromkeys((0, 1, 2, 3), 1), {5: 9}])
    driver.forwards([{5: 9}, dict.fromkeys((0, 1, 2, 3), 1), {4: 2}])
    assert [driver.slots[request].row for request in range(6)] == list(range(6))
    driver.forwards([dict.fromkeys((0, 1, 3, 4, 5), 1), {2: 9}])
    assert driver.slots[2].row in (0, 5)
    rows = [driver.slots[request].row for request in range(6)]
    driver.forwards([dict.fromkeys((0, 1, 3, 4, 5), 1), {2: 9}])
    assert [driver.slots[request].row for request in range(6)] == rows


@torch.inference_mode()
def test_what_a_departed_request_left_is_gone() -> None:
    """A weight of 0 times an infinity would be NaN."""
    driver = Driver()
    for request in range(3):
        driver.open(request)
    driver.forward({0: 40, 1: 50, 2: 30})
    for layer in driver.pool.layers:
        for held in layer.tensors():
            held[0, :, :40] = torch.inf
    driver.close(0)
    driver.open(3)
    driver.forward({1: 1, 2: 1, 3: 1})


def test_what_does_not_fit_is_refused_and_the_pool_goes_on() -> None:
    driver = Driver()
    driver.open(0)
    driver.forward({0: 3})
    before = driver.pool.nbytes
    with pytest.raises(InsufficientMemory, match=r"cache of 1 requests by 10{12}\d+ tokens does not fit"):
        driver.pool.plan([([driver.slots[0]], [10**15])])
    assert driver.pool.nbytes == before
    driver.forward({0: 3})


def test_own_nbytes_counts_every_tensor_of_a_cache() -> None:
    cache = DynamicCache()
    assert own_nbytes(None) == own_nbytes(cache) == 0
    cache.update(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 8), 0)
    assert own_nbytes(cache) == 2 * 5 * 12 * 4
    cache.layers[0].states = {0: torch.zeros(3), 1: [torch.zeros(2, dtype=torch.int64), None]}
    assert own_nbytes(cache) == 2 * 5 * 12 * 4 + 12 + 16
