"""Secrets of deployments: AES-256-GCM under one key of the network, which is in a file or the environment.

What is encrypted is bound to whose it is and what it is called: a row that was moved elsewhere does not open.

A value of a deployment counts for all its revisions, or, where an update gave it, from that revision on: its row is of
`APP@REVISION` then. So a replica has the values of its own revision, whichever is wanted by then.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import os
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretBytes, SecretStr
from sqlalchemy import ColumnElement, delete, func, insert, or_, select

from rios.storage.deployment_models import AppRevisionRow, AppSecretRow
from rios.words.durable import first_kept, sync_names
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App
    from rios.storage.engine import Database

KEY_VARIABLE = "RIOS_SECRETS_KEY"
KEY_FILE = "secrets.key"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_BRING_BACK = (
    f"bring {KEY_FILE} back from a backup of the home, or set {KEY_VARIABLE} to it. Where it is lost, what is sealed "
    f"with it is too: write a new one (`openssl rand -hex {_KEY_BYTES}`) there, and give all secrets anew"
)
_SHARED = ""
"""In the place of a deployment's id: of its organisation."""
_SHARED_FROM = b""
"""In the place of what is sealed: from that revision on it is the organisation's again."""
_FROM = "@"
"""Between a deployment's id and the revision from which its value counts. No id has it."""


def open_secrets_key(home: Path | None, database: Database | None = None) -> bytes:
    """The key: of RIOS_SECRETS_KEY (64 hexadecimal digits), of the home's file, or one that ends with the process.

    database: of the network; where secrets are sealed in it, a home that has no key gets no new one. Raises
    InvalidRequest for that, and for a key of another form.
    """
    said, where = os.environ.get(KEY_VARIABLE), f"what {KEY_VARIABLE} says"
    if said is None and home is not None:
        path = home / KEY_FILE
        said, where = _kept(path, database), f"what {path} says"
    if said is None:
        return secrets.token_bytes(_KEY_BYTES)
    try:
        key = bytes.fromhex(said)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        wrong = "nothing" if not said else f"not {2 * _KEY_BYTES} hexadecimal digits"
        raise InvalidRequest(f"the key of secrets, {where}, is {wrong}: {_BRING_BACK}")
    return key


def _kept(path: Path, database: Database | None) -> str:
    """What the file of the key says, which is made where there is none."""
    # In this order: who seals something has kept the key before.
    if not path.exists() and database is not None and _is_used(database) and not path.exists():
        raise InvalidRequest(f"there are secrets in {database.name}, and {path}, their key, is missing: {_BRING_BACK}")
    if path.exists():
        return path.read_text().strip()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    said = first_kept(path, secrets.token_hex(_KEY_BYTES).encode()).decode().strip()
    sync_names(path.parent.parent)
    return said


def _is_used(database: Database) -> bool:
    with database.reading() as connection:
        return connection.execute(select(AppSecretRow.name).limit(1)).first() is not None


class SecretStore:
    """The secrets of a network's deployments."""

    def __init__(self, store: AppStore, key: bytes) -> None:
        self._store = store
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "<SecretStore>"

    def put(self, connection: Connection, app: App, values: Mapping[str, SecretStr], *, at: int) -> None:
        """Keep values of a deployment's secrets for all its revisions, in a transaction of the caller's; other ones
        stay."""
        row = AppSecretRow
        mine = (row.organisation_id == app.organisation_id, _of_app(app.id), row.name.in_(values))
        connection.execute(delete(row).where(*mine))
        self._put(connection, app.organisation_id, app.id, values, at=at)

    def put_from(
        self, connection: Connection, app: App, values: Mapping[str, SecretStr], *, revision: int, at: int
    ) -> None:
        """As `put`, from a new revision on. Those that are not given go on as they are in the one before, which is not
        always the last: it may be one that was gone back to."""
        goes_on, owner = dict(values), f"{app.id}{_FROM}{revision}"
        kept, shared = self._kept(connection, app), set[str]()
        for name, rows in kept.items():
            if name not in values and min(rows) > app.revision:  # it has the organisation's there
                shared.add(name)
            elif name not in values and max(rows) > app.revision:
                with contextlib.suppress(InvalidRequest):  # its key was lost
                    goes_on[name] = SecretStr(self._opened(_at(rows, app.revision)).decode())
        self._put(connection, app.organisation_id, owner, goes_on, at=at)
        mark = {"organisation_id": app.organisation_id, "app_id": owner, "sealed": _SHARED_FROM, "changed_at": at}
        if shared:
            connection.execute(insert(AppSecretRow), [{**mark, "name": name} for name in sorted(shared)])
        numbers = set(connection.scalars(select(AppRevisionRow.number).where(AppRevisionRow.app_id == app.id)))
        for name, rows in kept.items():
            starts = sorted({*rows, *([revision] if name in goes_on or name in shared else [])})
            for start, end in itertools.pairwise(starts):
                if not any(start <= number < end for number in numbers):  # nobody goes back to it any more
                    gone = rows[start]
                    mine = [getattr(AppSecretRow, key) == gone[key] for key in ("organisation_id", "app_id", "name")]
                    connection.execute(delete(AppSecretRow).where(*mine))

    def _kept(self, connection: Connection, app: App) -> dict[str, dict[int, dict[str, Any]]]:
        """The rows of a deployment's own secrets, by name and by the revision from which each counts."""
        row = AppSecretRow
        mine = (row.organisation_id == app.organisation_id, _of_app(app.id))
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for one in connection.execute(select(row.__table__).where(*mine)).mappings():
            found.setdefault(one["name"], {})[_from(one["app_id"])] = dict(one)
        return found

    def put_shared(
        self, connection: Connection, organisation_id: str, values: Mapping[str, SecretStr], *, at: int
    ) -> None:
        """As `put`, of an organisation's own: any of its deployments may refer to them."""
        self._put(connection, organisation_id, _SHARED, values, at=at)

    def _put(
        self, connection: Connection, organisation_id: str, app_id: str, values: Mapping[str, SecretStr], *, at: int
    ) -> None:
        for name, value in values.items():
            mine = {"organisation_id": organisation_id, "app_id": app_id, "name": name}
            connection.execute(delete(AppSecretRow).where(*[getattr(AppSecretRow, k) == v for k, v in mine.items()]))
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = nonce + self._cipher.encrypt(nonce, value.get_secret_value().encode(), _about(mine))
            connection.execute(insert(AppSecretRow), [{**mine, "sealed": sealed, "changed_at": at}])

    def drop(self, connection: Connection, app: App) -> None:
        """Forget the secrets of a deployment."""
        connection.execute(delete(AppSecretRow).where(_of_app(app.id)))

    def drop_shared(self, connection: Connection, organisation_id: str, name: str) -> bool:
        """Forget a secret of an organisation; whether there was one."""
        row = AppSecretRow
        mine = (row.organisation_id == organisation_id, row.app_id == _SHARED, row.name == name)
        return connection.execute(delete(row).where(*mine)).rowcount > 0

    def changed(self, connection: Connection, app: App, values: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
        """Those of `values` that the wanted revision of a deployment does not have already, or not in a form that
        opens."""
        kept = self._kept(connection, app) if values else {}
        return {
            name: value
            for name, value in values.items()
            if name not in kept or not self._is(_at(kept[name], app.revision), value)
        }

    def _is(self, row: dict[str, Any], value: SecretStr) -> bool:
        if row["sealed"] == _SHARED_FROM:
            return False
        try:
            return hmac.compare_digest(self._opened(row), value.get_secret_value().encode())
        except InvalidRequest:  # its key was lost: giving values anew is what helps
            return False

    def require(self, connection: Connection, app: App, names: Collection[str]) -> None:
        """Raise NotFound unless all that a deployment refers to is kept, for it or for its organisation."""
        row = AppSecretRow
        mine = (row.organisation_id == app.organisation_id, or_(_of_app(app.id), row.app_id == _SHARED))
        kept = set(connection.scalars(select(row.name).where(*mine)))
        if missing := sorted(set(names) - kept):
            raise NotFound(
                f"{app.name} refers to {', '.join(missing)}, and no such secret is kept; give the value by "
                '`net.deploy.secrets.put({"NAME": ...})` or `rios org-secret NAME`'
            )

    def names(
        self, app_id: str, *, organisation_id: str | None = None, after: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        """The secrets of a deployment, or with an empty id of an organisation, by name, those after a name: name and
        changed_at of each."""
        row = AppSecretRow
        mine = () if organisation_id is None else (row.organisation_id == organisation_id,)
        changed_at = func.max(row.changed_at).label("changed_at")
        whose = _of_app(app_id) if app_id else row.app_id == _SHARED
        wanted = select(row.name, changed_at).where(whose, row.name > after, *mine).group_by(row.name)
        with self._store.ledger.database.reading() as connection:
            return [dict(one) for one in connection.execute(wanted.order_by(row.name).limit(limit)).mappings()]

    def of(
        self, app: App, references: Mapping[str, Mapping[str, str]], *, revision: int | None = None
    ) -> dict[str, SecretBytes]:
        """The secrets that a specification refers to, by the names they have inside: as they are in a revision of it,
        the wanted one without. Raises NotFound."""
        row = AppSecretRow
        found: dict[str, SecretBytes] = {}
        with self._store.ledger.database.reading() as connection:
            own = self._kept(connection, app) if references else {}
            for name, reference in references.items():
                kept = reference.get("store", name)
                shared = (row.organisation_id == app.organisation_id, row.app_id == _SHARED, row.name == kept)
                number = app.revision if revision is None else revision
                # Its own comes before the organisation's, from the revision on that brought it.
                mine = _at(own[kept], number) if kept in own else None
                one: Mapping[Any, Any] | None = mine
                if mine is None or min(own[kept]) > number or mine["sealed"] == _SHARED_FROM:
                    one = connection.execute(select(row.__table__).where(*shared)).mappings().first() or mine
                if one is None or one["sealed"] == _SHARED_FROM:
                    raise NotFound(f"{app.name} refers to the secret {kept!r}, which is not kept; give its value again")
                found[name] = SecretBytes(self._opened(dict(one)))
        return found

    def own(self, connection: Connection, app: App, name: str) -> SecretBytes | None:
        """A secret of a deployment's own; None where it has none of that name, or one that does not open."""
        row = AppSecretRow
        mine = (row.organisation_id == app.organisation_id, row.app_id == app.id, row.name == name)
        one = connection.execute(select(row.__table__).where(*mine)).mappings().first()
        try:
            return None if one is None else SecretBytes(self._opened(dict(one)))
        except InvalidRequest:  # its key was lost
            return None

    def _opened(self, row: dict[str, Any]) -> bytes:
        mine = {name: row[name] for name in ("organisation_id", "app_id", "name")}
        sealed = bytes(row["sealed"])
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _about(mine))
        except InvalidTag as error:
            raise InvalidRequest(
                f"the secret {row['name']!r} does not open with this network's key; is {KEY_VARIABLE} right?"
            ) from error


def _of_app(app_id: str) -> ColumnElement[bool]:
    """The rows of a deployment's own, of whatever revision."""
    row = AppSecretRow
    return or_(row.app_id == app_id, row.app_id.startswith(f"{app_id}{_FROM}", autoescape=True))


def _from(owner: str) -> int:
    """The revision from which a row of a deployment counts; 0 for all."""
    return int(owner.partition(_FROM)[2] or 0)


def _at(rows: Mapping[int, dict[str, Any]], revision: int) -> dict[str, Any]:
    """The one that counts in a revision; the first where all came later."""
    return rows[max((start for start in rows if start <= revision), default=min(rows))]


def _about(mine: Mapping[str, str]) -> bytes:
    return "\0".join(mine[name] for name in ("organisation_id", "app_id", "name")).encode()
