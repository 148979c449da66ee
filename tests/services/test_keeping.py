"""A process that is kept: told its orders, heard, and started again whatever ends it, until it is let go of."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rios.services import keeping
from rios.services.keeping import Keeper
from tests.waiting import until

SERVES = """
import json, os, sys
orders = json.loads(sys.stdin.readline())
print(json.dumps({"pid": os.getpid(), "orders": orders}), flush=True)
sys.stdin.read()
open(orders["left"], "a").write("left ")
"""
FAILS = """
import json, sys
sys.stdin.readline()
print(json.dumps({"last_words": "there is no port"}), flush=True)
sys.exit(3)
"""
DEAF = "import os; os._exit(4)"
BABBLES = """
import json, sys
sys.stdin.readline()
sys.stdout.buffer.write(b"no JSON\\n\\xff\\n[1]\\n" + json.dumps({"port": 1}).encode() + b"\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def _keeper(code: str, orders: dict[str, Any], begun: list[subprocess.Popen[bytes]]) -> Keeper:
    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return begun[-1]

    return Keeper("the process", start, orders)


def _logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What keepers of this test said; networks of other tests may have theirs."""
    ours = [one for one in caplog.records if one.name == keeping.__name__]
    return [one for one in ours if one.getMessage().startswith("the process ")]


def test_one_that_is_killed_is_followed_by_another_until_it_is_let_go_of(tmp_path: Path) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    orders = {"left": str(tmp_path / "left")}
    keeper = _keeper(SERVES, orders, begun)
    first = until(lambda: keeper.said, "the first", deadline_s=20)
    assert first == {"pid": begun[0].pid, "orders": orders}
    assert repr(keeper) == "<Keeper of the process>"
    os.kill(first["pid"], signal.SIGKILL)
    second = until(lambda: keeper.said != first and keeper.said, "the second", deadline_s=20)
    assert second == {"pid": begun[1].pid, "orders": orders}
    keeper.close()
    until(lambda: not keeper.said, "the end of the second", deadline_s=20)
    assert begun[1].wait(20) == 0, "by its own will: its orders have ended"
    assert (tmp_path / "left").read_text() == "left "
    assert len(begun) == 2


@pytest.mark.parametrize(("code", "exit_code", "why"), [(FAILS, 3, "there is no port"), (DEAF, 4, "")])
def test_one_that_ends_at_once_is_tried_ever_less_often(
    code: str, exit_code: int, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "_PAUSE_S", 0.02)
    monkeypatch.setattr(keeping, "_PAUSE_S_MAX", 0.05)
    caplog.set_level(logging.ERROR, keeping.__name__)
    begun: list[subprocess.Popen[bytes]] = []
    keeper = _keeper(code, {"much": "x" * 100_000}, begun)
    until(lambda: len(_logged(caplog)) >= 3, "three ends", deadline_s=30)
    keeper.close()
    said = [vars(record) for record in _logged(caplog)[:3]]
    assert _logged(caplog)[0].getMessage() == "the process ended; starting it again"
    assert [one["pause_s"] for one in said] == [0.02, 0.04, 0.05]
    assert {(one["exit_code"], one["last_words"]) for one in said} == {(exit_code, why)}
    assert keeper.said == {}


def test_what_cannot_be_read_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    keeper = _keeper(BABBLES, {}, begun)
    assert until(lambda: keeper.said, "what it announces", deadline_s=20) == {"port": 1}
    assert [vars(record)["line"] for record in _logged(caplog)] == [r"b'no JSON\n'", r"b'\xff\n'", r"b'[1]\n'"]
    keeper.close()
    until(lambda: not keeper.said, "its end", deadline_s=20)
    assert begun[0].wait(20) == 0


def test_one_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(keeping, "_PAUSE_S", 0.02)
    begun: list[subprocess.Popen[bytes]] = []
    errors = [OSError(errno.EAGAIN, "no process"), OSError(errno.EMFILE, "no descriptor")]

    def start() -> subprocess.Popen[bytes]:
        if errors:
            raise errors.pop(0)
        command = [sys.executable, "-c", SERVES]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return begun[-1]

    keeper = Keeper("the process", start, {"left": str(tmp_path / "left")})
    until(lambda: keeper.said, "the third", deadline_s=20)
    assert [record.getMessage() for record in _logged(caplog)] == 2 * ["the process cannot be started; trying again"]
    assert [vars(record)["pause_s"] for record in _logged(caplog)] == [0.02, 0.04]
    keeper.close()
    assert begun[0].wait(20) == 0


def test_one_that_is_let_go_of_before_it_was_told_anything_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    waits, closed = threading.Event(), threading.Event()
    tell = Keeper._tell

    def late(keeper: Keeper, process: subprocess.Popen[bytes]) -> None:
        waits.set()
        assert closed.wait(20)
        tell(keeper, process)

    monkeypatch.setattr(Keeper, "_tell", late)
    keeper = _keeper("import sys; sys.stdin.read()", {}, begun)
    assert waits.wait(20)
    keeper.close()
    closed.set()
    until(lambda: begun[0].returncode == 0, "somebody to wait for its end", deadline_s=20)
