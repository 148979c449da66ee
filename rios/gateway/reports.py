"""Reports that are due, made and delivered while a gateway runs. Several gateways make each report once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rios.services.gate import Gate
from rios.services.reports.elsewhere import on_workers
from rios.services.reports.opening import open_reports

_LOOK_S = 5.0


@contextmanager
def reporting(gate: Gate) -> Iterator[None]:
    """Until the block ends. What is under way then is made by the next process."""
    network = gate.network
    execute = on_workers(network._client)
    with open_reports(network._purse, network._settings, execute=execute) as reports:
        reports.start(look_s=_LOOK_S)
        yield
