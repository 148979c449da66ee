"""Lists: as many questions to the database for many rows as for few, each by an index, in pages that miss nothing."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, text, update

import rios
from rios.billing.ledger.ledger import Ledger
from rios.billing.ledger.values import Grant
from rios.client import http as client_http
from rios.services import tokens
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.store import AppStore
from rios.services.deployments.values import NewReplica
from rios.services.reports.periods import Span
from rios.services.reports.values import Identity, Past, RunState, Schedule
from rios.services.views import WorkerInfo, Workers
from rios.storage import report_models as m
from rios.storage.deployment_models import AppKeptVolumeRow
from rios.storage.engine import Database
from rios.words.money import WEI_PER_ROS
from tests.gateway.servers import Door
from tests.services.earning import earn, owner
from tests.waiting import until

LISTS = ("/v1/tokens", "/v1/users", "/v1/audit", "/v1/usage", "/v1/sessions", "/v1/webhooks", "/v1/deployments",
         "/v1/budgets", "/v1/models", "/v1/apps", "/v1/apps/many/events", "/v1/apps/many/revisions",
         "/v1/apps/many/replicas", "/v1/apps/many/secrets", "/v1/apps/many/snapshots", "/v1/secrets", "/v1/volumes",
         "/v1/reports/runs", "/v1/reports/history", "/v1/reports/runs/many-0/lines", "/v1/reports/schedules",
         "/v1/discounts")  # fmt: skip

PAGED = ("/v1/tokens", "/v1/users", "/v1/audit", "/v1/usage", "/v1/sessions", "/v1/deployments", "/v1/alerts",
         "/v1/workers", "/v1/clients", *(path for path in LISTS[-13:] if "replicas" not in path))  # fmt: skip
REPORTS_OF = ("/v1/reports/runs", "/v1/reports/history", "/v1/reports/schedules")
APP = {"name": "many", "command": ["sleep", "9"], "resources": {"memory": "9TiB"}}  # which fits nowhere
APP |= {"volumes": {"/data": "1MiB"}}


@contextmanager
def statements(door: Door) -> Iterator[list[tuple[str, Any]]]:
    """What the database is asked for meanwhile, without what runs in the background."""
    engine, found = door.gate.tenancy.ledger.database.engine, []

    def asked(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> None:
        if not threading.current_thread().name.startswith("AnyIO worker"):  # where routes are answered
            return
        background = ("BEGIN", "outbox", "cursors", "job_records", "job_views")
        if not any(word in statement for word in background):
            found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", asked)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", asked)


def _asked(door: Door, path: str, token: str | None = None) -> list[tuple[str, Any]]:
    with door.client(token) as http:
        http.get("/v1/users/me")  # so that the token is known
        with statements(door) as found:
            assert http.get(path).status_code == 200
    # Who sends events on reads the audit log of all organisations.
    return [one for one in found if "audit.seq > ?" not in one[0] or "audit.organisation_id = ?" in one[0]]


def test_many_rows_take_no_more_questions_than_few(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FRESH_S", 600.0)  # on a slow machine, too, the token stays known
    monkeypatch.setattr(Database, "mark", lambda _: None)  # nor is anything else remembered, however little happens
    with door.client() as http:
        assert http.post("/v1/apps", json=APP).status_code == 202
        assert http.post("/v1/apps/many/snapshots", json={"path": "/data"}).status_code == 202
        reader = http.post("/v1/users", json={"login": "reader", "role": "viewer"}).json()
    _left(door, 1)
    _reported(door, "many", 2, reader["id"])
    asked = [*((path, None) for path in LISTS), *((path, reader["token"]) for path in REPORTS_OF)]
    few = [len(_asked(door, path, token)) for path, token in asked]
    assert all(few)
    with door.client() as http:
        for number in range(30):
            name = f"many-{number}"
            assert http.post("/v1/users", json={"login": name, "role": "viewer"}).status_code == 201
            assert http.post("/v1/tokens", json={"name": name}).status_code == 201
        for number in range(8):
            _ledger(door).grant_discount(_grant(reader["id"], number))
            assert http.post("/v1/apps", json={**APP, "name": f"many-{number}"}).status_code == 202
            assert http.post("/v1/apps/many/scale", json={"min": number, "max": 20}).status_code == 202
            changed = {"fields": {"env": {"N": str(number)}, "secrets": {f"S{number}": "x"}}}
            assert http.patch("/v1/apps/many", json=changed).status_code == 202
            assert http.post("/v1/apps/many/snapshots", json={"path": "/data"}).status_code == 202
            assert http.put("/v1/secrets", json={"secrets": {f"MANY_{number}": "x"}}).status_code == 200
    _left(door, 30)
    _reported(door, "more", 30, reader["id"])
    for (path, token), before in zip(asked, few, strict=True):
        many = _asked(door, path, token)
        assert len(many) <= before, path
        assert len(many) <= 8, many
        with door.gate.tenancy.ledger.database.reading() as connection:
            for statement, parameters in many:
                if statement.lstrip().upper().startswith("SELECT"):
                    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                    assert not [row for row in plan if row[3].startswith("SCAN") and "CONSTANT" not in row[3]], plan


def test_a_report_names_nobody_of_another_organisation(door: Door) -> None:
    """What others sign in as is half of what it takes."""
    with door.client() as http:
        lab = http.post("/v1/organisations", json={"name": "Lab of reports", "admin": "reporter"}).json()
    store, who = door.gate.network._reports().store, lab["admin"]["id"]
    span = Span(label="about", since_us=0, until_us=1)
    run = store.want(Identity("small", who, "{}", span), owner=LOCAL_USER)
    with door.client(lab["token"]) as http:
        (found,) = http.get("/v1/reports/runs").json()["data"]
    assert (found["owner"], found["owner_login"]) == (LOCAL_USER, LOCAL_USER)
    assert (found["subject"], found["subject_login"]) == (who, "reporter")
    assert [one.owner_login for one in store.made(run_id=run.id)] == ["admin"], "whoever runs the network knows"


def _reported(door: Door, name: str, count: int, subject: str) -> None:
    """So many reports about a user, each with an attempt and lines, and as many schedules: nothing makes them."""
    store, ledger = door.gate.network._reports().store, door.gate.tenancy.ledger
    now = ledger.now()
    # A run of this id for each: the list of its lines is asked for by it.
    for number in range(count):
        span = Span(label=f"{name}-{number}", since_us=number, until_us=number + 1)
        run = {**asdict(store.want(Identity("small", subject, "{}", span), owner="nobody")), "id": f"{name}-{number}"}
        schedule = Schedule(
            id=f"{name}-{number}", owner=subject, subject=subject, name="small", parameters="{}", cron="0 6 * * *",
            zone="UTC", period="yesterday", emails=(), webhooks=(), catch_up=True, created_at=now + number,
            paused_at=now, closed_at=None, next_at=now + 10**12,
        )  # fmt: skip
        store.add_schedule(schedule)
        past = Past(
            seq=0, run_id="", name="small", label=span.label, subject=subject, attempt=1, state=RunState.OK,
            started_at=now, ended_at=now, key="", height=None, notebook="", version=1, folder="", files={}, runtime="",
            cpu_ns=0, cost_wei=0, error="",
        )  # fmt: skip
        _written(ledger, run, {**asdict(past), "files": "{}"})


def _written(ledger: Any, run: dict[str, Any], past: dict[str, Any]) -> None:
    """A run under an id of its own, with an attempt, and lines."""
    runs, history, lines = m.ReportRunRow, m.ReportHistoryRow, m.ReportLineRow

    def write(batch: Any) -> None:
        ended = update(runs).where(runs.identity == run["identity"]).values(id=run["id"], state=RunState.OK)
        batch.connection.execute(ended)
        seq = 1 + (batch.connection.scalar(select(func.max(history.seq))) or 0)
        batch.connection.execute(insert(history), [{**past, "seq": seq, "run_id": run["id"]}])
        said = [{"run_id": run["id"], "seq": place, "attempt": 1, "at": place, "text": "cell"} for place in range(9)]
        batch.connection.execute(insert(lines), said)

    ledger.transact(write, alone=True)


def _filled(door: Door) -> None:
    """Seven rows at least for every list in pages."""
    with door.client() as http:
        made = {"login": "paged", "role": "admin", "password": "correct horse battery"}
        if http.post("/v1/users", json=made).status_code == 409:
            return
        if http.post("/v1/apps", json=APP).status_code == 202:  # this test runs alone
            for number in range(8):
                changed = {"fields": {"env": {"N": str(number)}, "secrets": {f"S{number}": "x"}}}
                assert http.patch("/v1/apps/many", json=changed).status_code == 202
                assert http.post("/v1/apps/many/snapshots", json={"path": "/data"}).status_code == 202
                assert http.put("/v1/secrets", json={"secrets": {f"MANY_{number}": "x"}}).status_code == 200
            _left(door, 8)
            _reported(door, "many", 9, "nobody")
        replicas = [NewReplica(_app(door), f"many-{number}", "host", "a test") for number in range(7)]
        _store(door).write(new=replicas, at=door.gate.tenancy.ledger.now(), lease=None)
        for number in range(7):
            for path, body in (
                ("/v1/users", {"login": f"paged-{number}", "role": "viewer"}),
                ("/v1/tokens", {"name": f"paged-{number}"}),
                ("/v1/deployments", {"name": f"paged-{number}"}),
                ("/v1/clients", {"name": f"paged-{number}", "grants": ["client_credentials"], "scopes": ["generate"]}),
            ):
                assert http.post(path, json=body).is_success, path
            _ledger(door).grant_discount(_grant("nobody", number))
        http.put("/v1/budgets/month", json={"limit": "1 ROS", "hard": False, "alerts_bp": [*range(1000, 8000, 1000)]})
    purse = door.gate.network._purse
    for number in range(1, 8):
        earn(purse, f"paged-{number}", {owner(0xA1): WEI_PER_ROS // 10})
    with door.gate.tenancy.ledger.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox WHERE topic LIKE 'budget%'")).scalar() == 7
    names = ("seven", "six", "five", "four", "three", "two", "one")
    kind = {"pid": 1, "address": "", "device": "cpu", "memory_bytes": 1, "reserved_bytes": 0, "state": "serving"}
    kind |= {"experts": 0, "speed": 1.0, "machine": "", "dask_address": ""}
    door.gate.network.workers = Workers([WorkerInfo(name=name, **kind) for name in names])
    sign_in = door.gate.accounts.tokens.sign_in
    for _ in range(7):
        sign_in("paged", "correct horse battery")


def _store(door: Door) -> AppStore:
    found: AppStore = door.gate.network._apps().store
    return found


def _ledger(door: Door) -> Ledger:
    return door.gate.tenancy.ledger


def _grant(user: str, since: int) -> Grant:
    return Grant(discount="research", user=user, organisation=None, since=since, until=since + 1)


def _app(door: Door) -> Any:
    return _store(door).named(FIRST_ORGANISATION, "many")


def _left(door: Door, count: int) -> None:
    """So many kept volumes, on a host that is not there."""
    app = _app(door)
    one = {"app_id": app.id, "organisation_id": app.organisation_id, "path": "/data", "host": "none", "state": "kept"}
    one |= {"quota_bytes": 1 << 20, "taker": "", "taker_path": ""}
    rows = [{**one, "id": f"vol-{secrets.token_hex(6)}", "kept_at": number // 2} for number in range(count)]
    insertion = insert(AppKeptVolumeRow)
    _store(door).transact(lambda batch: batch.connection.execute(insertion, rows))


def _walked(http: Any, path: str) -> Iterator[Any]:
    more: dict[str, Any] = {}
    while more.get("after", "") is not None:
        page = http.get(path, params={"limit": 3, **more}).json()
        assert len(page["data"]) <= 3
        yield from page["data"]
        more = {"after": page["next"]}


@pytest.mark.parametrize("path", PAGED)
def test_pages_miss_nothing(door: Door, path: str) -> None:
    _filled(door)
    token = door.token
    if path == "/v1/sessions":
        token = door.gate.accounts.tokens.sign_in("paged", "correct horse battery").access_token
    with door.client(token) as http:

        def same() -> bool:
            """What a reconciler writes meanwhile may be in one of them alone."""
            whole = http.get(path, params={"limit": 500}).json()
            found = list(_walked(http, path))
            assert len(whole["data"]) >= 7
            assert whole["next"] is None
            return [_without_time(one) for one in found] == [_without_time(one) for one in whole["data"]]

        until(same, f"the same in pages as in one of {path}", deadline_s=60)
        if path in (
            "/v1/tokens",
            "/v1/sessions",
            "/v1/usage",
            "/v1/alerts",
            "/v1/reports/runs",
            "/v1/reports/schedules",
            "/v1/discounts",
            "/v1/volumes",
        ):
            for wrong in ("x", "1", ":", "-1:x", "99999999999999999:x"):
                assert http.get(path, params={"after": wrong}).status_code == 400


def test_a_client_walks_all_pages(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `net` lists is whole, however small a page is; and no more than was asked for."""
    _filled(door)
    monkeypatch.setattr(client_http, "_PAGE", 3)
    store, reports = _store(door), door.gate.network._reports().store
    with rios.connect(door.url, token=door.token) as net:
        app = net.deploy.get("many")
        assert [one.id for one in net.deploy.views()] == [one.id for one in store.apps(FIRST_ORGANISATION)]
        assert [one.name for one in net.deploy.list()] == [one.name for one in store.apps(FIRST_ORGANISATION)]
        assert [one["number"] for one in app.revisions] == [one["number"] for one in store.revisions(app.id)]
        assert len(app.revisions) > 7
        assert [one.seq for one in app.events][:9] == [one.seq for one in store.events(app.id)][:9]
        assert [one["name"] for one in app.secrets] == [f"S{number}" for number in range(8)]
        assert len(net.deploy.secrets.list()) >= 8
        assert len(app.snapshots.list()) >= 8
        assert len(net.deploy.volumes.list()) >= 8
        runs = [one.id for one in reports.made(limit=1000)]
        assert [one.id for one in net.reports.list()] == runs
        assert [one.id for one in net.reports.list(limit=7)] == runs[:7]
        assert [one.seq for one in net.reports.history(limit=5)] == [one.seq for one in reports.history(limit=5)]
        assert [one.id for one in net.reports.schedules()] == [one.id for one in reports.schedules()]
        assert len(net.reports.lines("many-0")) == 9


def test_replicas_come_in_pages(door: Door) -> None:
    """Of the store: nobody here keeps them alive."""
    _filled(door)
    store, app = _store(door), _app(door)
    whole = store.replicas(app.id, ended=True)
    found, place = list(whole[:0]), (-1, "")
    while page := store.replicas(app.id, ended=True, after=place, limit=3):
        assert len(page) <= 3
        found += page
        place = (page[-1].created_at, page[-1].id)
    assert [one.id for one in found] == [one.id for one in whole]
    assert len(whole) >= 7
    with door.client() as http:
        assert {one["id"] for one in _walked(http, "/v1/apps/many/replicas")} <= {one.id for one in whole}


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    """A row, without what changes while it is looked at."""
    return {
        name: value for name, value in row.items() if name not in ("last_used_at", "state", "status", "reason", "error")
    }
