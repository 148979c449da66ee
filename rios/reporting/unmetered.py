"""Hosts whose trunk can be told not to meter, so that the price of metering and billing shows.

Workers are given this class by RIOS_HOST_CLASS (`unmetered_hosts`); a trunk measures nothing for its clients while the
file `unmetered` is in the directory of flags. Its answers are the same.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from rios.dmoe.batching import Batch, Request
from rios.dmoe.host import Host
from rios.dmoe.layer_run import LayerRun
from rios.reporting import bench

FLAGS = "RIOS_UNMETERED_FLAGS"
_METER = Batch._meter
_ACCEPT = LayerRun._accept


class UnmeteredHost(Host):
    """A host as any other but for its trunk's metering, which the flag turns off from the next step on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        flag, off = Path(os.environ[FLAGS]) / "unmetered", False

        def meter(batch: Batch, work: Sequence[tuple[Request, list[int]]]) -> None:
            nonlocal off
            off = flag.exists()
            if not off:
                _METER(batch, work)

        def accept(
            run: LayerRun, host: str, mine: list[int], rows: npt.NDArray[np.int64], compute_ns: int, wire_bytes: int
        ) -> None:
            if off:
                run.left.difference_update(mine)
            else:
                _ACCEPT(run, host, mine, rows, compute_ns, wire_bytes)

        mock.patch.object(Batch, "_meter", meter).start()
        mock.patch.object(LayerRun, "_accept", accept).start()


@contextmanager
def unmetered_hosts(flags: Path) -> Iterator[None]:
    """Workers that are started inside stop metering while the directory `flags` has a file `unmetered`."""
    with mock.patch.dict(os.environ, {FLAGS: str(flags), "RIOS_HOST_CLASS": f"{__name__}:{UnmeteredHost.__name__}"}):
        yield


class _Nothing:
    """Charges nothing: no hold, no ledger, no tab."""

    user = "nobody"

    def request_id(self) -> str:
        return uuid.uuid4().hex

    def open(self, asked: Sequence[object], *_: object) -> list[None]:
        return [None] * len(asked)


class Cost:
    """Generations of a model with metering and billing, and without both; each answers (seconds, CPU seconds)."""

    def __init__(self, model: Any, pids: Sequence[int], flags: Path) -> None:
        """pids: of the hosts. flags: the directory given to `unmetered_hosts`."""
        self._billed = model
        self._free = model.charged_to(_Nothing())
        self._pids = tuple(pids)
        self._flag = flags / "unmetered"

    def billed(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
        """As anybody generates."""
        self._flag.unlink(missing_ok=True)
        return self._timed(lambda: self._billed.generate(prompts, max_new_tokens=new_tokens, ignore_eos=True))

    def free(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
        """Nothing is held, measured, rated or posted."""
        self._flag.touch()
        return self._timed(lambda: self._free.generate(prompts, max_new_tokens=new_tokens, ignore_eos=True))

    def _timed(self, work: Callable[[], object]) -> tuple[float, float]:
        cpu, began = bench.cpu_s(self._pids), time.perf_counter()
        work()
        return time.perf_counter() - began, bench.cpu_s(self._pids) - cpu
