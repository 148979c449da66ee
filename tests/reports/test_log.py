"""What a report writes while it is made: told as it is written, kept for whoever looks, and bounded."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rios.reporting import runner
from rios.reporting.runner import Done, Job, Lines, Say, run_job
from rios.services.reports.own import UserReports
from rios.services.reports.values import RunState
from rios.services.rows import report_lines
from rios.words.errors import LedgerUnavailable
from tests.billing.clock import Clock
from tests.reports import notebooks
from tests.reports.conftest import Make, quick

DEADLINE_S, SECOND_US = 60.0, 10**6
WAITS = """
import pathlib, time
print("here \\x1b[31m<b>")
deadline = time.monotonic() + 60
while not pathlib.Path("go").exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
"""


def test_it_is_told_while_the_notebook_is_executed(tmp_path: Path) -> None:
    """The last cell ends when somebody has heard of it: told at the end, it would fail."""
    notebooks.write(tmp_path, "small", "print('one\\n\\ntwo')", WAITS)
    job = Job(
        name="small", title="small", source=(tmp_path / "small.ipynb").read_bytes(), data=b"{}", parameters={},
        cpu_s=60, memory_bytes=8 << 30, timeout_s=DEADLINE_S, pdf=False,
    )  # fmt: skip
    heard: list[str] = []

    def say(texts: Sequence[str]) -> None:
        heard.extend(texts)
        if "cell 3: small" in heard:
            (folder,) = Path(tempfile.gettempdir()).glob(f"{runner._PREFIX}{os.getpid()}-*")
            (folder / "go").touch()

    done = run_job(job, say)
    assert (done.state, done.error) == ("ok", "")
    assert heard == ["cell 1: small", "cell 2: small", "one", "two", "cell 3: small", "here [31m<b>"]


def test_who_looks_meanwhile_reads_it_by_the_ledger_alone(make: Make, clock: Clock) -> None:
    told, read = threading.Event(), threading.Event()

    def waits(job: Job, say: Say) -> Done:
        clock.now_us += SECOND_US
        say(["cell 1: Costs", "half way"])
        told.set()
        assert read.wait(DEADLINE_S)
        clock.now_us += SECOND_US
        return quick(job)

    maker, looker = make(execute=waits), make()
    mine = UserReports(lambda: looker, user="local", everybodys=True)
    run_id = looker.want("cost", "2026-11-27", owner="local").id
    clock.now_us += SECOND_US
    maker.start(look_s=0.05)
    assert told.wait(DEADLINE_S)
    assert mine.get(run_id).state == RunState.RUNNING
    meanwhile = report_lines(mine, run_id)
    texts = [line["text"] for line in meanwhile]
    assert texts[:2] == ["asked for", "began"]
    assert texts[-2:] == ["cell 1: Costs", "half way"]
    read.set()
    assert mine.wait(run_id, timeout=DEADLINE_S).state == RunState.OK
    after = report_lines(mine, run_id)
    assert after[: len(meanwhile)] == meanwhile
    assert after[-1]["text"].startswith("ok (quick")
    moments = [line["at"] for line in after]
    assert moments == sorted(set(moments)), "who asks for what is later misses none"


def test_the_next_attempt_begins_a_new_log_and_the_history_keeps_the_old_one(make: Make) -> None:
    reports = make()
    mine = UserReports(lambda: reports, user="local", everybodys=True)
    run_id = mine.run("cost", "2026-11-27").id
    mine.rerun(run_id)
    assert {line.attempt for line in mine.lines(run_id)} == {2}
    said = [(line["who"], line["text"].partition(" (")[0]) for line in report_lines(mine, run_id)]
    assert [text for who, text in said if who == "attempt 1"] == ["began", said[2][1], "ok"]
    assert [text for who, text in said if who == "attempt 2"] == ["began", said[2][1], "cell 1", "ok"]


def test_a_line_that_cannot_be_kept_stops_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = make()

    def fails(*_: object) -> bool:
        raise LedgerUnavailable("the disk is full")

    monkeypatch.setattr(reports.store, "say", fails)
    past = reports.run("cost", "2026-11-27", owner="local")
    assert (past.state, reports.store.lines(past.run_id)) == (RunState.OK, [])


def test_who_writes_without_end_is_heard_up_to_a_bound(tmp_path: Path) -> None:
    heard: list[str] = []
    with (tmp_path / "out").open("w+b") as file:
        lines = Lines(file, heard.extend)
        file.write(b"x" * 10**6 + b"\nsecond\nthi")
        file.flush()
        for _ in range(20):
            lines.look()
        assert heard == ["x" * 300, "second"]
        file.write(b"rd\n" + b"y\n" * 1_000)
        file.flush()
        for _ in range(20):
            lines.look()
    assert heard[2] == "third"
    assert len(heard) == runner.LINES_MAX
