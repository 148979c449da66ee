"""Models that are bound to the engine of one process: their rows, from the first to the last.

Nothing is to be decided about them: where a model goes is where it is asked for. So its rows are written by its own
engine, in one transaction to begin with, one when it is ready and one when it has ended, and nobody waits for whoever
leads. What is wanted of it in between is decided as for any other.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rios.deploy.lifecycle import LIVING, State, Wish
from rios.deploy.spec import NAME_MAX
from rios.services.deployments.store import (
    AppStore,
    Lease,
    add_replica,
    app_now,
    replicas_now,
    require_leader,
    take_step,
)
from rios.services.deployments.values import App, NewReplica, Replica, Step
from rios.words.errors import AlreadyExists

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.deploy.spec import App as Specification

_BEGUN = (State.REQUESTED, State.SCHEDULED, State.PULLING, State.STARTING, State.UPDATING)


def slug(name: str) -> str:
    """A model's name as a deployment's may be: lower case letters, digits and hyphens, the first a letter."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:NAME_MAX].rstrip("-")
    if not found[:1].isalpha():
        found = f"model-{found}"[:NAME_MAX].rstrip("-")
    return found


def free_name(name: str, taken: Collection[str]) -> str:
    """`name` itself, or with the first number that makes it nobody else's."""
    number, found = 1, name
    while found in taken:
        number += 1
        end = f"-{number}"
        found = name[: NAME_MAX - len(end)].rstrip("-") + end
    return found


def new_id() -> str:
    """The id of a deployment that is to be written."""
    return f"app-{secrets.token_hex(8)}"


def new_app(
    wanted: Specification, *, user_id: str, organisation_id: str, at: int, bound: str = "", app_id: str = ""
) -> App:
    """The deployment that `wanted` begins as. app_id: a new one without."""
    low, high = wanted.replicas.min, wanted.replicas.max
    if wanted.model is not None:  # one on each engine that there is; `replicas` are copies of its experts
        low = high = 1
    return App(
        id=app_id or new_id(), organisation_id=organisation_id, user_id=user_id, name=wanted.name,
        state=State.REQUESTED, wish=Wish.RUN, reason="", revision=1, settled_revision=None, good_revision=None, round=0,
        replicas=max(low, 1), replicas_min=low, replicas_max=high, reached=0, failures=0, retry_at=0, since=at,
        asked_at=at, paid=True, created_at=at, ended_at=0, bound=bound,
    )  # fmt: skip


def begin(
    store: AppStore,
    wanted: Specification,
    engine: str,
    replica_id: str,
    *,
    app_id: str,
    user_id: str,
    organisation_id: str,
) -> tuple[App, Replica]:
    """Write a deployment bound to `engine`, which starts its replica now. The name is made free where it is taken."""
    found: list[Replica] = []

    def also(app: App, connection: Connection) -> None:
        at, cause = app.created_at, f"{engine}: whoever asked for it has this engine"
        one = add_replica(connection, NewReplica(app, replica_id, engine, cause), at=at)
        take_step(connection, Step(one, State.STARTING, f"its host {engine} starts it", changes={}), at=at)
        why = "0 of 1 replicas of revision 1 are ready"
        take_step(connection, Step(app, State.STARTING, why, changes={}), at=at)
        found.append(replace(one, state=State.STARTING))

    app = create_free(
        store, wanted, user_id=user_id, organisation_id=organisation_id, bound=engine, also=also, app_id=app_id
    )
    return app, found[-1]


def create_free(
    store: AppStore,
    wanted: Specification,
    *,
    user_id: str,
    organisation_id: str,
    also: Callable[[App, Connection], None],
    before: Callable[[Connection], None] = lambda _: None,
    bound: str = "",
    app_id: str = "",
) -> App:
    """Write a new deployment of a model: as `AppStore.create`. Its name is made free where it is taken."""
    while True:
        taken = store.names(organisation_id)
        named = wanted.model_copy(update={"name": free_name(wanted.name, taken)})
        at = store.ledger.now()
        app = new_app(named, user_id=user_id, organisation_id=organisation_id, at=at, bound=bound, app_id=app_id)
        try:
            store.create(
                app, named.stored(), named.digest, by=user_id, cause=f"{user_id} asked for it",
                also=partial(also, app), before=before,
            )  # fmt: skip
        except AlreadyExists:
            if named.name not in store.names(organisation_id):
                raise  # it is not the name that is taken
            continue
        return app


def ready(store: AppStore, one: Replica, *, lease: Lease) -> bool:
    """Write that a replica serves, and that its deployment is ready where that is bound; False where it came too late.

    Raises NotLeader.
    """
    now = store.ledger.now()

    def run(connection: Connection) -> bool:
        require_leader(connection, *lease)
        changes = {"started_at": now, "ready_at": now}
        if not take_step(connection, Step(one, State.READY, "its model is served", changes=changes), at=now):
            # It may be what this engine has written already, in a transaction whose end it did not hear of.
            return any(o.id == one.id and o.state is State.READY for o in replicas_now(connection, one.app_id))
        app = app_now(connection, one.app_id)
        mark = (one.revision, one.round)
        others = [other for other in replicas_now(connection, one.app_id) if other.id != one.id]
        if (
            app is not None
            and app.bound
            and app.wish is Wish.RUN
            and app.state in _BEGUN
            and mark == (app.revision, app.round)
            and not others
        ):
            settled = {"settled_revision": app.revision, "good_revision": app.revision, "reached": 1, "reason": ""}
            why = f"1 of 1 replicas of revision {app.revision} are ready"
            take_step(connection, Step(app, State.READY, why, changes=settled), at=now)
        return True

    return store.transact(lambda batch: run(batch.connection))


def end(store: AppStore, app_id: str, cause: str, *, lease: Lease) -> None:
    """Write that nothing is left of a deployment that was bound. Raises NotLeader."""
    now = store.ledger.now()

    def run(connection: Connection) -> None:
        require_leader(connection, *lease)
        app = app_now(connection, app_id)
        if app is None:
            return
        wish: Mapping[str, Any] = {"wish": str(Wish.DELETE), "reason": cause}
        if app.wish is not Wish.DELETE or app.state is not State.STOPPING:
            take_step(connection, Step(app, State.STOPPING, cause, changes=wish), at=now)
            app = replace(app, state=State.STOPPING, wish=Wish.DELETE)
        for one in replicas_now(connection, app_id):
            end_replica(connection, one, cause, at=now)
        take_step(connection, Step(app, State.STOPPED, "nothing of it is left", changes={}), at=now)

    store.transact(lambda batch: run(batch.connection))


def end_replica(connection: Connection, one: Replica, cause: str, *, at: int) -> None:
    """Write that nothing is left of a replica, in a transaction of somebody else's."""
    outcome = State(one.outcome or State.STOPPED)
    if one.state in LIVING:
        take_step(connection, Step(one, State.STOPPING, cause, changes={"outcome": str(outcome)}), at=at)
        one = replace(one, state=State.STOPPING)
    take_step(connection, Step(one, outcome, "nothing of it is left", changes={}), at=at)
