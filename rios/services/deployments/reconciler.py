"""The loop that makes hosts agree with the tables. It alone acts, and only where it leads.

A pass reads what hosts run, then what the tables say, and writes what follows from both: states with their events, new
replicas with the host that was chosen. What then has to be done on a host (`acting`) is begun from what is written, so
whoever is killed at any point is followed by one who reads the same and does the same: a replica's id is the name of
its instance, and no host runs one name twice. Instances of no living replica are cleared away. Of models it decides
alone: their engines act (`engine`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rios.deploy.deciding import SECOND, Decision, backoff_us, decide
from rios.deploy.lifecycle import State, Wish
from rios.deploy.scheduling import Amounts, HostOffer, total
from rios.services.deployments.acting import Acting
from rios.services.deployments.engine import is_engine
from rios.services.deployments.engines import Engines, Seen
from rios.services.deployments.inheriting import homes_of, is_any_left
from rios.services.deployments.leader import LEASE_S, RENEWED, Leadership
from rios.services.deployments.placing import Pass, engines_wanted, lost_engines, on_engines, place, taken_of, why
from rios.services.deployments.spans import span_after, woken
from rios.services.deployments.specified import Specified, ended, exited, failed, wanted_of
from rios.services.deployments.store import ROLLED_BACK, AppStore, NotLeader
from rios.services.deployments.values import App, Replica, Step
from rios.words.errors import LedgerUnavailable, NetworkClosed, RiosError

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Status
    from rios.services.deployments.engine import Engine
    from rios.services.deployments.health import Prober
    from rios.services.deployments.hosts import Hosts
    from rios.services.deployments.scaling import Scalers
    from rios.services.lazy import Lazy

log = logging.getLogger(__name__)

PASS_S = 0.25
HOST_LOST_S = 4.0
"""A host that has not answered for so long is lost, with all that ran there."""
_RETRY_US = SECOND
_STEADY_US = 10 * SECOND
_ORPHANS_S = 5.0
"""How often hosts are asked where there is no application: one that returns may still run what nobody wants."""
_NOTHING: Mapping[str, Any] = {}


class Reconciler:
    """One of those that would act. Close it; what runs goes on."""

    def __init__(
        self,
        store: AppStore,
        hosts: Lazy[Hosts],
        acting: Acting,
        prober: Lazy[Prober],
        scalers: Lazy[Scalers],
        *,
        engine: Engine | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """hosts, prober and scalers are made when there is an application. engine: this process's, where it has one."""
        self._store = store
        self._engine = engine
        self._engines = Engines(store, lease_s=lease_s)
        self._lease_s = lease_s
        self._quiet: tuple[int, Seen, frozenset[str]] | None = None
        """The last event, the engines, and the blind ones, with which nothing was to be done nor will be by itself."""
        self._hosts = hosts
        self._acting = acting
        self._prober = prober
        self._scalers = scalers
        self.leadership = Leadership(store, lease_s=lease_s)
        self._specifications: dict[tuple[str, int], Specified] = {}
        self._answered_at: dict[str, float] = {}
        self._asked_at = 0.0
        self._silent: set[str] = set()
        self._events_seen, self._rotated = 0, dict[str, int]()
        self._led_since, self._led_at = 0.0, 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="rios-reconciler", daemon=True)
        acting.done = self.nudge
        self.wrote: Callable[[], None] = lambda: None
        """Told when something was written that engines may have to act on."""

    def __repr__(self) -> str:
        return f"<Reconciler {self.leadership!r}>"

    def start(self) -> None:
        """Begin to look, in a thread."""
        self._thread.start()

    def nudge(self) -> None:
        """Something has changed: look now."""
        self._wake.set()

    def close(self) -> None:
        """Finish what is under way and let another one lead. What runs goes on."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._hosts.is_made:
            self._hosts().leave()
        self._acting.close()
        try:
            self.leadership.give_up()
        except (LedgerUnavailable, NetworkClosed) as error:
            log.warning("the lease ends by itself", extra={"reason": str(error)})

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            started = time.monotonic()
            try:
                again = self.look()
            except NotLeader:
                self.leadership.lost()
                again = False
            except (LedgerUnavailable, NetworkClosed) as error:
                log.warning("deployments are not looked after now", extra={"reason": str(error)})
                again = False
            except Exception:
                # Whatever it is: the next pass begins from the tables again, and nobody else would do it.
                log.exception("a pass over the deployments failed")
                again = False
            took = time.monotonic() - started
            if not again:
                # Where all is quiet, nothing but others' leases changes by itself.
                most_s = _ORPHANS_S if self._hosts.is_made else threading.TIMEOUT_MAX
                quiet_s = min(self._lease_s * RENEWED, most_s)
                self._wake.wait(max(PASS_S, 2 * took) if self._quiet is None else quiet_s)

    # --- one pass --------------------------------------------------------------------------------------------

    def look(self) -> bool:
        """One pass; whether something was written, so that another should follow at once.

        Raises NotLeader, LedgerUnavailable.
        """
        led, quiet = self.leadership.leads, self._quiet
        self._quiet = None
        if not self.leadership.look():
            return False
        if not led:
            self._led_since, self._led_at = time.monotonic(), self._store.ledger.now()
            self._engines.forget()
            self._acting.lead()
        due = self._hosts.is_made and time.monotonic() - self._asked_at >= _ORPHANS_S
        if led and not due and quiet is not None and quiet == (*self._engines.look_with_seq(), self._blind()):
            self._quiet = quiet
            return False
        seq = self._store.seq()
        found = self._observed()
        # After what hosts run: an instance that is there has its row by then, or its row has ended.
        apps, replicas = self._store.snapshot()
        # After the rows of engines, which have leases before they have rows.
        found.engines = self._engines.look()
        found.blind = self._blind()
        self._events_seen, rotated = self._store.rotations(self._events_seen)
        self._rotated.update(rotated)
        self._read_specifications(apps, replicas)
        if self._lacks(found, apps):
            return True
        self._use(found, apps, replicas)
        orphans = self._clear_orphans(found, replicas)
        answering = {name: found.hosts[name] for name in found.answers}
        lease = self.leadership.lease
        self._acting.forget_left(answering, lease=lease)
        self._acting.forget_history(lease=lease)
        self._acting.see_to_volumes(apps if found.asked else (), answering, lease=lease, lost_s=HOST_LOST_S)
        unsettled = [app for app in apps if not self._is_settled(found, app, replicas.get(app.id, []))]
        for app in unsettled:
            self._one(found, app, replicas.get(app.id, []))
        late = self._store.write(found.steps, new=found.new, at=found.now, lease=self.leadership.lease)
        self._act(found, apps, replicas)
        if not unsettled and not orphans and all(one.is_model for one in self._specifications.values()):
            self._quiet = seq, found.engines, found.blind
        return bool(found.new) or len(found.steps) > len(late)

    def _act(self, found: Pass, apps: Sequence[App], replicas: Mapping[str, Sequence[Replica]]) -> None:
        """Begin what follows from what is written."""
        if found.new or found.steps:
            self.wrote()
        names = {app.id for app in apps}
        self._acting.paying.keep(names)
        if self._scalers.is_made:
            self._scalers().keep(names)
        if self._prober.is_made or any(one.probes is not None for one in self._specifications.values()):
            self._probe(replicas, apps)
        self._engines.drop(lost_engines(found, apps, replicas))
        lease = self.leadership.lease
        for app in apps:
            rotated_at = self._rotated.get(app.id, 0)
            for one in replicas.get(app.id, ()):
                self._acting.consider(
                    app, one, self._specifications[app.id, one.revision].values, found.hosts.get(one.host),
                    status=found.answers.get(one.host, _NOTHING).get(one.id), lost=one.host in found.lost,
                    rotated=rotated_at, now=found.now, lease=lease,
                )  # fmt: skip

    def _lacks(self, found: Pass, apps: Sequence[App]) -> bool:
        """Make what only applications need where there is one, and have an engine take models where none does.

        Whether that was done: then what was found is not all that there is.
        """
        models = [app for app in apps if self._specifications[app.id, app.revision].is_model]
        if not found.asked and (len(models) < len(apps) or is_any_left(self._store)):
            self._hosts()
            return True
        engine = self._engine
        if engine is None or found.engines.takes:
            return False
        free = [app for app in models if not app.bound and app.wish is Wish.RUN]
        if any(engine.finds(self._specification(app.id, app.revision)["model"]) for app in free):
            engine.begin(takes=True)
            return True
        return False

    def _blind(self) -> frozenset[str]:
        """This process's engine, where it finds no checkpoint by its name; of others' nobody knows."""
        return frozenset((self._engine.name,) if self._engine is not None and self._engine.is_blind else ())

    def _observed(self) -> Pass:
        asked = self._hosts.is_made
        self._asked_at = time.monotonic()
        hosts = self._hosts().now() if asked else {}
        answers: dict[str, dict[str, Status]] = {}
        offers: dict[str, HostOffer] = {}
        for name, host in hosts.items():
            try:
                offer = host.offer()
                answers[name] = {status.instance: status for status in host.instances()}
            except RiosError as error:
                if name not in self._silent:
                    log.warning("a host does not answer", extra={"host": name, "reason": str(error)})
                self._silent.add(name)
                continue
            offers[name] = offer
            self._silent.discard(name)
            self._answered_at[name] = time.monotonic()
        return Pass(self._store.ledger.now(), offers, hosts, answers, asked=asked)

    def _use(self, found: Pass, apps: Sequence[App], replicas: Mapping[str, Sequence[Replica]]) -> None:
        """Count what replicas take of their hosts, and find out which hosts are lost."""
        taken: dict[str, list[Amounts]] = {}
        for app in apps:
            for host, amounts in taken_of(replicas.get(app.id, ()), self._specifications):
                taken.setdefault(host, []).append(amounts)
        names = self._answered_at.keys() | taken.keys()
        for name, all_amounts in taken.items():
            offer = found.offers.get(name)
            if offer is not None:
                found.offers[name] = replace(offer, used=total((offer.used, *all_amounts)))
        clock = time.monotonic()
        engines = {name for name in names if is_engine(name)}
        silent = names - engines - found.answers.keys()
        # A reconciler that has just begun has not heard of anybody, which says nothing.
        heard = {name: max(self._answered_at.get(name, 0.0), self._led_since) for name in silent}
        found.lost = frozenset(name for name, at in heard.items() if clock - at > HOST_LOST_S)
        found.lost |= engines - found.engines.living

    def _clear_orphans(self, found: Pass, replicas: Mapping[str, Sequence[Replica]]) -> bool:
        """Have instances of no living replica cleared away; whether there were any."""
        orphans = False
        known = {one.id: one.host for of_app in replicas.values() for one in of_app}
        for name, statuses in found.answers.items():
            for instance in statuses:
                if known.get(instance) != name:
                    orphans = True
                    self._acting.clear(found.hosts[name], instance)
        return orphans

    def _read_specifications(self, apps: Sequence[App], replicas: Mapping[str, Sequence[Replica]]) -> None:
        """Have those of this pass at hand, and no others."""
        marks = {(app.id, app.revision) for app in apps}
        marks.update((app.id, one.revision) for app in apps for one in replicas.get(app.id, ()))
        if missing := marks - self._specifications.keys():
            read = self._store.specifications(missing)
            self._specifications |= {mark: Specified.of(one) for mark, one in read.items()}
        for gone in self._specifications.keys() - marks:
            del self._specifications[gone]

    def _specification(self, app_id: str, revision: int) -> dict[str, Any]:
        return self._specifications[app_id, revision].values

    # --- one deployment --------------------------------------------------------------------------------------

    def _is_settled(self, found: Pass, app: App, replicas: Sequence[Replica]) -> bool:
        """Whether it is all as it is wanted, and nothing scales it: `_one` would write nothing. Most are, in a pass."""
        specified = self._specifications[app.id, app.revision]
        if app.bound and app.bound not in found.engines.living:
            return False
        if not replicas and (app.wish is Wish.PAUSE or (specified.is_model and app.failures)):
            return app.state is (State.PAUSED if app.wish is Wish.PAUSE else State.FAILED)
        if app.state is not State.READY or app.wish is not Wish.RUN or not app.paid:
            return False
        if app.settled_revision != app.revision or app.good_revision != app.revision:
            return False
        low, high = (app.replicas_min, app.replicas_max)
        if specified.is_model:
            low = high = engines_wanted(found, app, specified.values)
        if not 0 < low == high == app.replicas == app.reached == len(replicas):
            return False
        return all(self._is_well(found, app, specified, one) for one in replicas)

    def _is_well(self, found: Pass, app: App, specified: Specified, one: Replica) -> bool:
        if one.state is not State.READY or (one.revision, one.round) != (app.revision, app.round):
            return False
        if specified.is_model:
            return one.host not in found.lost and not one.outcome
        status = found.answers.get(one.host, _NOTHING).get(one.id)
        if status is None or status.state == "exited":
            return False
        if specified.probes is None:
            return True
        verdict = self._prober().verdict(one.id)
        return verdict.alive and verdict.ready is not False

    def _one(self, found: Pass, app: App, replicas: Sequence[Replica]) -> None:
        if app.bound and app.bound not in found.engines.living and app.wish is not Wish.DELETE:
            cause = f"{app.bound} is lost, and with it what was bound to it"
            wish = {"wish": str(Wish.DELETE), "reason": cause}
            found.steps.append(Step(app, State.STOPPING, cause, changes=wish))
            return
        specification = self._specification(app.id, app.revision)
        views: list[Replica] = []
        for one in replicas:
            step = self._observe(found, app, one)
            if step is None:
                views.append(one)
                continue
            found.steps.append(step)
            views.append(replace(one, state=step.to, **step.changes))
            if step.changes.get("outcome"):
                app = self._count_end(found, app, one, step, specification)
        app = self._scaled(found, app, specification, views)
        if not app.paid and app.wish is Wish.RUN:
            app = self._acting.paying.again(found, app, specification)
        wanted = wanted_of(app, specification, led_at=self._led_at)
        decision = decide(wanted, [one.seen() for one in views], now=found.now)
        self._follow(found, app, specification, views, decision)

    def _observe(self, found: Pass, app: App, one: Replica) -> Step | None:
        """What hosts and probes say of a replica, where that is another state."""
        if not one.lives:
            return None
        if one.host in found.lost:
            return failed(one, f"host {one.host} is lost")
        if one.outcome:
            return ended(one)
        if (why := self._acting.failure(one)) is not None:
            return failed(one, f"it could not be started: {why}")
        status = found.answers.get(one.host, {}).get(one.id)
        if status is not None and status.state == "exited":
            return exited(one, status)
        if one.started_at and one.host in found.answers and status is None and not self._acting.is_busy(one.id):
            return failed(one, f"it is not on host {one.host} any more")
        if not one.started_at:
            return None
        return self._judged(found, app, one)

    def _judged(self, found: Pass, app: App, one: Replica) -> Step | None:
        probes = self._specifications[app.id, one.revision].probes
        if probes is None:
            return None
        verdict = self._prober().verdict(one.id)
        if not verdict.alive:
            return failed(one, f"it does not live: {verdict.said}")
        if verdict.ready and one.state in (State.STARTING, State.DEGRADED):
            changes = {} if one.ready_at else {"ready_at": found.now}
            return Step(one, State.READY, "its probe is answered", changes=changes)
        if verdict.ready is False and one.state is State.READY:
            return Step(one, State.DEGRADED, f"its probe is not answered: {verdict.said}", changes={})
        late = found.now - one.started_at > probes["deadline"] * SECOND
        if one.state is State.STARTING and late:
            said = verdict.said or "no probe was answered"
            return failed(one, f"it was not ready within {probes['deadline']:g} s: {said}")
        return None

    def _count_end(self, found: Pass, app: App, one: Replica, step: Step, specification: Mapping[str, Any]) -> App:
        """A replica has ended by itself: what that means for the deployment."""
        if (one.revision, one.round) != (app.revision, app.round) or app.wish is Wish.DONE:
            return app
        good = step.changes["outcome"] == State.STOPPED
        policy = specification["restart"]
        if app.wish is Wish.RUN and (policy == "never" or (policy == "on-failure" and good)):
            if good:
                changes: dict[str, Any] = {"wish": str(Wish.DONE), "reason": "it has done its work"}
                found.steps.append(Step(app, app.state, "it has done its work", changes=changes, kind="done"))
                return replace(app, wish=Wish.DONE, reason="it has done its work")
            if app.state is State.PAUSED:  # it was ended by that, and goes on with that
                return app
            changes = {"failures": max(app.failures + 1, 1), "reason": step.cause}
            found.steps.append(Step(app, State.FAILED, step.cause, changes=changes))
            return replace(app, state=State.FAILED, failures=changes["failures"], reason=step.cause)
        failures = 1 if one.ready_at and found.now - one.ready_at > _STEADY_US else app.failures + 1
        changes = {"failures": failures, "retry_at": found.now + backoff_us(failures), "reason": step.cause}
        wait_s = backoff_us(failures) / SECOND
        cause = f"replica {one.id}: {step.cause}; {failures} in a row, the next in {wait_s:g} s"
        found.steps.append(Step(app, app.state, cause, changes=changes, kind="failure"))
        return replace(app, failures=failures, retry_at=changes["retry_at"], reason=step.cause)

    def _scaled(self, found: Pass, app: App, specification: Mapping[str, Any], views: Sequence[Replica]) -> App:
        if self._specifications[app.id, app.revision].is_model:
            return on_engines(found, app, specification)
        if app.wish is not Wish.RUN or not app.paid or app.replicas_min == app.replicas_max:
            return app
        paying = self._acting.paying
        wanted, why = self._scalers().wanted(
            app, specification, views, found.hosts, paid=partial(paying.by_the_day, found, app, specification),
            affords=partial(paying.affords, found, app, specification, views), now=found.now,
        )  # fmt: skip
        if wanted == app.replicas:
            return app
        changes = {"replicas": wanted, "reached": min(app.reached, wanted), **woken(app, wanted, at=found.now)}
        found.steps.append(Step(app, app.state, f"{app.replicas} -> {wanted}: {why}", changes=changes, kind="scaled"))
        return replace(app, **changes)

    def _follow(
        self, found: Pass, app: App, specification: Mapping[str, Any], views: Sequence[Replica], decision: Decision
    ) -> None:
        """Write down what was decided."""
        if decision.back_to is not None:
            cause = f"revision {app.revision} does not become ready: back to {decision.back_to}; {app.reason}"
            earlier = self._store.specification(app.id, decision.back_to)
            back = {"revision": decision.back_to, "failures": 0, "retry_at": 0, "since": found.now}
            back |= span_after(app, specification, earlier)
            found.steps.append(Step(app, app.state, cause, changes=back, kind=ROLLED_BACK))
            return
        by_id = {one.id: one for one in views}
        for name, cause in decision.end:
            found.steps.append(Step(by_id[name], State.STOPPING, cause, changes={"outcome": str(State.STOPPED)}))
        keeps = decision.begin and specification["model"] is None and specification["volumes"]
        homes = homes_of(self._store, app.id, specification) if keeps else frozenset()
        if keeps and not homes:  # none is begun yet: those that are about to be have one host too
            living = [one for one in views if one.lives]
            homes = frozenset(one.host for one in living if self._specification(app.id, one.revision)["volumes"])
        nowhere = place(self._store, found, app, specification, views, decision.begin, homes=homes)
        changes: dict[str, Any] = {
            name: value
            for name, value in (
                ("settled_revision", decision.settled_revision),
                ("good_revision", decision.good_revision),
                ("reached", decision.reached),
            )
            if value != getattr(app, name)
        }
        if decision.state is State.STOPPED and app.wish is Wish.DELETE:
            self._acting.finish(app, specification, found.hosts, lease=self.leadership.lease)
            return
        if decision.state is not app.state:
            if decision.state in (State.READY, State.STOPPED) and app.wish is Wish.RUN:
                changes["reason"] = ""
            found.steps.append(Step(app, decision.state, why(app, decision, views), changes=changes))
            app = replace(app, state=decision.state)
        elif changes:
            found.steps.append(Step(app, app.state, "", changes=changes, kind=""))
        if nowhere is not None and nowhere != app.reason:
            changes = {"reason": nowhere, "retry_at": found.now + _RETRY_US}
            found.steps.append(Step(app, app.state, nowhere, changes=changes, kind="not scheduled"))

    def _probe(self, replicas: Mapping[str, Sequence[Replica]], apps: Sequence[App]) -> None:
        owners = {app.id: app.organisation_id for app in apps}
        watched = set()
        for app_id, of_app in replicas.items():
            for one in of_app:
                if app_id not in owners or not one.lives or not one.started_at:
                    continue
                probes = self._specifications[app_id, one.revision].probes
                if probes is None:
                    continue
                watched.add(one.id)
                ready = one.state in (State.READY, State.DEGRADED)
                run = self._acting.runner(one)
                address = self._hosts().way(one.host, one.id, one.address) if one.address else ""
                if one.address and not address:
                    continue  # its host is not known here yet
                self._prober().watch(one.id, address, probes, run, owner=owners[app_id], ready=ready)
        self._prober().keep(watched)
