"""`rios report ...`: what it prints, and what it says where something is wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rios.billing.ledger.ledger import Ledger
from rios.cli import app
from rios.services.reports import opening
from rios.services.reports.deliver import tell
from rios.services.reports.periods import parse_span
from rios.services.reports.reports import Reports
from rios.services.reports.store import Store
from rios.services.reports.values import Identity
from rios.words.config import settings
from rios.words.errors import InvalidRequest, NotFound
from tests.billing.clock import SECOND_US
from tests.reports import notebooks
from tests.reports.conftest import quick

DEADLINE_S = 300.0
Call = Callable[..., Result]


@pytest.fixture
def call(month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command on a home with a month of history."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(month, home / "ledger.sqlite")
    notebooks.write(home / "reports", "small", *notebooks.SMALL)
    monkeypatch.setenv("RIOS_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["report", *arguments])

    return run


@pytest.fixture(autouse=True)
def _settings_are_read_again(call: Call) -> Iterator[None]:
    yield
    settings.cache_clear()


def test_a_report_is_made_found_and_made_again(call: Call, tmp_path: Path) -> None:
    made = call("run", "small", "--period", "2026-11-27", "-p", "wanted=2", "--json")
    assert made.exit_code == 0, made.output
    past = json.loads(made.stdout)
    folder = tmp_path / "home" / "reports" / past["folder"]
    assert (past["state"], past["version"], folder.is_dir()) == ("ok", 1, True)
    shown = call("run", "small", "--period", "2026-11-27", "-p", "wanted=2")
    assert shown.stdout.splitlines()[0] == "small 2026-11-27 is ok"
    assert all(Path(line).is_file() for line in shown.stdout.splitlines()[1:])
    again = json.loads(call("rerun", past["run_id"], "--json").stdout)
    assert (again["key"], again["files"], again["attempt"]) == (past["key"], past["files"], 2)
    assert [one["attempt"] for one in json.loads(call("history", "--json").stdout)] == [2, 1]
    assert past["run_id"] in call("history", "small").stdout


def test_they_are_published_where_all_gateways_look(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "Reports", partial(Reports, execute=quick))
    monkeypatch.setenv("RIOS_REPORTS", str(tmp_path / "shared"))
    settings.cache_clear()
    made = call("run", "small", "--period", "2026-11-27")
    assert made.exit_code == 0, made.output
    files = [Path(line) for line in made.stdout.splitlines()[1:]]
    assert files
    assert all(file.is_file() and file.is_relative_to(tmp_path / "shared") for file in files)


@pytest.mark.parametrize("verb", ["run", "rerun"])
def test_who_asks_again_after_a_kill_waits_for_the_lease_alone(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(opening, "Reports", partial(Reports, execute=quick))
    with Ledger.open(f"sqlite:///{tmp_path / 'home' / 'ledger.sqlite'}") as ledger:
        store, span = Store(ledger, tell), parse_span("2026-11-27", at_us=ledger.now())
        killed = store.want(Identity("small", "", "{}", span), owner="local")
        assert store.take("a process that was killed", lease_us=2 * SECOND_US, run_id=killed.id) is not None
    arguments = ("run", "small", "--period", "2026-11-27") if verb == "run" else ("rerun", killed.id)
    began = time.monotonic()
    made = call(*arguments, "--json")
    assert time.monotonic() - began < DEADLINE_S, "and not until it is given up"
    assert made.exit_code == 0, made.output
    past = json.loads(made.stdout)
    assert (past["run_id"], past["state"], past["attempt"]) == (killed.id, "ok", 2)


def test_a_schedule_is_made_shown_paused_and_ended(call: Call) -> None:
    made = call("schedule", "small", "--cron", "0 6 * * *", "--webhook", "https://hooks.example.org/x", "--json")
    found = json.loads(made.stdout)
    assert found["webhook_secret"].startswith("rios_wh_")
    assert found["webhook_secret"] not in call("list", "--json").stdout
    listed = json.loads(call("list", "--json").stdout)
    assert "small" in [one["name"] for one in listed["reports"]]
    assert [one["id"] for one in listed["schedules"]] == [found["id"]]
    assert json.loads(call("pause", found["id"], "--json").stdout)["state"] == "resting"
    assert json.loads(call("resume", found["id"], "--json").stdout)["state"] == "on"
    assert call("delete", found["id"]).exit_code == 0
    assert json.loads(call("list", "--json").stdout)["schedules"] == []


def test_schemas_are_printed(call: Call) -> None:
    assert json.loads(call("schema", "cost").stdout)["$schema"].startswith("https://json-schema.org")


def test_what_is_wrong_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, kind, said in (
        (("run", "nothing"), InvalidRequest, "no report 'nothing'"),
        (("run", "small", "--period", "sometime"), InvalidRequest, "no period"),
        (("run", "small", "-p", "other=1"), InvalidRequest, "no parameter 'other'; it has wanted"),
        (("run", "small", "-p", "wanted"), InvalidRequest, "equals sign"),
        (("rerun", "report-x"), NotFound, "rios report history"),
        (("pause", "schedule-x"), NotFound, "rios report list"),
    ):
        result = call(*arguments)
        assert isinstance(result.exception, kind), (arguments, result.output)
        assert said in str(result.exception)
    monkeypatch.delenv("RIOS_HOME")
    settings.cache_clear()
    assert "set RIOS_HOME" in str(call("list").exception)
