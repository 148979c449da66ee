"""The environment of hivemind: made once, and a clear error where it cannot be made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rios.reporting import hivemind_env
from rios.words.errors import RiosError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; the interpreter appears as `venv` would make it."""
    ran: list[list[str]] = []

    def record(command: list[str], **options: Any) -> None:
        ran.append(command)
        if "venv" in command:
            interpreter = Path(command[-1]) / "bin" / "python"
            interpreter.parent.mkdir(parents=True, exist_ok=True)
            interpreter.touch()

    monkeypatch.setattr(subprocess, "run", record)
    return ran


def test_it_is_made_once_and_again_for_other_versions(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deep" / "hivemind"
    assert hivemind_env.python(folder) == folder / "bin" / "python"
    assert any("hivemind==1.1.12" in command for command in commands)
    commands.clear()
    hivemind_env.python(folder)
    assert commands == []
    monkeypatch.setattr(hivemind_env, "PINS", ("hivemind==9",))
    hivemind_env.python(folder)
    assert any("hivemind==9" in command for command in commands)


def test_a_failure_says_what_pip_said_and_is_not_taken_for_made(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = subprocess.run

    def refuse(command: list[str], **options: Any) -> None:
        record(command, **options)
        if any("hivemind==" in word for word in command):
            raise subprocess.CalledProcessError(1, command, stderr="no matching distribution")

    monkeypatch.setattr(subprocess, "run", refuse)
    for _ in range(2):
        commands.clear()
        with pytest.raises(RiosError, match=r"cannot be compared with it;(.|\n)*no matching distribution"):
            hivemind_env.python(tmp_path / "hivemind")
        assert commands
