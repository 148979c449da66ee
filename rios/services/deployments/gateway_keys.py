"""Keys by which applications ask the models of their network: one for each deployment whose egress names the gateway.

A key may generate and nothing else, and is its user's: what is asked by it is paid by whom the application is paid
by. It is made when a replica first starts, kept encrypted beside the deployment's secrets, and revoked with it. One
that its user revoked is not used again: what starts then gets another, and what runs on has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretBytes, SecretStr
from sqlalchemy import update

from rios.accounts.store import first, record
from rios.accounts.tokens import fingerprint
from rios.deploy.spec import TOKEN
from rios.services.accounts import first_person
from rios.services.books import LOCAL_USER
from rios.services.deployments.store import require_leader
from rios.services.tokens import new_key
from rios.storage.models import ApiKeyRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.secrets import SecretStore
    from rios.services.deployments.store import AppStore, Lease
    from rios.services.deployments.values import App

SCOPES = frozenset(("generate",))


class GatewayKeys:
    """The keys of a network's deployments."""

    def __init__(self, store: AppStore, secrets: SecretStore) -> None:
        self._store, self._secrets = store, secrets

    def __repr__(self) -> str:
        return "<GatewayKeys>"

    def of(self, app: App, *, lease: Lease) -> SecretBytes:
        """The key of a deployment; made where there is none that is good. Raises NotLeader."""
        with self._store.ledger.database.reading() as connection:
            known = self._good(connection, app)
        if known is not None:
            return known
        at = self._store.ledger.now()

        def run(connection: Connection) -> SecretBytes:
            require_leader(connection, *lease)
            known = self._good(connection, app)  # another replica's start may have made one
            if known is not None:
                return known
            self.revoke(connection, app, at=at)
            if app.user_id == LOCAL_USER:
                first_person(connection, at=at)
            key, secret = new_key(connection, app.user_id, _name(app), SCOPES, at)
            self._secrets.put(connection, app, {TOKEN: SecretStr(secret)}, at=at)
            record(
                connection, at=at, organisation_id=app.organisation_id, actor=app.user_id, action="token.create",
                object=key.id, detail={"scopes": " ".join(SCOPES), "deployment": app.id},
            )  # fmt: skip
            return SecretBytes(secret.encode())

        found: SecretBytes = self._store.transact(lambda batch: run(batch.connection))
        return found

    def _good(self, connection: Connection, app: App) -> SecretBytes | None:
        known = self._secrets.own(connection, app, TOKEN)
        if known is None:
            return None
        mark = fingerprint(known.get_secret_value().decode())
        living = (ApiKeyRow.fingerprint == mark, ApiKeyRow.user_id == app.user_id, ApiKeyRow.revoked_at.is_(None))
        return None if first(connection, ApiKeyRow, *living) is None else known

    def revoke(self, connection: Connection, app: App, *, at: int) -> None:
        """End the key of a deployment, where it has one."""
        row = ApiKeyRow
        mine = (row.user_id == app.user_id, row.name == _name(app), row.revoked_at.is_(None))
        connection.execute(update(row).where(*mine).values(revoked_at=at))


def _name(app: App) -> str:
    """What users see in the list of their keys; no other deployment has it."""
    return f"application {app.name} {app.id}"
