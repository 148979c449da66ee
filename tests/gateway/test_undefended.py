"""The tests of attacks are worth something: without its defence, the test of an attack fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import ROOT
from tests.gateway.undefended import CASES, Case, mend

# An answer that should have been refused lacks the words of a refusal; and there may be none at all.
FAILED = (AssertionError, KeyError, TimeoutError, pytest.fail.Exception)
_WAIT_S = 3.0


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.defence.replace(" ", "-"))
def test_an_attack_succeeds_without_its_defence(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """First with the defence, so that the test fails for its want and nothing else."""
    (tmp_path / "with").mkdir()
    with case.door(tmp_path / "home", defended=True) as door:
        case.attack(door, tmp_path / "with")
    (tmp_path / "without").mkdir()
    connect = socket.create_connection
    try:
        case.off(monkeypatch)
        monkeypatch.setattr(socket, "create_connection", lambda place, timeout=None, **more: connect(
            place, None if timeout is None else min(timeout, _WAIT_S), **more
        ))  # fmt: skip
        with case.door(tmp_path / "open", defended=False) as door, pytest.raises(FAILED):
            case.attack(door, tmp_path / "without")
    finally:
        monkeypatch.undo()
        mend()


def test_each_of_them_is_in_the_threat_model() -> None:
    said: Any = (ROOT / "SECURITY.md").read_text()
    missing = [case.defence for case in CASES if f"| {case.defence} |" not in said]
    assert not missing, "SECURITY.md lists what was seen to fail"
