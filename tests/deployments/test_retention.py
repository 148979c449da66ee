"""The history of deployments is bounded, and what money, routes and running replicas go by is not touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

from rios.deploy.lifecycle import State
from rios.services.books import LOCAL_USER
from rios.services.deployments.retention import ROUTER_DEAD_US, Keeps, Retention
from rios.services.deployments.store import ROTATED, SECRETS, NotLeader
from rios.services.deployments.values import NewReplica, Step
from rios.services.deployments.views import views_of
from rios.storage.deployment_models import (
    AppEventRow,
    AppImageRow,
    AppLoadRow,
    AppPlaceRow,
    AppReplicaRow,
    AppRevisionRow,
    AppRow,
    AppSpendRow,
)
from rios.words.config import Settings
from rios.words.errors import NotFound
from tests.deployments.test_metering import HOUR, SECOND, Month

KEEPS = Keeps(events=200, replicas=60, revisions=10, days=30)
EVENTS, REPLICAS, REVISIONS = 1700, 700, 40
DAY = 24 * HOUR


class Old(Month):
    """Deployments with a long history."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.ledger.deposit("first", LOCAL_USER, 10**24)
        self.retention = Retention(self.store, KEEPS)

    def lived(self, name: str) -> Any:
        """One that has had many of everything, and of which one replica lives."""
        app = self.deploy.create(name=name, command=["x"])
        paid = self.begin(app)
        self.at += HOUR
        self.end(app, paid)
        for number in range(REVISIONS):
            app.update(env={"N": str(number)})
        self.store.change(
            app.id, lambda *_: ({"good_revision": 3, "settled_revision": 3}, "note", "an old one"), at=self.at
        )
        ended = dict.fromkeys(("round", "started_at", "ready_at", "period", "period_at"), 0)
        texts = dict.fromkeys(("outcome", "address", "metered"), "")
        rows = [
            {
                **ended, **texts, "id": f"{name}-{number:04}", "app_id": app.id, "revision": 1, "host": "host-0",
                "state": "stopped", "created_at": number + 1, "ended_at": number + 1,
            }
            for number in range(REPLICAS)
        ]  # fmt: skip
        images = [
            {"app_id": app.id, "revision": number + 1, "digest": "d", "source": "", "resolved_at": 1}
            for number in range(REVISIONS)
        ]

        def write(batch: Any) -> None:
            batch.connection.execute(insert(AppReplicaRow), rows)
            batch.connection.execute(insert(AppImageRow), images)

        self.store.transact(write)
        now = app._app()
        alive = f"{name}-alive"
        self.store.write(new=[NewReplica(now, alive, "host-0", "chosen")], at=self.at, lease=self.lease)
        for state in (State.STARTING, State.READY):
            step = Step(self.replica(app, alive), state, "it runs", changes={"started_at": self.at})
            self.store.write([step], at=self.at, lease=self.lease)
        self.store.write(notes=[(now, SECRETS, "given anew")], at=self.at, lease=self.lease)
        step = Step(self.replica(app, alive), State.READY, "it has them", changes={}, kind=ROTATED)
        self.store.write([step], at=self.at, lease=self.lease)
        notes = [(now, "note", str(number)) for number in range(EVENTS)]
        self.store.write(notes=notes, at=self.at, lease=self.lease)
        return app

    def count(self, table: Any, app: Any) -> int:
        with self.ledger.database.reading() as connection:
            return connection.scalar(select(func.count()).select_from(table).where(table.app_id == app.id)) or 0


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    found = Old(tmp_path_factory.mktemp("old"))
    yield found
    found.ledger.close()


def test_the_newest_stays_and_what_something_goes_by(old: Old) -> None:
    app, cost = old.lived("lives"), None
    cost, usage = int(app.cost), list(old.ledger.usage())
    assert cost > 0
    with pytest.raises(NotLeader):
        old.retention.forget(lease=(*old.lease[:2], old.lease[2] + 1))
    assert old.retention.forget(lease=old.lease) > EVENTS - KEEPS.events
    assert old.retention.forget(lease=old.lease) == 0, "nothing more, and nothing twice"
    events = app.events
    assert len(events) == KEEPS.events + 2
    assert [event.kind for event in events[:2]] == [SECRETS, ROTATED]
    assert [event.cause for event in events[2:]] == [str(n) for n in range(EVENTS - KEEPS.events, EVENTS)]
    assert old.store.behind(app.id) == []
    assert old.store.rotations(0)[1] == {app.id: events[0].seq}
    replicas = old.store.replicas(app.id, ended=True)
    assert [one.id for one in replicas if not one.ended_at] == ["lives-alive"]
    assert len(replicas) == KEEPS.replicas + 1
    assert old.store.logged(app.id)
    last = REVISIONS + 1
    assert [one["number"] for one in app.revisions] == [3, *range(last - KEEPS.revisions + 1, last + 1)]
    assert old.count(AppImageRow, app) == 1 + KEEPS.revisions - 1
    with pytest.raises(NotFound, match="has no revision 5"):
        app.rollback(5)
    app.rollback(3)
    assert app.update(env={"N": "again"}) == last + 1
    assert (int(app.cost), list(old.ledger.usage())) == (cost, usage)


def test_little_is_left_of_what_was_deleted_long_ago(old: Old) -> None:
    app, stays, away = old.lived("gone"), old.lived("stays"), old.lived("away")
    cost = int(app.cost)
    with old.ledger.database.writing() as connection:
        for one in (app, away):
            connection.execute(update(AppReplicaRow).where(AppReplicaRow.app_id == one.id).values(ended_at=old.at))
            connection.execute(update(AppRow).where(AppRow.id == one.id).values(ended_at=old.at, state="stopped"))
        connection.execute(delete(AppPlaceRow).where(AppPlaceRow.app_id == app.id))
    old.retention.forget(lease=old.lease)
    assert old.count(AppEventRow, app) >= KEEPS.events
    old.at += (KEEPS.days + 1) * DAY
    Retention(old.store, KEEPS).forget(lease=old.lease)
    assert [old.count(table, app) for table in (AppEventRow, AppReplicaRow, AppImageRow)] == [0, 0, 0]
    assert old.count(AppRevisionRow, app) == 1
    assert json.dumps(app.specification)
    assert (int(app.cost), old.count(AppSpendRow, app)) == (cost, 1)
    assert old.store.app(app.id).name == "gone"
    assert old.count(AppEventRow, away) >= KEEPS.events, "a host is still to forget it"
    assert old.count(AppEventRow, stays) >= KEEPS.events


def test_routers_that_have_ended_count_as_one(old: Old) -> None:
    app = old.deploy.create(name="asked", command=["x"])
    row = {"app_id": app.id, "running": 1, "waiting": 1}
    for round_number in (1, 2):
        rows = [{**row, "router": f"r{round_number}-{n}", "at": old.at, "requests": n} for n in range(50)]
        old.store.transact(lambda batch, rows=rows: batch.connection.execute(insert(AppLoadRow), rows))
        old.at += ROUTER_DEAD_US + SECOND
        fresh = {**row, "router": f"fresh{round_number}", "at": old.at, "requests": 7}
        old.store.transact(lambda batch, fresh=fresh: batch.connection.execute(insert(AppLoadRow), [fresh]))
        before = views_of(old.store, [app._app()])[0].requests
        old.retention.forget(lease=old.lease)
        assert views_of(old.store, [app._app()])[0].requests == before
        assert old.count(AppLoadRow, app) == 2
    assert before == 2 * sum(range(50)) + 2 * 7


def test_the_settings_say_how_much() -> None:
    options = Settings(apps_keep_events=300, apps_keep_replicas=70, apps_keep_revisions=9, apps_keep_days=2)
    assert Keeps.of(options) == Keeps(300, 70, 9, 2)
    assert Keeps.of(Settings()) == Keeps()
