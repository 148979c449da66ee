"""What a replica stands on is brought to its host: an archive, and snapshots that its volumes begin with.

A host is given what it lacks by whichever has it (`relaying`), before anything is held or settled for the replica.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from rios.services.deployments.archives import archive_of
from rios.services.deployments.relaying import Relaying, snapshots_of
from rios.services.deployments.snapshots import EVENT, FAILED, WANTED, is_archive, one_of, restored_from
from rios.services.deployments.store import AppStore, Lease, NotYet, require_leader
from rios.words.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.host_snapshots import Snapshots
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.snapshots import Known
    from rios.services.deployments.values import App


class Bringing:
    """What one reconciler brings to hosts."""

    def __init__(self, store: AppStore, relaying: Relaying) -> None:
        self._store, self._relaying = store, relaying

    def __repr__(self) -> str:
        return f"<Bringing by {self._relaying!r}>"

    def unmade(self, app: App, specification: Mapping[str, Any], host: Host) -> Collection[str]:
        """Where volumes of a deployment are to be made out of snapshots on a host."""
        found = [path for path, _, _ in restored_from(specification)]
        return [path for path in found if not snapshots_of(host).is_made(app.organisation_id, app.id, path)]

    def bring(
        self,
        app: App,
        specification: Mapping[str, Any],
        host: Host,
        lease: Lease,
        *,
        restores: bool,
        check: Callable[[], None],
    ) -> None:
        """Have an archive unpacked, and volumes that begin with a snapshot made, where they are not there.

        restores: whether there may be such volumes. check: raises where it is to end. Raises NotFound where an archive
        or snapshot is gone, SandboxFailed, and NotYet where no host that keeps it answers, or this one is busy with
        another volume: the deployment says so.
        """
        try:
            if specification["rootfs"] is not None:
                self._unpacked(app, specification, host, lease, check=check)
            if restores:
                self._restored(app, specification, host, lease, check=check)
        except NotYet as error:
            why = f"it waits for what it is to begin with: {error}"

            def change(now: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
                require_leader(connection, *lease)
                return ({}, "", "") if now.reason == why else ({"reason": why}, EVENT, why)

            self._store.change(app.id, change, at=self._store.ledger.now())
            raise

    def _unpacked(
        self, app: App, specification: Mapping[str, Any], host: Host, lease: Lease, *, check: Callable[[], None]
    ) -> None:
        one = archive_of(self._store, app, specification)

        def ask() -> list[str]:
            return host.unpack(specification, one.digest)

        def put(digest: str, data: bytes) -> None:
            snapshots_of(host).put(digest, data)

        if one.state == WANTED:
            if ask():  # where it is there already, nobody has to keep it
                raise NotYet(f"its archive is not kept yet{f': {one.reason}' if one.reason else ''}")
            return
        self._relaying.bring(one, ask, put, lease, check=check)

    def _restored(
        self, app: App, specification: Mapping[str, Any], host: Host, lease: Lease, *, check: Callable[[], None]
    ) -> None:
        missing = self.unmade(app, specification, host)
        for path, name, size in restored_from(specification):
            if path not in missing:
                continue
            with self._store.ledger.database.reading() as connection:
                one = one_of(connection, app.organisation_id, name)
            if one is None or one.state == FAILED or is_archive(one):
                raise NotFound(f"the snapshot {name}, which {path} is to begin with, was deleted")
            if one.state == WANTED:
                raise NotYet(f"{name} is not taken yet")
            snapshots = snapshots_of(host)

            def ask(path: str = path, size: int = size, one: Known = one, to: Snapshots = snapshots) -> list[str]:
                with self._relaying.turn(host.name):
                    return to.restore(app.organisation_id, app.id, path, size_bytes=size, digest=one.digest)

            self._relaying.bring(one, ask, snapshots.put, lease, check=check)
