"""The verbs of deployments, for one user: `net.deploy`. They write what is wanted, and act on nothing."""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from rios.deploy.functions import packed
from rios.deploy.lifecycle import State, Wish
from rios.deploy.reading import read_app, read_file
from rios.deploy.runtimes.rootfs import split_name
from rios.deploy.spec import App as Specification
from rios.deploy.spec import SecretRef, differences
from rios.deploy.volume_names import check_new
from rios.services.deployments.bound import new_app
from rios.services.deployments.given import kept_names
from rios.services.deployments.handle import Deployment, begun_anew
from rios.services.deployments.kept_volumes import KeptVolumes, take
from rios.services.deployments.rules import CREATED, Rules
from rios.services.deployments.served import require_free
from rios.services.deployments.shared_secrets import SharedSecrets
from rios.services.deployments.snapshots import require
from rios.services.deployments.spans import scaled_to
from rios.services.deployments.values import App
from rios.services.deployments.views import AppView, AppWhole, views_of, wholes_of
from rios.services.lazy import Lazy
from rios.words.display import Shown, said
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.services.deployments.platform import Platform
    from rios.services.deployments.store import AppStore


@dataclass(frozen=True, slots=True)
class Change(Shown):
    """What applying a file would do to one deployment."""

    name: str
    action: str
    """create, update, or nothing."""
    fields: tuple[tuple[str, Any, Any], ...] = ()
    """Field, what it is, what it would be."""

    def __str__(self) -> str:
        lines = [f"{self.action} {self.name}"]
        lines += [f"  {field}: {before!r} -> {after!r}" for field, before, after in self.fields]
        return "\n".join(lines)


class Plan(Shown, tuple[Change, ...]):
    """What applying a file would do, in the file's order."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing"

    def __repr__(self) -> str:
        counted = {one: sum(change.action == one for change in self) for one in ("create", "update", "nothing")}
        return f"<Plan {', '.join(f'{count} {one}' for one, count in counted.items() if count) or 'of nothing'}>"

    def _table(self) -> tuple[tuple[str, str, str, str, str], list[tuple[str, str, str, str, str]]]:
        rows = []
        for one in self:
            fields = [(field, said(before), said(after)) for field, before, after in one.fields] or [("", "", "")]
            rows += [(one.name, one.action, *field) for field in fields]
        return ("deployment", "action", "field", "before", "after"), rows


class Deployments(Shown):
    """Applications and models on a network: `net.deploy`."""

    def __init__(
        self, platform: Callable[[], Platform], *, user_id: str, organisation_id: str, rules: Rules | None = None
    ) -> None:
        """rules: those of whoever has the process without."""
        self._platform = platform
        self._rules = rules or Rules()
        self._user_id = user_id
        self._organisation_id = organisation_id

    def __repr__(self) -> str:
        return f"<Deployments of {self._organisation_id}>"

    def create(self, *, name: str, **fields: Any) -> Deployment:
        """Want a deployment. It starts in the background: `wait()` until it is ready.

        name: lower case letters, digits and hyphens; unique among those there are. One of `image`, `rootfs`, `python`,
        `model`, or `command` alone, says what runs. The other fields, with their defaults, are those of
        `rios.deploy.spec.App`: port, env, secrets, volumes, resources, replicas, runtime, egress, health, scale,
        schedule, update, restart, grace, access, budget.

        Raises InvalidRequest, which names the field, and AlreadyExists.
        """
        return self.create_from(read_app(with_function({"name": name, **fields})))

    def create_from(self, wanted: Specification) -> Deployment:
        """As `create`, of a specification that was read already."""
        from rios.services.deployments.archives import Standing

        platform = self._platform()
        store = platform.store
        stands = Standing(resolved(self._rules.checked(wanted)), lambda: platform.hosts)
        stands.give(store)
        wanted, now = stands.wanted, store.ledger.now()
        app = new_app(wanted, user_id=self._user_id, organisation_id=self._organisation_id, at=now)
        given, stored = wanted.secret_values(), wanted.stored()

        def before(connection: Connection) -> None:
            require_free(connection, self._organisation_id, stored)
            check_new(stored["volumes"])
            require(connection, self._organisation_id, stored)
            stands.require(connection, app)
            platform.secrets.require(connection, app, kept_names(stored) - given.keys())
            take(connection, app, stored)

        def also(connection: Connection) -> None:
            if given:
                platform.secrets.put(connection, app, given, at=now)
            stands.record(connection, app, by=self._user_id, at=now)
            self._rules.record(connection, app, stored, action=CREATED, at=now)

        store.create(
            app, stored, wanted.digest, by=self._user_id, cause=f"{self._user_id} asked for it",
            also=also, before=before,
        )  # fmt: skip
        stands.keep(app.id)
        platform.changed()
        return self._handle(app)

    def _handle(self, app: App) -> Deployment:
        return Deployment(self._platform, app.id, app.name, by=self._user_id, rules=self._rules)

    def get(self, name: str) -> Deployment:
        """A deployment by its name. Raises NotFound."""
        found = self._platform().store.named(self._organisation_id, name)
        return self._handle(found)

    def list(self) -> tuple[Deployment, ...]:
        """The deployments of the organisation, by name."""
        found = self._platform().store.apps(self._organisation_id)
        return tuple(self._handle(app) for app in found)

    @property
    def secrets(self) -> SharedSecrets:
        """The organisation's own secrets, which its applications take by `{store: NAME}`."""
        return SharedSecrets(self._platform, organisation_id=self._organisation_id, by=self._user_id)

    @property
    def volumes(self) -> KeptVolumes:
        """The volumes that were kept when their deployments were deleted, for new ones to take, or to be removed."""
        return KeptVolumes(self._platform, organisation_id=self._organisation_id, by=self._user_id)

    def views(self) -> tuple[AppView, ...]:
        """All that a panel shows of those that there are, at one moment, by name."""
        if isinstance(self._platform, Lazy) and not self._platform.is_made:
            return ()  # it is made where there is a deployment, and to look is no reason to make it
        store = self._platform().store
        return tuple(views_of(store, store.apps(self._organisation_id)))

    def rows(self, *, after: str, limit: int) -> builtins.list[App]:
        """So many of the deployments of the organisation, by name, that follow the name `after`."""
        return self._platform().store.apps(self._organisation_id, after=after, limit=limit)

    def wholes(self, apps: Sequence[App]) -> builtins.list[AppWhole]:
        """All that a gateway says of these, in their order."""
        return wholes_of(self._platform().store, apps, self._rules)

    def plan(self, source: str | Path | Sequence[Specification]) -> Plan:
        """What `apply` would do: a file in YAML, or specifications. Nothing is changed. Raises InvalidRequest."""
        from rios.services.deployments.archives import Standing

        platform = self._platform()
        store, changes = platform.store, []
        for unread in self._resolved(source):
            wanted = Standing(unread, lambda: platform.hosts).wanted
            try:
                app = store.named(self._organisation_id, wanted.name)
            except NotFound:
                changes.append(Change(wanted.name, "create"))
                continue
            before = self._rules.shown(store.specification(app.id, app.revision))
            found = tuple(differences(before, wanted.stored()))
            with store.ledger.database.reading() as connection:
                given = platform.secrets.changed(connection, app, wanted.secret_values())
            found += tuple((f"secrets.{name}", "kept", "given anew") for name in given)
            action = "update" if found else "nothing"
            scaled = scaled_to(app, store.specification(app.id, app.revision))
            if scaled is not None and before["replicas"] == wanted.stored()["replicas"]:
                found += (("replicas", "scaled to {} to {}".format(*scaled), "stays so"),)
            changes.append(Change(wanted.name, action, found))
        return Plan(changes)

    def apply(self, source: str | Path | Sequence[Specification]) -> tuple[Deployment, ...]:
        """Make deployments what a file says: new ones are created, others updated where they differ; none is deleted.

        Raises InvalidRequest before anything is changed where the file has a mistake.
        """
        from rios.services.deployments.archives import require_archive

        wanted, done = self._resolved(source), []
        for one in wanted:  # a mistake in the last archive changes nothing of the first deployment
            if one.rootfs is not None and not split_name(one.rootfs)[1]:
                require_archive(Path(one.rootfs))
        for one in wanted:
            try:
                found = self.get(one.name)
            except NotFound:
                done.append(self.create_from(one))
                continue
            found.update_to(one)
            done.append(found)
        return tuple(done)

    def _resolved(self, source: str | Path | Sequence[Specification]) -> builtins.list[Specification]:
        """All of a file before anything is done: a mistake in the last of them changes nothing of the first."""
        return [resolved(self._rules.checked(one)) for one in _read(source)]


def _read(source: str | Path | Sequence[Specification]) -> list[Specification]:
    if isinstance(source, str | Path):
        return list(read_file(Path(source)).apps)
    return list(source)


def with_function(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, a Python function among them by its value. Raises InvalidRequest for one that cannot be sent."""
    function = fields.get("python")
    return {**fields, "python": packed(function)} if callable(function) else dict(fields)


def resolved(wanted: Specification) -> Specification:
    """The specification with the values of secrets that it refers to in this process's environment.

    Raises InvalidRequest where a variable is not set.
    """
    found: dict[str, SecretStr | SecretRef] = {}
    for name, value in wanted.secrets.items():
        if isinstance(value, SecretRef) and value.env is not None:
            said = os.environ.get(value.env)
            if said is None:
                raise InvalidRequest(
                    f"secrets.{name} of {wanted.name} is to come from {value.env}, which is not set here"
                )
            found[name] = SecretStr(said)
        else:
            found[name] = value
    return wanted.model_copy(update={"secrets": found}) if wanted.secrets else wanted


def ask_to_end(
    store: AppStore,
    app_id: str,
    *,
    cause: str = "deleted",
    before: Callable[[App, Connection], None] = lambda _app, _: None,
) -> None:
    """Want a deployment gone. before: writes more in the same transaction, or raises what is against it; where it is
    wanted gone already nothing of it is done."""
    now = store.ledger.now()

    def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
        if app.wish is not Wish.DELETE:
            before(app, connection)
        return {"wish": str(Wish.DELETE), "state": str(State.STOPPING), "reason": cause}, "state", cause

    store.change(app_id, change, at=now)


def try_again(store: AppStore) -> None:
    """Have each model that was given up, and is bound to no process, tried again: another one has begun to serve them.

    One that is never to be started again stays as it is.
    """
    gone = [app for app in store.snapshot()[0] if app.state is State.FAILED and not app.bound]
    specifications = store.specifications([(app.id, app.revision) for app in gone]) if gone else {}
    at = store.ledger.now()

    def change(app: App, _: Connection) -> tuple[Mapping[str, Any], str, str]:
        if app.state is not State.FAILED or app.wish is not Wish.RUN:
            return {}, "", ""
        return begun_anew(app, at=at), "restart", "a gateway has begun to serve models"

    for app in gone:
        wanted = specifications[app.id, app.revision]
        if wanted["model"] is not None and wanted["restart"] == "always":
            with contextlib.suppress(NotFound):  # it was deleted meanwhile
                store.change(app.id, change, at=at)


__all__ = ["Change", "Deployments", "Plan", "ask_to_end", "resolved", "try_again"]
