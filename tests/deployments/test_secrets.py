"""Secrets of deployments: which values a revision has, whose they are, and files with them applied again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretBytes
from sqlalchemy import delete

from rios.services.deployments.hosts import Order
from rios.services.deployments.platform import Platform
from rios.services.deployments.service import Deployments
from rios.storage.deployment_models import AppRevisionRow
from rios.words.errors import DeploymentFailed, InvalidRequest, NotFound, SandboxFailed
from tests.deployments.test_many_hosts import WAIT_S
from tests.deployments.test_wishes import deploy, ready, stage
from tests.waiting import until

__all__ = ["deploy", "stage"]


def secret_file(place: Path, *apps: tuple[str, str]) -> Path:
    lines = [f"- {{name: {name}, command: [serve], secrets: {{TOKEN: {token}}}}}\n" for name, token in apps]
    place.write_text("version: 1\napps:\n" + "".join(lines))
    return place


def test_a_file_with_variables_is_applied_again_for_nothing(
    deploy: Deployments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIOS_OF_A_TEST", "shibboleth")
    file = secret_file(tmp_path / "rios.yaml", ("web", "{env: RIOS_OF_A_TEST}"))
    (app,) = deploy.apply(file)
    assert str(deploy.plan(file)) == "nothing web"
    deploy.apply(file)
    assert app.revision == 1
    monkeypatch.setenv("RIOS_OF_A_TEST", "sesame")
    assert str(deploy.plan(file)) == "update web\n  secrets.TOKEN: 'kept' -> 'given anew'"
    deploy.apply(file)
    assert app.revision == 2
    assert app.update(secrets={"TOKEN": "sesame"}) == 2


def test_secrets_whose_key_was_lost_are_given_anew(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RIOS_OF_A_TEST", "shibboleth")
    file = secret_file(tmp_path / "rios.yaml", ("web", "{env: RIOS_OF_A_TEST}"))
    (app,) = deploy.apply(file)
    monkeypatch.setattr(stage.secrets, "_cipher", AESGCM(bytes(32)))
    with pytest.raises(InvalidRequest, match="does not open"):
        stage.secrets.of(app._app(), app.specification["secrets"])
    assert str(deploy.plan(file)) == "update web\n  secrets.TOKEN: 'kept' -> 'given anew'"
    deploy.apply(file)
    assert app.revision == 2
    found = stage.secrets.of(app._app(), app.specification["secrets"])
    assert found["TOKEN"].get_secret_value() == b"shibboleth"


def test_values_of_secrets_are_a_revisions(
    deploy: Deployments, stage: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    host: Any = stage.hosts.now()["host-0"]
    given: dict[str, dict[str, str]] = {}
    """What each replica found when it was started, or was given anew since."""
    start, broken = host.start, threading.Event()

    def put(replica_id: str, secrets: Mapping[str, SecretBytes]) -> None:
        given[replica_id] = {name: value.get_secret_value().decode() for name, value in secrets.items()}

    def started(order: Order) -> Any:
        put(order.replica_id, order.secrets)
        if broken.is_set() and order.secrets["TOKEN"].get_secret_value() == b"bad":
            raise SandboxFailed("it does not start with that")
        return start(order)

    monkeypatch.setattr(host, "start", started)
    monkeypatch.setattr(host, "put_secrets", put)

    def has(*values: str) -> bool:
        """Whether the replica that runs has TOKEN and OTHER of these values."""
        found = [given.get(one.id, {}) for one in app.replicas]
        return [[one.get("TOKEN"), one.get("OTHER")] for one in found] == [list(values)]

    def until_has(*values: str) -> None:
        app.wait(timeout=WAIT_S)
        until(lambda: has(*values), f"{values} after {given}", deadline_s=WAIT_S)

    app = ready(deploy, secrets={"TOKEN": "a", "OTHER": "o"})
    assert has("a", "o")
    assert app.update(secrets={"TOKEN": "b"}) == 2
    until_has("b", "o")
    assert app.rollback() == 1
    until_has("a", "o")
    assert app.rollback(2) == 2, "and forth"
    until_has("b", "o")
    app.rollback(1)
    assert app.update(env={"N": "1"}) == 3, "of the first: it goes on with that one's values"
    until_has("a", "o")
    broken.set()
    assert app.update(secrets={"TOKEN": "bad"}) == 4
    with pytest.raises(DeploymentFailed):
        app.wait(timeout=WAIT_S)
    broken.clear()
    assert app.revision == 3
    app.restart()
    until_has("a", "o")
    assert app.update(secrets={"TOKEN": "bad"}) == 5, "it is not what is kept"
    until_has("bad", "o")
    app.rotate_secrets({"OTHER": "new"}, timeout=WAIT_S)
    assert has("bad", "new")
    app.rollback(2)
    until_has("b", "new")
    app.rotate_secrets({"TOKEN": "c"}, timeout=WAIT_S)
    app.rollback(1)
    until_has("c", "new")
    assert [one["name"] for one in app.secrets] == ["OTHER", "TOKEN"]


def test_what_was_the_organisations_is_that_again_after_going_back(deploy: Deployments, stage: Platform) -> None:
    deploy.secrets.put({"LENT": "ours"})
    app = ready(deploy, secrets={"LENT": {"store": "LENT"}})

    def has() -> bytes:
        return bytes(stage.secrets.of(app._app(), app.specification["secrets"])["LENT"].get_secret_value())

    assert has() == b"ours"
    app.update(secrets={"LENT": "mine"})
    assert has() == b"mine"
    app.rollback(1)
    assert has() == b"ours"
    for number in (3, 4):
        assert app.update(env={"N": str(number)}) == number
        assert has() == b"ours", "as in the revision before"
    app.rollback(2)
    assert has() == b"mine"
    app.rollback(4)
    app.update(secrets={"LENT": "mine"})
    assert has() == b"mine"
    app.delete(timeout=WAIT_S)
    deploy.secrets.delete("LENT")


def test_values_that_nobody_goes_back_to_are_forgotten(deploy: Deployments, stage: Platform) -> None:
    app = ready(deploy, secrets={"TOKEN": "0"})
    for number in range(1, 6):
        app.update(secrets={"TOKEN": str(number)})

    def kept() -> list[int]:
        with stage.store.ledger.database.reading() as connection:
            return sorted(stage.secrets._kept(connection, app._app())["TOKEN"])

    assert kept() == [0, 2, 3, 4, 5, 6]
    old = (AppRevisionRow.app_id == app.id, AppRevisionRow.number.in_((1, 2, 4)))
    stage.store.transact(lambda batch: batch.connection.execute(delete(AppRevisionRow).where(*old)))
    app.update(secrets={"TOKEN": "6"})
    assert kept() == [3, 5, 6, 7]
    of = {n: stage.secrets.of(app._app(), {"TOKEN": {}}, revision=n)["TOKEN"].get_secret_value() for n in (3, 5, 6, 7)}
    assert of == {3: b"2", 5: b"4", 6: b"5", 7: b"6"}
    app.delete(timeout=WAIT_S)
    with stage.store.ledger.database.reading() as connection:
        assert stage.secrets._kept(connection, app._app()) == {}


def test_a_mistake_in_the_last_changes_nothing_of_the_first(deploy: Deployments, tmp_path: Path) -> None:
    file = secret_file(tmp_path / "rios.yaml", ("web", "{store: X}"), ("other", "{env: RIOS_NOT_SET_ANYWHERE}"))
    for act in (deploy.plan, deploy.apply):
        with pytest.raises(InvalidRequest, match="RIOS_NOT_SET_ANYWHERE"):
            act(file)
    assert deploy.list() == ()


def test_an_organisations_secret_is_there_before_what_takes_it(
    deploy: Deployments, stage: Platform, tmp_path: Path
) -> None:
    file = secret_file(tmp_path / "rios.yaml", ("web", "{store: SHARED}"))
    with pytest.raises(NotFound, match="web refers to SHARED"):
        deploy.apply(file)
    assert deploy.list() == ()
    deploy.secrets.put({"SHARED": "shibboleth"})
    assert [one["name"] for one in deploy.secrets.list()] == ["SHARED"]
    (app,) = deploy.apply(file)
    app.wait(timeout=WAIT_S)

    def value() -> bytes:
        return stage.secrets.of(app._app(), app.specification["secrets"])["TOKEN"].get_secret_value()

    assert value() == b"shibboleth"
    deploy.secrets.put({"SHARED": "sesame", "OTHER": "x"})
    until(lambda: not app.behind() and "rotated" in {one.kind for one in app.events}, deadline_s=WAIT_S)
    assert value() == b"sesame"
    with pytest.raises(InvalidRequest, match="in use by web"):
        deploy.secrets.delete("SHARED")
    with pytest.raises(InvalidRequest, match="name of a secret"):
        deploy.secrets.put({"no name": "sesame"})
    app.delete(timeout=WAIT_S)
    for name in ("SHARED", "OTHER"):
        deploy.secrets.delete(name)
    with pytest.raises(NotFound):
        deploy.secrets.delete("SHARED")


def test_an_organisations_secret_stays_while_an_earlier_revision_may_need_it(
    deploy: Deployments, stage: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.secrets.put({"SHARED": "shibboleth"})
    (app,) = deploy.apply(secret_file(tmp_path / "rios.yaml", ("web", "{store: SHARED}")))
    app.wait(timeout=WAIT_S)
    host, may_start = stage.hosts.now()["host-0"], threading.Event()
    real = host.start
    monkeypatch.setattr(host, "start", lambda order: may_start.wait(WAIT_S) and real(order))
    (tmp_path / "rios.yaml").write_text("version: 1\napps:\n- {name: web, command: [serve]}\n")
    try:
        deploy.apply(tmp_path / "rios.yaml")
        assert app.revision == 2
        with pytest.raises(InvalidRequest, match="in use by web"):
            deploy.secrets.delete("SHARED")
    finally:
        may_start.set()
    app.wait(timeout=WAIT_S)
    until(lambda: {one.revision for one in app.replicas if one.lives} == {2}, deadline_s=WAIT_S)
    deploy.secrets.delete("SHARED")
