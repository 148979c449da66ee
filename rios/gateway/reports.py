"""Reports that are due, made and delivered while a gateway runs. Several gateways make each report once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rios.services.gate import Gate

_LOOK_S = 5.0


@contextmanager
def reporting(gate: Gate) -> Iterator[None]:
    """Until the block ends. What is under way then is made by the next process."""
    reports = gate.network._reports
    reports().start(look_s=_LOOK_S)
    try:
        yield
    finally:
        reports.close()
