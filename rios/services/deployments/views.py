"""What a deployment shows of itself at one moment, in one shape for a handle, a gateway, a panel and a widget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from rios.accounts.store import logins_of
from rios.deploy.lifecycle import State
from rios.storage.deployment_models import AppLoadRow, AppReplicaRow, AppSpendRow
from rios.words.display import Shown

if TYPE_CHECKING:
    from rios.services.deployments.handle import Deployment
    from rios.services.deployments.rules import Rules
    from rios.services.deployments.store import AppStore
    from rios.services.deployments.values import App


@dataclass(frozen=True, slots=True, kw_only=True)
class AppView(Shown):
    """One deployment. Moments are microseconds of UTC since 1970."""

    id: str
    name: str
    owner: str
    """The user who pays for it."""
    owner_login: str
    """What that one signs in as now; "closed:ID" of a closed account, as `owner` of one that nobody signs in to."""
    status: str
    """requested, scheduled, pulling, starting, ready, degraded, updating, paused, stopping, stopped or failed."""
    reason: str
    revision: int
    replicas: int
    """Wanted."""
    ready: int
    hosts: tuple[str, ...]
    requests: int
    """Answered, by all routers that there were."""
    cost_wei: int
    created_at: int
    ended_at: int
    """0 while it is there."""

    def to_dict(self) -> dict[str, Any]:
        """As it travels: the amount as text."""
        return {**asdict(self), "cost_wei": str(self.cost_wei), "hosts": list(self.hosts)}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> AppView:
        """What `to_dict` wrote, also after it was JSON."""
        known = {name: said[name] for name in cls.__slots__}
        return cls(**{**known, "cost_wei": int(said["cost_wei"]), "hosts": tuple(said["hosts"])})


@dataclass(frozen=True, slots=True)
class AppWhole(Shown):
    """One deployment with all that a gateway says of it: also what is wanted, secrets by their names alone."""

    app: App
    view: AppView
    specification: dict[str, Any]


def wholes_of(store: AppStore, apps: Sequence[App], rules: Rules) -> list[AppWhole]:
    """These deployments as they are now, in their order: five questions, however many they are."""
    wanted = store.specifications([(app.id, app.revision) for app in apps]) if apps else {}
    return [
        AppWhole(app, view, rules.shown(wanted[app.id, app.revision]))
        for app, view in zip(apps, views_of(store, apps), strict=True)
    ]


def whole_of(app: Deployment) -> AppWhole:
    """One of them, by its handle."""
    return wholes_of(app._store, [app._app()], app._rules)[0]


def views_of(store: AppStore, apps: Sequence[App]) -> list[AppView]:
    """These deployments as they are now, in their order: four questions, however many they are."""
    ids = [app.id for app in apps]
    if not ids:
        return []
    replica, load, spend = AppReplicaRow, AppLoadRow, AppSpendRow
    with store.ledger.database.reading() as connection:
        living = connection.execute(
            select(replica.app_id, replica.host, replica.state)
            .where(replica.app_id.in_(ids), replica.ended_at == 0)
            .order_by(replica.host)
        ).all()
        total = select(load.app_id, func.sum(load.requests)).where(load.app_id.in_(ids)).group_by(load.app_id)
        answered = {row[0]: row[1] for row in connection.execute(total)}
        bill = select(spend.app_id, spend.amount_wei).where(spend.app_id.in_(ids))
        spent = {row[0]: row[1] for row in connection.execute(bill)}
    logins = logins_of(store.ledger.database, {app.user_id for app in apps})
    return [
        AppView(
            id=app.id, name=app.name, owner=app.user_id, owner_login=logins.get(app.user_id, app.user_id),
            status=str(app.state), reason=app.reason, revision=app.revision, replicas=app.replicas,
            ready=sum(one.app_id == app.id and one.state == State.READY for one in living),
            hosts=tuple(dict.fromkeys(one.host for one in living if one.app_id == app.id and one.host)),
            requests=int(answered.get(app.id) or 0), cost_wei=int(spent.get(app.id) or 0), created_at=app.created_at,
            ended_at=app.ended_at,
        )
        for app in apps
    ]  # fmt: skip
