"""Secrets of an organisation: `net.deploy.secrets`. Its applications take them by `{store: NAME}`, new ones too."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, TypeAdapter, ValidationError
from sqlalchemy import Connection, select

from rios.deploy.spec import SecretName
from rios.services.deployments.given import secret_values
from rios.services.deployments.store import SECRETS, needed_specifications, write_event
from rios.storage.deployment_models import AppSecretRow
from rios.words.display import Shown
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from rios.services.deployments.platform import Platform
    from rios.services.deployments.values import App

_NAMES = TypeAdapter(list[SecretName])


def shared_values(values: Mapping[str, Any]) -> dict[str, SecretStr]:
    """Values by names that secrets may have. Raises InvalidRequest, which shows none of the values."""
    found = secret_values(values)
    try:
        _NAMES.validate_python(list(found))
    except ValidationError as error:
        raise InvalidRequest(
            "the name of a secret is letters, digits and _ . - and begins with a letter or _"
        ) from error
    return found


class SharedSecrets(Shown):
    """The secrets of one organisation. No value comes back out."""

    def __init__(self, platform: Callable[[], Platform], *, organisation_id: str, by: str) -> None:
        self._platform = platform
        self._organisation_id = organisation_id
        self._by = by

    def __repr__(self) -> str:
        return f"<SharedSecrets of {self._organisation_id}>"

    def list(self, *, after: str = "", limit: int | None = None) -> builtins.list[dict[str, Any]]:
        """A row with name and changed_at of each, by name; of so many after a name."""
        return self._platform().secrets.names("", organisation_id=self._organisation_id, after=after, limit=limit)

    def put(self, values: Mapping[str, str]) -> None:
        """Keep values by their names, such as {"TOKEN": "..."}, in place of those that are. Running replicas of
        applications that refer to them have them at once. Raises InvalidRequest."""
        platform, given = self._platform(), shared_values(values)
        at = platform.store.ledger.now()

        def run(connection: Connection) -> None:
            platform.secrets.put_shared(connection, self._organisation_id, given, at=at)
            for app, names in self._users(connection).items():
                if told := sorted(names & given.keys()):
                    write_event(connection, app, at, SECRETS, f"{self._by} gave {', '.join(told)} anew")

        platform.store.transact(lambda batch: run(batch.connection))
        platform.changed()

    def delete(self, name: str) -> None:
        """Keep a secret no longer. Raises NotFound, and InvalidRequest where applications refer to it."""
        platform = self._platform()

        def run(connection: Connection) -> None:
            users = sorted(app.name for app, names in self._users(connection).items() if name in names)
            if users:
                raise InvalidRequest(f"the secret {name!r} is in use by {', '.join(users)}; update those before")
            if not platform.secrets.drop_shared(connection, self._organisation_id, name):
                raise NotFound(f"the organisation has no secret {name!r}")

        platform.store.transact(lambda batch: run(batch.connection))

    def _users(self, connection: Connection) -> dict[App, set[str]]:
        """The applications that there are, with the names of what they take of the organisation's secrets."""
        row = AppSecretRow
        own = {
            (one.app_id, one.name)
            for one in connection.execute(
                select(row.app_id, row.name).where(row.organisation_id == self._organisation_id, row.app_id != "")
            )
        }
        found: dict[App, set[str]] = {}
        for app, specification in needed_specifications(connection, self._organisation_id):
            wanted = {reference.get("store", name) for name, reference in specification["secrets"].items()}
            found.setdefault(app, set()).update(name for name in wanted if (app.id, name) not in own)
        return found
