"""Which image a revision is: its name is resolved once, where it is started first, and is that digest from then on.

So a name that is moved changes nothing of what runs, on any host, after restarts or roll-backs; a new revision resolves
it anew. Hosts hold images of several organisations, fetched or loaded by whoever runs them: the network's own takes any
that is there, another one what its registry gives, or gave to that organisation before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select

from rios.deploy.runtimes.protocol import ImageBase
from rios.services.books import FIRST_ORGANISATION
from rios.services.deployments.hosts import Host
from rios.services.deployments.store import AppStore, Lease, require_leader, write_event
from rios.storage.deployment_models import AppImageRow, AppRevisionRow, AppRow
from rios.words.errors import NotFound, SandboxFailed

if TYPE_CHECKING:
    from rios.services.deployments.values import App

log = logging.getLogger(__name__)

_REMEMBERED = 200
"""So many of an organisation's last images are looked through where a registry does not give one."""


def image_of(store: AppStore, app_id: str, revision: int) -> ImageBase | None:
    """What a revision's image is; None where it was not resolved yet, or the revision has none."""
    with store.ledger.database.reading() as connection:
        return _read(connection, app_id, revision)


def resolved_on(
    host: Host, store: AppStore, app: App, revision: int, specification: Mapping[str, Any], *, lease: Lease
) -> ImageBase | None:
    """Resolve the image of a revision that is not resolved yet, on a host, and keep it; the image that holds.

    Another host may have been quicker: its answer holds then, and this host fetches that. Raises what `prepare` raises.
    """
    name, first = str(specification["image"]), app.organisation_id == FIRST_ORGANISATION
    try:
        found = host.prepare(specification, here=first)
    except (NotFound, SandboxFailed) as error:  # the second: there is no room for what the registry has
        before = None if first else _of_organisation(store, app.organisation_id, name)
        if before is None:
            raise
        log.warning("an image is as it was before", extra={"image": name, "reason": str(error)})
        found = host.prepare(specification, before)
    if found is None:
        return None
    held = _keep(store, app, revision, name, found, lease=lease)
    if held != found:
        host.prepare(specification, held)
    return held


def _keep(store: AppStore, app: App, revision: int, name: str, found: ImageBase, *, lease: Lease) -> ImageBase:
    at = store.ledger.now()

    def run(connection: Connection) -> ImageBase:
        require_leader(connection, *lease)
        if (held := _read(connection, app.id, revision)) is not None:
            return held
        row = {"app_id": app.id, "revision": revision, "digest": found.digest, "source": found.source}
        connection.execute(insert(AppImageRow), [{**row, "resolved_at": at}])
        write_event(connection, app, at, "image", f"{name} of revision {revision} is {found.digest}")
        return found

    return store.transact(lambda batch: run(batch.connection))


def _of_organisation(store: AppStore, organisation_id: str, name: str) -> ImageBase | None:
    """What a name, or an id, led an organisation to when a registry gave it the image last."""
    row, revision = AppImageRow, AppRevisionRow
    wanted = (
        select(row.digest, row.source, revision.specification)
        .join(revision, (revision.app_id == row.app_id) & (revision.number == row.revision))
        .join(AppRow, AppRow.id == row.app_id)
        .where(AppRow.organisation_id == organisation_id)
        .order_by(row.resolved_at.desc())
        .limit(_REMEMBERED)
    )
    with store.ledger.database.reading() as connection:
        for digest, source, specification in connection.execute(wanted):
            if name in (digest, source, json.loads(specification)["image"]):
                return ImageBase(digest, source)
    return None


def _read(connection: Connection, app_id: str, revision: int) -> ImageBase | None:
    row = AppImageRow
    wanted = select(row.digest, row.source).where(row.app_id == app_id, row.revision == revision)
    found = connection.execute(wanted).first()
    return None if found is None else ImageBase(found.digest, found.source)
