"""What one pass of the reconciler has found and is going to write, and where new replicas go."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rios.deploy.lifecycle import State, Wish
from rios.deploy.scheduling import Amounts, HostOffer, able, choose
from rios.services.deployments.engine import is_named
from rios.services.deployments.engines import Seen, offer_of
from rios.services.deployments.places import failing, home
from rios.services.deployments.specified import Specified, need_of
from rios.services.deployments.values import App, NewReplica, Replica, Step

if TYPE_CHECKING:
    from rios.deploy.deciding import Decision
    from rios.deploy.runtimes.protocol import Status
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.store import AppStore


@dataclass(slots=True)
class Pass:
    """One pass."""

    now: int
    offers: dict[str, HostOffer]
    hosts: Mapping[str, Host]
    answers: dict[str, dict[str, Status]]
    """By host: what it runs. A host that does not answer is not in it."""
    asked: bool
    """Whether there were hosts to be asked; engines are none of them."""
    engines: Seen = field(default_factory=Seen)
    blind: frozenset[str] = frozenset()
    """Engines that are known to find no checkpoint by its name."""
    lost: frozenset[str] = frozenset()
    promised: dict[str, int] = field(default_factory=dict)
    """By user: what is to be held for deployments that go on in this pass, in wei."""
    unheld: dict[str, dict[str, int]] | None = None
    """By user and deployment: what is about to be held for replicas, in wei; None until somebody asked."""
    steps: list[Step] = field(default_factory=list)
    new: list[NewReplica] = field(default_factory=list)


def engines_for(found: Pass, app: App, specification: Mapping[str, Any]) -> frozenset[str]:
    """Each engine that takes models serves what is bound to none, where it can find it."""
    if app.bound:
        return frozenset((app.bound,))
    return found.engines.takes - found.blind if is_named(specification["model"]) else found.engines.takes


def engines_wanted(found: Pass, app: App, specification: Mapping[str, Any]) -> int:
    """How many replicas a model has."""
    return max(len(engines_for(found, app, specification)), 1)


def on_engines(found: Pass, app: App, specification: Mapping[str, Any]) -> App:
    """A model with as many replicas as there are engines for it."""
    wanted = engines_wanted(found, app, specification)
    if app.wish is not Wish.RUN or wanted == app.replicas:
        return app
    changes = {"replicas": wanted, "reached": min(app.reached, wanted)}
    cause = f"{app.replicas} -> {wanted}: one on each engine"
    found.steps.append(Step(app, app.state, cause, changes=changes, kind="scaled"))
    return replace(app, replicas=wanted, reached=changes["reached"])


def lost_engines(found: Pass, apps: Sequence[App], replicas: Mapping[str, Sequence[Replica]]) -> frozenset[str]:
    """Engines whose leases are over, and of which nothing is left."""
    if not found.engines.silent:
        return frozenset()
    used = {one.host for of_app in replicas.values() for one in of_app} | {app.bound for app in apps}
    return found.engines.silent - used


def taken_of(
    replicas: Iterable[Replica], specified: Mapping[tuple[str, int], Specified]
) -> Iterator[tuple[str, Amounts]]:
    """What replicas of a deployment take of their hosts: of its volumes' disk once, however many share them."""
    disk: dict[str, int] = {}
    for one in replicas:
        amounts = specified[one.app_id, one.revision].amounts
        if amounts.disk_bytes:
            known = disk.get(one.host, 0)
            disk[one.host] = max(known, amounts.disk_bytes)
            amounts = replace(amounts, disk_bytes=disk[one.host] - known)
        yield one.host, amounts


def place(
    store: AppStore,
    found: Pass,
    app: App,
    specification: Mapping[str, Any],
    views: Sequence[Replica],
    count: int,
    *,
    homes: frozenset[str] = frozenset(),
) -> str | None:
    """Put so many new replicas on hosts; why not all of them, where that is so. homes: hosts with its volumes.

    Hosts on which its last start failed are avoided, where it may be elsewhere.
    """
    siblings: dict[str, int] = {}
    for one in views:
        if one.lives:
            siblings[one.host] = siblings.get(one.host, 0) + 1
    need = need_of(specification)
    shared = replace(need, amounts=replace(need.amounts, disk_bytes=0))
    if homes:
        need = shared  # its volumes are there, and further replicas take no more of the disk
    beside = siblings if specification["schedule"]["spread"] else {}
    model = specification["model"] is not None
    offers = _engines(found, app, specification, views) if model else found.offers
    if count and homes:
        offers, gone = home(offers, homes)
        if gone:
            return gone
    if count and model and is_named(specification["model"]) and not engines_for(found, app, specification):
        return f"no gateway is up that could find {specification['model']}: start one with `rios up --models DIRECTORY`"
    tied = not count or not app.failures or model or homes  # most have not failed, and nothing is asked for them
    avoided = frozenset() if tied else failing(store, app, views, now=found.now)
    for _ in range(count):
        choice = choose(need, offers.values(), siblings=beside, avoided=avoided)
        if choice.host is None:
            return choice.reason
        replica_id = f"{app.name[:30]}-{secrets.token_hex(5)}"
        found.new.append(NewReplica(app, replica_id, choice.host, choice.reason))
        siblings[choice.host] = siblings.get(choice.host, 0) + 1
        offer = offers.pop(choice.host)
        if model:
            continue
        # Also where `offers` is a part of them: the next deployment of this pass finds what is left.
        found.offers[choice.host] = offers[choice.host] = replace(offer, used=offer.used + need.amounts)
        if specification["volumes"]:
            offers, need = {choice.host: offers[choice.host]}, shared
    return None


def dearest(found: Pass, specification: Mapping[str, Any], homes: frozenset[str]) -> str | None:
    """The host at which a replica costs most: of those with its volumes, where there are some, and else of those that
    could take it; whether they have room now is not asked. None where there is no host."""
    if homes:
        offers = [found.offers[name] for name in homes & found.offers.keys()]
        if not offers:
            return min(homes)
    else:
        offers = able(need_of(specification), found.offers.values()) or list(found.offers.values())
    return max(offers, key=lambda offer: (offer.ask_bp, offer.name)).name if offers else None


def _engines(found: Pass, app: App, specification: Mapping[str, Any], views: Sequence[Replica]) -> dict[str, HostOffer]:
    """The engines that may serve a model and do not yet."""
    mark = (app.revision, app.round)
    serve = {one.host for one in views if one.lives and (one.revision, one.round) == mark}
    return {name: offer_of(name) for name in engines_for(found, app, specification) - serve}


def why(app: App, decision: Decision, views: Sequence[Replica]) -> str:
    """The cause of a deployment's new state."""
    mark = (app.revision, app.round)
    if decision.state is State.READY and decision.settled_revision != app.revision:
        return f"no replica is wanted: revision {app.revision} is tried when one is"
    ready = sum(one.state is State.READY and (one.revision, one.round) == mark for one in views)
    if decision.state is State.FAILED:
        return app.reason or "it failed"
    if decision.state is State.PAUSED:
        return "paused" if app.wish is Wish.PAUSE else "out of money"
    if decision.state in (State.STOPPING, State.STOPPED):
        return app.reason or "deleted"
    return f"{ready} of {app.replicas} replicas of revision {app.revision} are ready"
