"""`net.reports` in the process, by HTTP and by TLS; whose reports a user of a gateway sees; and the command line."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import rios
from rios.cli import app
from rios.services.rows import kind_of
from rios.words.config import settings
from rios.words.errors import InvalidRequest, NotAllowed, NotFound
from tests.client.conftest import Both
from tests.reports import notebooks

PERIOD = "2026-11-20"


@pytest.fixture(scope="module", autouse=True)
def small(both: Both) -> None:
    """A report of a few seconds, beside those that come with rios."""
    notebooks.write(both.local._settings.home / "reports", "small", *notebooks.SMALL)


@pytest.fixture(scope="module")
def ann(both: Both) -> Iterator[Any]:
    """A developer of the network's organisation."""
    with both.connect() as admin:
        login = f"ann-{secrets.token_hex(4)}"
        made = admin.ask("POST", "/v1/users", {"login": login, "role": "developer"})
        credit = {"amount": "5 ROS"}
        admin.ask("POST", f"/v1/users/{made['id']}/credit", credit, key=login)
    with rios.connect(both.url, token=made["token"]) as network:
        yield network


def test_a_report_is_made_found_read_and_made_again(network: Any) -> None:
    reports = network.reports
    assert {"cost", "small"} <= {one.name for one in reports.kinds}
    assert next(one for one in reports.kinds if one.name == "small").parameters == ("wanted",)
    made = reports.run("small", PERIOD)
    assert (made.state, made.name, made.label, made.error) == ("ok", "small", PERIOD, "")
    assert reports.want("small", PERIOD).id == made.id
    assert made.id in [one.id for one in reports.list()]
    assert json.loads(reports.file(made.id, "json"))["totals"]["net_wei"].isdecimal()
    page = reports.file(made.id)
    assert b"A small report" in page
    again = made
    if not str(network.address).startswith("https:"):  # which asks as http does
        again = reports.rerun(made.id)
        assert (again.state, again.version, again.attempts) == ("ok", made.version, made.attempts + 1)
    assert reports.file(made.id) == page
    past = reports.history(run_id=made.id)
    assert [one.attempt for one in past] == list(range(again.attempts, 0, -1))
    assert again.cost_wei == sum(one.cost_wei for one in past)
    assert made.id in repr(reports)
    lines = reports.lines(made.id)
    assert {line.attempt for line in lines} == {again.attempts}, "those of the last attempt"
    assert [line.text for line in lines][:2] == ["began", f"counts the ledger up to entry {past[0].height}"]
    assert "cell 1: small" in [line.text for line in lines]
    for wrong, kind in (("nothing", InvalidRequest), ("small", InvalidRequest)):
        with pytest.raises(kind):
            reports.run(wrong, "sometime")
    with pytest.raises(NotFound, match="no report"):
        reports.file("report-of-nobody")
    with pytest.raises(InvalidRequest, match="there are html, pdf, json, ipynb"):
        reports.file(made.id, "exe")


def test_a_schedule_is_made_paused_and_ended(network: Any) -> None:
    reports = network.reports
    hook = "https://93.184.216.34/told"
    found, secret = reports.schedule("small", "0 6 * * *", zone="Europe/Berlin", webhooks=(hook,))
    assert secret.startswith("rios_wh_")
    assert reports.get_schedule(found.id) == found
    assert reports.pause(found.id).paused_at is not None
    assert reports.resume(found.id).paused_at is None
    assert found.id in [one.id for one in reports.schedules()]
    reports.delete(found.id)
    assert found.id not in [one.id for one in reports.schedules()]
    with pytest.raises(InvalidRequest, match="no such field"):
        reports.schedule("small", "0 6 * * *", colour="red")


def test_a_user_sees_the_own_reports_and_tells_nobody_else(both: Both, ann: Any) -> None:
    whole = both.local.reports.run("small", PERIOD)
    own = ann.reports.run("small", PERIOD)
    assert own.id != whole.id
    assert own.owner == own.subject == ann._me["id"]
    assert own.owner_login == own.subject_login == ann.account
    assert [one.id for one in ann.reports.list()] == [own.id]
    for theirs in (whole.id, f"report-{'0' * 32}"):
        for verb in (ann.reports.get, ann.reports.again, ann.reports.file, ann.reports.lines):
            with pytest.raises(NotFound):
                verb(theirs)
    with pytest.raises(NotAllowed, match="own costs alone"):
        ann.reports.run("small", PERIOD, subject="")
    for told in ({"webhooks": ("https://93.184.216.34/x",)}, {"emails": ("somebody@example.org",)}):
        with pytest.raises(NotAllowed, match="webhooks:write"):
            ann.reports.schedule("small", "0 6 * * *", **told)
    mine, _ = ann.reports.schedule("small", "0 6 * * *")
    with both.connect() as admin:
        assert mine.id in [one.id for one in admin.reports.schedules()], "who runs the network sees all"
    theirs, _ = both.local.reports.schedule("small", "0 7 * * *")
    with pytest.raises(NotFound):
        ann.reports.pause(theirs.id)
    both.local.reports.delete(theirs.id)
    ann.reports.delete(mine.id)


def test_a_page_runs_nothing_of_the_gateway(both: Both, ann: Any) -> None:
    made = ann.reports.run("small", PERIOD)
    answer = ann._http._client.get(f"/v1/reports/runs/{made.id}/file")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]


def test_the_panel_has_them_as_rows(network: Any) -> None:
    from rios.services.panel import Panel

    made = network.reports.run("small", PERIOD)
    panel = Panel(lambda: network, kind="local")
    row = next(one for one in panel.jobs() if one["id"] == made.id)
    assert kind_of(made.id) == "report"
    assert (row["state"], row["phase"], row["cost_wei"]) == ("done", "ok", str(made.cost_wei))
    assert (row["owner"], row["owner_login"]) == ("local", "admin")
    log = panel.log(made.id, 0.0)
    assert re.search(r"ok \(.*processor time", log["lines"][-1]["text"])
    assert panel.log(made.id, log["next"])["lines"] == []
    with pytest.raises(InvalidRequest, match="not cancelled"):
        panel.cancel(made.id)


def test_the_command_line_talks_to_the_gateway(
    both: Both, ann: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIOS_URL", both.url)
    monkeypatch.setenv("RIOS_TOKEN", ann._http._client.headers["authorization"].removeprefix("Bearer "))
    monkeypatch.delenv("RIOS_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()

    def call(*arguments: str) -> Any:
        result = CliRunner().invoke(app, ["report", *arguments])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    said = call("run", "small", "--period", PERIOD).splitlines()
    assert said[0] == f"small {PERIOD} is ok"
    assert all(Path(one).stat().st_size > 100 for one in said[1:])
    assert f"reports/out/small/{PERIOD}/v1/small-{PERIOD}.html" in said
    made = json.loads(call("schedule", "small", "--cron", "0 6 * * *", "--json"))
    assert made["id"] in call("list")
    assert "rests" in call("pause", made["id"])
    call("delete", made["id"])
    assert "small" in call("history")
    run_id = json.loads(call("history", "--json"))[0]["run_id"]
    assert re.search(r"attempt \d+ cell 1: small\n(.*\n)*.* attempt \d+ ok \(", call("log", run_id, "--follow"))
    settings.cache_clear()
