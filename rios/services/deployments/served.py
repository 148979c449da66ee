"""The models of an organisation that are bound to no engine: what is wanted, and why one does not serve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, or_, select

from rios.deploy.lifecycle import Wish
from rios.services.deployments.values import App
from rios.storage.deployment_models import AppReplicaRow, AppRevisionRow, AppRow
from rios.words.errors import AlreadyExists

if TYPE_CHECKING:
    from rios.services.deployments.store import AppStore

Wanted = tuple[App, dict[str, Any]]


def served_name(specification: Mapping[str, Any]) -> str:
    """What requests call a model."""
    return str(specification.get("served_name") or specification["name"])


def models_of(store: AppStore, organisation_id: str) -> list[Wanted]:
    """Deployments with their wanted specifications, oldest first."""
    with store.ledger.database.reading() as connection:
        return models_in(connection, organisation_id)


def require_free(
    connection: Connection, organisation_id: str, specification: Mapping[str, Any], *, but: str = ""
) -> None:
    """Raise AlreadyExists where requests call another model of the organisation as they would call this one.

    What is bound to an engine is called by its own process alone. but: the deployment that this is about.
    """
    if specification["model"] is None:
        return
    name = served_name(specification)
    # The good revision too: it serves until another one does, and it is what a deployment goes back to.
    if any(app.id != but and served_name(one) == name for app, one in _models_in(connection, organisation_id)):
        raise AlreadyExists(f"there is a model {name!r} already; choose another name")


def models_in(connection: Connection, organisation_id: str) -> list[Wanted]:
    """As `models_of`, in a transaction of somebody else's."""
    return _models_in(connection, organisation_id, good=False)


def _models_in(connection: Connection, organisation_id: str, *, good: bool = True) -> list[Wanted]:
    app, revision = AppRow, AppRevisionRow
    number = revision.number == app.revision
    same = (revision.app_id == app.id) & (or_(number, revision.number == app.good_revision) if good else number)
    mine = (app.organisation_id == organisation_id, app.ended_at == 0, app.bound == "", app.wish != str(Wish.DELETE))
    wanted = select(app.__table__, revision.specification).join(revision, same).where(*mine)
    found = []
    for row in connection.execute(wanted.order_by(app.created_at, app.id)).mappings():
        columns = dict(row)
        specification = json.loads(columns.pop("specification"))
        if specification["model"] is not None:
            found.append((App.of(columns), specification))
    return found


def failures_of(store: AppStore, apps: Sequence[App]) -> dict[str, tuple[str, str]]:
    """By deployment, what its engine said last, and the class of that: where it has not served since."""
    tried = {app.id: app for app in apps if app.failures}
    if not tried:
        return {}
    row, found = AppReplicaRow, dict[str, tuple[str, str]]()
    columns = (row.app_id, row.revision, row.said, row.error, row.ready_at)
    wanted = select(*columns).where(row.app_id.in_(tried)).order_by(row.created_at, row.id)
    with store.ledger.database.reading() as connection:
        for one in connection.execute(wanted):
            if one.error and one.revision == tried[one.app_id].revision:
                found[one.app_id] = (one.said, one.error)
            elif one.ready_at:
                found.pop(one.app_id, None)
    return found
