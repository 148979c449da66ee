"""Which image a revision is: its name is resolved once, where it is started first, and is that digest from then on.

So a name that is moved changes nothing of what runs, on any host, after restarts or roll-backs; a new revision resolves
it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select

from rios.deploy.runtimes.protocol import ImageBase
from rios.services.deployments.hosts import Host
from rios.services.deployments.store import AppStore, Lease, require_leader, write_event
from rios.storage.deployment_models import AppImageRow

if TYPE_CHECKING:
    from rios.services.deployments.values import App


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
    found = host.prepare(specification)
    if found is None:
        return None
    held = _keep(store, app, revision, str(specification["image"]), found, lease=lease)
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


def _read(connection: Connection, app_id: str, revision: int) -> ImageBase | None:
    row = AppImageRow
    wanted = select(row.digest, row.source).where(row.app_id == app_id, row.revision == revision)
    found = connection.execute(wanted).first()
    return None if found is None else ImageBase(found.digest, found.source)
