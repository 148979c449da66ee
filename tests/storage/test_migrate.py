"""An empty, older, newer or foreign database: made, migrated with what is in it, or refused by name."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from rios.deploy.reading import read_app
from rios.services.moments import month
from rios.storage import deployment_models, gateway_models, migrate, report_models, sign_in_models
from rios.storage.engine import Database
from rios.storage.models import AccountRow, Base, EpochRow, HoldRow, TransferRow, UsageRow, VolumeRow
from rios.words.errors import LedgerUnavailable
from tests.storage import fresh

BIG = 10**27 + 1


@pytest.fixture
def database(url: str) -> Database:
    found = Database(url, timeout_s=20)
    yield found
    found.close()


def _fill(connection: Connection) -> None:
    """A row in each table of version 0001 that others refer to."""
    accounts = [
        {"id": 1, "name": "treasury", "kind": "treasury", "floor_wei": None, "balance_wei": -BIG},
        {"id": 2, "name": "user:ann:trial", "kind": "trial", "floor_wei": 0, "balance_wei": BIG},
    ]
    connection.execute(insert(AccountRow), accounts)
    transfer = {"seq": 1, "id": "t", "debit_id": 1, "credit_id": 2, "amount_wei": BIG, "kind": "trial"}
    connection.execute(
        insert(TransferRow), [{**transfer, "reference": "", "at": 1, "payload": None, "digest": b"d", "hash": b"h"}]
    )
    hold = {"id": "h", "user_id": "ann", "request_id": "r", "amount_wei": BIG, "trial_wei": BIG, "posted_wei": 0}
    more = {"trial_posted_wei": 0, "released_wei": 0, "state": "open", "price_book": "p", "terms": "{}"}
    connection.execute(insert(HoldRow), [{**hold, **more, "created_at": 1, "expires_at": 2, "grace_until": None}])
    connection.execute(insert(UsageRow), [_used("u")])


def _used(name: str, **changes: object) -> dict[str, object]:
    """A usage record of version 0001."""
    texts = ("request_id", "user_id", "model", "deployment", "worker", "owner", "resource", "device_class", "line")
    wei = ("amount_wei", "worker_wei", "platform_wei", "trial_wei", "refunded_wei")
    amounts = (*wei, "quantity", "rows", "measured_ns", "events", "ask_bp")
    usage = {**dict.fromkeys(texts, "x"), **dict.fromkeys(amounts, 5), "id": name, "hold_id": "h", "step": 0, "at": 1}
    usage |= {
        "unit": "x",
        "units": "1",
        "price": "1/3",
        "events_digest": "e",
        "price_book": "p",
        "digest": b"d",
        "epoch": None,
    }
    return {**usage, **changes}


def _content(connection: Connection) -> list[object]:
    """Of the tables of version 0001, by the columns that they had then."""
    later = {"discount", "discount_wei"}
    tables = [table.__table__ for table in (AccountRow, TransferRow, HoldRow, UsageRow)]
    wanted = [select(*(column for column in table.columns if column.name not in later)) for table in tables]
    return [connection.execute(one).all() for one in wanted]


def test_the_tables_are_those_of_the_models(database: Database) -> None:
    migrate.upgrade(database)
    assert migrate.version(database) == migrate.latest()
    assert sign_in_models.CookieRow.__tablename__ in Base.metadata.tables
    assert gateway_models.OnceRow.__tablename__ in Base.metadata.tables
    assert deployment_models.AppRow.__tablename__ in Base.metadata.tables
    assert report_models.ReportRunRow.__tablename__ in Base.metadata.tables
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_new_one_is_what_the_steps_leave_in_an_empty_one(tmp_path: Path) -> None:
    """After a new step: `python -m tests.storage.fresh > rios/storage/fresh.sql`."""
    assert ScriptDirectory(Path(migrate.__file__).with_name("migrations")).get_current_head() == migrate.latest()
    assert fresh.made(tmp_path) == migrate.FRESH.read_text()
    database = Database(f"sqlite:///{tmp_path}/new.sqlite", timeout_s=20)
    migrate.upgrade(database)
    with database.reading() as connection:
        assert migrate.written(connection) == migrate.FRESH.read_text()
    database.close()


def test_an_older_database_is_migrated_with_what_is_in_it_and_back(database: Database) -> None:
    migrate.upgrade(database, "0001")
    with database.writing() as connection:
        _fill(connection)
        before = _content(connection)
    migrate.upgrade(database)
    assert migrate.version(database) == migrate.latest()
    with database.writing() as connection:
        assert _content(connection) == before
        epoch = {"number": 1, "state": "closed", "root": "0x", "total_wei": BIG, "head_seq": 1, "head_hash": b"h"}
        connection.execute(insert(EpochRow), [{**epoch, "closed_at": 1, "tx": None}])
        connection.execute(update(UsageRow).values(epoch=1))
    migrate.downgrade(database, "0001")
    with database.reading() as connection:
        assert _content(connection) == before
        assert "epochs" not in inspect(connection).get_table_names()
    migrate.upgrade(database)
    migrate.downgrade(database, "base")
    with database.reading() as connection:
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    migrate.upgrade(database)
    with database.reading() as connection:
        assert _content(connection) == [[], [], [], []]


def test_what_was_used_before_counts_in_its_month(database: Database) -> None:
    october, november, december = (month(name)[0] for name in ("2026-10", "2026-11", "2026-12"))
    used = [
        ("ann", november - 1, "tokens_in", 3), ("ann", november, "tokens_in", BIG), ("bob", november, "tokens_in", 7),
        ("ann", december - 1, "tokens_in", 4), ("ann", november + 5, "minimum", 9), ("ann", november, "expert:cpu", 2),
    ]  # fmt: skip
    migrate.upgrade(database, "0001")
    with database.writing() as connection:
        _fill(connection)
        for number, (user, at, line, quantity) in enumerate(used):
            row = _used(f"u{number}", user_id=user, at=at, line=line, quantity=quantity)
            connection.execute(insert(UsageRow), [row])
    migrate.upgrade(database)
    row = VolumeRow
    with database.reading() as connection:
        wanted = select(row.user_id, row.start, row.quantities).where(row.start > 0)
        found = {(user, start): json.loads(said) for user, start, said in connection.execute(wanted)}
    assert found == {
        ("ann", october): {"tokens_in": "3"},
        ("ann", november): {"expert:cpu": "2", "tokens_in": str(BIG + 4)},
        ("bob", november): {"tokens_in": "7"},
    }
    migrate.downgrade(database, "0019")
    migrate.upgrade(database)


def test_models_of_organisations_become_deployments_and_back(database: Database) -> None:
    migrate.upgrade(database, "0013")
    rows = [
        ("d1", "lab", "Big.Model", {"checkpoint": "big", "replicas": 2, "dtype": "float16", "partial": True}, 5),
        ("d2", "lab", "big-model", {"checkpoint": "demo", "replicas": None, "dtype": None, "partial": False}, 6),
    ]
    with database.writing() as connection:
        connection.execute(text("INSERT INTO organisations VALUES ('lab', 'Lab', false, 1)"))
        for name, organisation, model, said, at in rows:
            whole = json.dumps({**said, "wire_dtype": None, "private": False})
            connection.execute(
                text("INSERT INTO deployments VALUES (:id, :o, :n, :s, 'ann', :at)"),
                {"id": name, "o": organisation, "n": model, "s": whole, "at": at},
            )
        before = connection.execute(text("SELECT * FROM deployments ORDER BY id")).all()
    migrate.upgrade(database)
    app, revision = deployment_models.AppRow, deployment_models.AppRevisionRow
    with database.reading() as connection:
        apps = connection.execute(select(app.__table__).order_by(app.id)).mappings().all()
        said = [json.loads(one) for one in connection.scalars(select(revision.specification).order_by(revision.app_id))]
        digests = connection.scalars(select(revision.digest).order_by(revision.app_id)).all()
        events = connection.execute(text("SELECT seq, app_id, state FROM app_events ORDER BY seq")).all()
    assert "deployments" not in Base.metadata.tables
    assert [(one["name"], one["state"], one["wish"], one["user_id"]) for one in apps] == [
        ("big-model", "requested", "run", "ann"), ("big-model-2", "requested", "run", "ann"),
    ]  # fmt: skip
    assert [tuple(one) for one in events] == [(1, "d1", "requested"), (2, "d2", "requested")]
    wanted = [
        {
            "name": "big-model",
            "model": "big",
            "served_name": "Big.Model",
            "copies": 2,
            "dtype": "float16",
            "partial": True,
        },
        {"name": "big-model-2", "model": "demo", "served_name": "big-model"},
    ]
    then = {"scale": {"stabilise": 60.0, "idle": 300.0}}  # what these were without in that version
    for fields, one, digest in zip(wanted, said, digests, strict=True):
        asked = read_app({**fields, **then})
        assert (asked.stored(), asked.digest) == (one, digest), "as if it was asked for now"
    migrate.downgrade(database, "0013")
    with database.reading() as connection:
        after = connection.execute(text("SELECT * FROM deployments ORDER BY id")).all()
        assert [(*one[:3], json.loads(one[3]), *one[4:]) for one in after] == [
            (*one[:3], json.loads(one[3]), *one[4:]) for one in before
        ]
        assert connection.execute(text("SELECT count(*) FROM apps")).scalar() == 0
    migrate.upgrade(database)
    with database.reading() as connection:
        assert len(connection.execute(select(app.id)).all()) == 2


def _app(connection: Connection, name: str, *, at: int) -> None:
    """A deployment of version 0017 or later, which ended at a moment, or did not."""
    texts = dict.fromkeys(("organisation_id", "user_id", "state", "wish", "reason"), "")
    bounds = ("replicas", "replicas_min", "replicas_max")
    counts = (*bounds, "round", "reached", "failures", "retry_at", "since", "asked_at")
    row = {**texts, **dict.fromkeys(counts, 0), "id": name, "name": name, "revision": 2, "paid": True}
    connection.execute(insert(deployment_models.AppRow.__table__), [{**row, "created_at": 1, "ended_at": at}])


def test_volumes_lie_where_a_deployment_ran_last(database: Database) -> None:
    migrate.upgrade(database, "0017")
    revision, replica = deployment_models.AppRevisionRow.__table__, deployment_models.AppReplicaRow.__table__
    volumes = {"kept": {"/data": {"size": 5}}, "plain": {}, "gone": {"/data": {"size": 5}}}
    said = {"outcome": "", "address": "", "metered": "", "state": "ready"}
    numbers = dict.fromkeys(("round", "started_at", "ready_at", "ended_at", "period", "period_at"), 0)
    with database.writing() as connection:
        for name, mounted in volumes.items():
            _app(connection, name, at=int(name == "gone"))
            for number, one in ((1, {}), (2, mounted)):
                specification = json.dumps({"model": None, "volumes": one})
                mark = {"app_id": name, "number": number, "digest": "", "created_by": "", "created_at": 1}
                connection.execute(insert(revision), [{**mark, "specification": specification}])
            for at, host in enumerate(("a", "b", "a", "c", "b")):
                one = {"id": f"{name}-{at}", "app_id": name, "host": host, "revision": 2, "created_at": at}
                connection.execute(insert(replica), [{**said, **numbers, **one}])
    migrate.upgrade(database)
    place = deployment_models.AppPlaceRow
    rents = select(place.app_id, place.host, place.sizes, place.period).where(place.sizes != "")
    with database.reading() as connection:
        found = {tuple(one) for one in connection.execute(select(place.app_id, place.host, place.volumes))}
        rented = {(one[0], one[1]): one[2:] for one in connection.execute(rents)}
    assert found == {("plain", host, False) for host in "abc"} | {("kept", host, host == "b") for host in "abc"}
    assert rented == {("kept", "b"): ('{"/data": 5}', 0)}


def test_of_volumes_and_snapshots_it_is_known_what_is_to_be_done(database: Database) -> None:
    migrate.upgrade(database, "0022")
    snapshot = deployment_models.AppSnapshotRow.__table__
    kept = {"even": ("a", "b"), "few": ("a",)}
    with database.writing() as connection:
        _app(connection, "kept", at=0)
        _app(connection, "gone", at=9)
        connection.execute(text("INSERT INTO app_places (app_id, host, volumes) VALUES ('gone', 'c', false)"))
        for host, sizes in (("a", '{"/data": 5, "snapshots": 7}'), ("b", '{"/data": 5}')):
            connection.execute(
                text("INSERT INTO app_places (app_id, host, volumes, sizes) VALUES ('kept', :host, false, :sizes)"),
                {"host": host, "sizes": sizes},
            )
        older = [column.name for column in snapshot.columns if column.name != "uneven"]
        texts = dict.fromkeys(older, "")
        numbers = {**dict.fromkeys(("size_bytes", "quota_bytes", "created_at"), 1), "copies": 2}
        for name, hosts in kept.items():
            row = {**texts, **numbers, "id": name, "app_id": "kept", "state": "kept"}
            said = f"INSERT INTO app_snapshots ({', '.join(older)}) VALUES ({', '.join(f':{one}' for one in older)})"
            connection.execute(text(said), row)
            for host in hosts:
                said = "INSERT INTO app_snapshot_copies VALUES (:name, :host)"
                connection.execute(text(said), {"name": name, "host": host})
    migrate.upgrade(database)
    copy, place = deployment_models.AppSnapshotCopyRow, deployment_models.AppPlaceRow
    with database.reading() as connection:
        uneven = {one[0]: one[1] for one in connection.execute(select(snapshot.c.id, snapshot.c.uneven))}
        paid = {tuple(one[:2]): one[2] for one in connection.execute(select(copy.snapshot_id, copy.host, copy.paid))}
        ended = list(connection.scalars(select(place.host).where(place.ended)))
    assert ended == ["c"]
    assert uneven == {"even": False, "few": True}
    assert paid == {("even", "a"): True, ("even", "b"): False, ("few", "a"): True}
    migrate.downgrade(database, "0022")
    migrate.upgrade(database)


def test_what_was_published_before_is_to_be_kept(database: Database) -> None:
    migrate.upgrade(database, "0024")
    run, past = report_models.ReportRunRow.__table__, report_models.ReportHistoryRow.__table__
    same, first, second = "1" * 64, "2" * 64, "3" * 64
    files = [
        {"x.json": {"sha256": same, "bytes": 3}, "x.html": {"sha256": first, "bytes": 4}}, {},
        {"x.json": {"sha256": same, "bytes": 3}, "x.html": {"sha256": second, "bytes": 5}},
    ]  # fmt: skip
    with database.writing() as connection:
        texts = {one.name: "" for one in run.columns if not one.nullable and one.name not in ("id", "identity")}
        numbers = dict.fromkeys(("since_us", "until_us", "created_at", "not_before", "attempts"), 1)
        connection.execute(insert(run), [{**texts, **numbers, "id": "r", "identity": "r"}])
        texts = {one.name: "" for one in past.columns if not one.nullable}
        numbers = dict.fromkeys(("attempt", "started_at", "ended_at", "cpu_ns", "cost_wei"), 1)
        for seq, said in enumerate(files, 1):
            row = {**texts, **numbers, "seq": seq, "run_id": "r", "folder": f"v{seq}", "files": json.dumps(said)}
            connection.execute(insert(past), [row])
    migrate.upgrade(database)
    row = report_models.ReportFileRow
    with database.reading() as connection:
        columns = (row.sha256, row.size_bytes, row.folder, row.name, row.uneven)
        found = [tuple(one) for one in connection.execute(select(*columns).order_by(row.sha256))]
        keys = set(connection.scalars(select(row.seal_key)))
        others = [tuple(one) for one in connection.execute(select(report_models.ReportPlaceRow.__table__))]
    assert others == [(same, "v3", "x.json")]
    assert found == [
        (same, 3, "v1", "x.json", True), (first, 4, "v1", "x.html", True), (second, 5, "v3", "x.html", True),
    ]  # fmt: skip
    assert [len(key) for key in keys] == [64, 64, 64], "each has its own"
    migrate.downgrade(database, "0024")
    migrate.upgrade(database)


def test_a_newer_database_is_refused_by_name(database: Database) -> None:
    migrate.upgrade(database)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerUnavailable, match=r"of version 9999 .* up to \d{4}"):
        migrate.upgrade(database)
    with pytest.raises(LedgerUnavailable, match="9999"):
        migrate.downgrade(database, "0001")


def test_a_database_of_something_else_is_refused_and_left_alone(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE recipes (id INTEGER)"))
    with pytest.raises(LedgerUnavailable, match="recipes"):
        migrate.upgrade(database)
    with database.reading() as connection:
        assert inspect(connection).get_table_names() == ["recipes"]


def test_several_may_open_an_empty_database_at_once(url: str) -> None:
    errors: list[Exception] = []

    def open_it() -> None:
        database = Database(url, timeout_s=20)
        try:
            migrate.upgrade(database)
        except Exception as error:  # noqa: BLE001 (whatever it is, the test shows it)
            errors.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("change", ["UPDATE transfers SET amount_wei = '1'", "DELETE FROM transfers"])
def test_entries_cannot_be_changed(database: Database, change: str) -> None:
    migrate.upgrade(database)
    with database.writing() as connection:
        _fill(connection)
    with pytest.raises(DBAPIError, match="never changed"), database.writing() as connection:
        connection.execute(text(change.replace("'1'", "1") if not database.is_sqlite else change))


def test_a_path_with_any_characters_will_do(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/50% of it.sqlite", timeout_s=10)
    migrate.upgrade(database)
    assert migrate.version(database) == migrate.latest()
    database.close()
