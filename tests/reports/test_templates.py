"""Notebooks as people leave them: a broken one is the matter of who asks for it, and of nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rios.reporting.templates import Templates
from rios.services.reports.reports import Reports
from rios.services.reports.values import RunState, Wish
from rios.words.errors import InvalidRequest, LedgerUnavailable
from tests.billing.clock import DAY_US, Clock
from tests.campaigns import ROOT
from tests.reports import notebooks
from tests.reports.conftest import NOW, Make, quick
from tests.waiting import until

DEADLINE_S = 60.0


def ours(tmp_path: Path, old: str = "", new: str = "") -> None:
    """A report of our own: that of costs, with a change."""
    (tmp_path / "mine").mkdir(exist_ok=True)
    source = (ROOT / "reports" / "cost.ipynb").read_text()
    (tmp_path / "mine" / "ours.ipynb").write_text(source.replace(old, new))


def test_a_template_is_whatever_lies_there(make: Make, tmp_path: Path) -> None:
    ours(tmp_path, "rows_shown = 25", "rows_shown = 3")
    (tmp_path / "mine" / "broken.ipynb").write_text("{")
    reports = make()
    assert {"ours", "cost"} <= set(reports.templates.names())
    assert "broken" not in reports.templates.names()
    assert reports.run("ours", owner="local", parameters={"rows_shown": 5}).state == RunState.OK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"cells": []}', "KeyError: 'metadata'"),
        ('{"metadata": [], "cells": []}', "AttributeError"),
        ("[" * 100_000, "RecursionError"),
        (json.dumps({"metadata": {}, "cells": []}), "no report: no cell"),
        (" " * (1 << 21), "at most"),
        (None, "SyntaxError"),
    ],
)
def test_one_that_cannot_be_read_is_refused_and_hides_no_other(tmp_path: Path, text: str | None, said: str) -> None:
    notebooks.write(tmp_path, "small", *notebooks.SMALL)
    path = tmp_path / "ours.ipynb"
    path.write_text((tmp_path / "small.ipynb").read_text().replace("wanted = 1", "wanted =") if text is None else text)
    templates = Templates([tmp_path])
    with pytest.raises(InvalidRequest, match=said):
        templates.get("ours")
    assert templates.names() == ["small"]


def test_what_is_no_report_is_none_for_who_knows_its_name(make: Make) -> None:
    """`performance` lies beside the reports of this checkout: it measures this machine for minutes."""
    with pytest.raises(InvalidRequest, match="'performance' is no report"):
        make().want("performance", owner="local")


def test_a_typo_ends_its_report_and_no_scheduler(make: Make, clock: Clock, tmp_path: Path) -> None:
    ours(tmp_path)
    reports = make()
    for name in ("ours", "cost"):
        reports.schedule(Wish(name=name, cron="0 6 * * *"), owner="local")
    ours(tmp_path, "rows_shown = 25", "rows_shown =")
    reports.start(look_s=0.05)
    clock.now_us = NOW + DAY_US
    found = until(lambda: ended(reports, 2), "both", deadline_s=DEADLINE_S)
    assert found["cost"] == (RunState.OK, "")
    assert found["ours"][0] == RunState.FAILED
    assert "SyntaxError" in found["ours"][1]


def test_nothing_that_is_raised_ends_a_scheduler(
    make: Make, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    reports = make(execute=breaks)
    past = reports.run("cost", "2026-11-26", owner="local")
    assert (past.state, past.error) == (RunState.FAILED, "ZeroDivisionError: a mistake of ours")
    assert reports._ledger.balance("local").held_wei == 0
    step, errors = reports.step, [ZeroDivisionError("another"), LedgerUnavailable("for now")]

    def stumbles() -> bool:
        if errors:
            raise errors.pop()
        return step()

    monkeypatch.setattr(reports, "step", stumbles)
    monkeypatch.setattr(reports.maker, "_execute", quick)
    reports.schedule(Wish(name="cost", cron="0 6 * * *"), owner="local")
    clock.now_us = NOW + DAY_US
    reports.start(look_s=0.05)
    assert until(lambda: ended(reports, 2), "the next", deadline_s=DEADLINE_S)["cost"] == (RunState.OK, "")
    assert "ZeroDivisionError: another" in caplog.text


def ended(reports: Reports, count: int) -> dict[str, tuple[RunState, str]]:
    """What became of each report's last attempt, once there were so many."""
    history = reports.store.history()
    return {past.name: (past.state, past.error) for past in reversed(history)} if len(history) >= count else {}
