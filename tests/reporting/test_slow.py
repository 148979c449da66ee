"""A host made slow says so to nobody: it sleeps as its flag says, and answers the same."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from rios.dmoe.calls import Exec
from rios.reporting.slow import FLAGS, SlowHost, make_slow


def test_it_sleeps_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLAGS, str(tmp_path))
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    host = cast(Any, SlowHost.__new__(SlowHost))
    host.name = "worker-1"
    call, output = cast(Exec, SimpleNamespace(experts=[1, 2, 3], slot_rows=range(10))), torch.zeros(1)
    assert host.reply(call, output) is output
    assert slept == []
    stats = {"links": {"worker-1": {"usual_s": (1e-3, 1e-4, 1e-5)}}}
    model = SimpleNamespace(_deployment=SimpleNamespace(trunk_stats=lambda: stats))
    make_slow(tmp_path, model, "worker-1")
    assert host.reply(call, output) is output
    assert slept == [pytest.approx(9 * (1e-3 + 3e-4 + 1e-4))]
