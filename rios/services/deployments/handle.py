"""One deployment in a user's hands: what it is now, and what can be wanted of it."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from rios.deploy.lifecycle import State, Wish
from rios.deploy.reading import read_app
from rios.deploy.spec import App as Specification
from rios.deploy.volume_names import check_new
from rios.services.deployments.awaiting import Look, Wished, awaited, ends_within, rotated
from rios.services.deployments.given import given_secrets, kept_names, secret_values
from rios.services.deployments.kept_volumes import take
from rios.services.deployments.line_pages import LinePage, lines_after, read_each
from rios.services.deployments.rules import DELETED, Rules
from rios.services.deployments.served import require_free
from rios.services.deployments.snapshots import AppSnapshots, require
from rios.services.deployments.spans import is_untried, said_of, span_after, span_of, woken
from rios.services.deployments.store import SECRETS
from rios.services.deployments.values import App, Event, Replica
from rios.services.deployments.views import AppView, views_of
from rios.services.edges import edge
from rios.words.display import Shown, Unknown, answer
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.deploy.runtimes.protocol import Executed, LogLine
    from rios.services.deployments.platform import Platform
    from rios.services.deployments.store import AppStore
    from rios.services.generation import Model

_LOOK_S, _SHOWN = 0.02, ("reason", "revision", "replicas", "replicas_max")
_FRESH = {"failures": 0, "retry_at": 0, "reason": ""}


class Cost(Shown, int):
    """Wei, shown as ROS."""

    def __repr__(self) -> str:
        return format_ros(Wei(int(self)))

    __str__ = __repr__


class Deployment(Shown):
    """A deployment. The handle holds nothing but what was wished through it and not waited for: another one of the same
    name is as good."""

    def __init__(
        self,
        platform: Callable[[], Platform],
        app_id: str,
        name: str,
        *,
        by: str,
        rules: Rules,
    ) -> None:
        self._platform = platform
        self.id = app_id
        self.name = name
        self._by = by
        self._rules = rules
        self._wished = Wished()

    def __repr__(self) -> str:
        return f"<Deployment {self.name!r} {answer(lambda: self.status)}>"

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, object]]]:
        if isinstance(app := answer(self._app), Unknown):
            return ("deployment", self.name), [("status", app)]
        return ("deployment", self.name), [("status", app.state), *((name, getattr(app, name)) for name in _SHOWN)]

    def widget(self) -> Any:
        """It in the notebook, live: state, replicas, requests, cost, hosts and log, with buttons to scale and stop."""
        return edge("widgets").of_app(self)

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """requested, scheduled, pulling, starting, ready, degraded, updating, paused, stopping, stopped or failed."""
        return str(self._app().state)

    @property
    def reason(self) -> str:
        """Why it is in that state, where there is something to say."""
        return self._app().reason

    @property
    def revision(self) -> int:
        """The number of the revision that is wanted now."""
        return self._app().revision

    @property
    def revisions(self) -> list[dict[str, Any]]:
        """All revisions: number, digest, created_by, created_at; image: the digest that its name led to when it was
        first started, which every replica of it runs."""
        return self._store.revisions(self.id)

    @property
    def specification(self) -> dict[str, Any]:
        """What is wanted now. Secrets are in it by name alone."""
        return self._rules.shown(self._specification())

    def _specification(self) -> dict[str, Any]:
        return self._store.specification(self.id, self._app().revision)

    def view(self) -> AppView:
        """All that a panel shows of it, at one moment."""
        return views_of(self._store, [self._app()])[0]

    @property
    def replicas(self) -> list[Replica]:
        """The replicas that have not ended, with their states and hosts."""
        return self._store.replicas(self.id)

    @property
    def url(self) -> str:
        """Where it answers from this machine, as long as this network is open. Raises InvalidRequest without a port."""
        if self.specification["port"] is None:
            raise InvalidRequest(f"{self.name} has no port, so it has no address; update it with port=...")
        return f"http://127.0.0.1:{self._platform().front.port(self.id)}"

    @property
    def model(self) -> Model:
        """The model of a model deployment that is ready here. Raises InvalidRequest for another, NotFound."""
        if not self._is_model():
            raise InvalidRequest(f"{self.name} is an application and no model; app.url is where it answers")
        engine = self._platform().engine
        ready = [one for one in self.replicas if one.state is State.READY]
        if not ready:
            raise NotFound(f"the model {self.name} is {self.status}; wait() until it is ready")
        return engine.model(next((one.id for one in ready if one.host == engine.name), ready[0].id))

    def _is_model(self) -> bool:
        return self.specification["model"] is not None

    @property
    def events(self) -> list[Event]:
        """What happened to it and to its replicas, oldest first, with causes."""
        found: list[Event] = []
        while page := self._store.events(self.id, after=found[-1].seq if found else 0):
            found += page
        return found

    @property
    def cost(self) -> Cost:
        """What it has cost so far, in wei; periods that go on are not in it."""
        return Cost(self._store.spent_wei(self.id))

    def metrics(self) -> list[dict[str, Any]]:
        """What each replica used so far, as its host's kernel counted: a row with cpu_seconds, memory_bytes ..."""
        found: list[dict[str, Any]] = []
        if self._is_model():
            return found  # it is metered by request: net.billing.usage() has that
        hosts = self._platform().hosts.now()
        for one in self.replicas:
            host = hosts.get(one.host)
            if host is None or not one.started_at:
                continue
            try:
                measured = host.metrics(one.id)
            except NotFound:
                continue
            found.append(
                {
                    "replica": one.id, "host": one.host, "cpu_seconds": measured.cpu_seconds,
                    "memory_bytes": measured.memory_bytes, "memory_peak_bytes": measured.memory_peak_bytes,
                    "pids": measured.pids, "egress_bytes": measured.egress_bytes,
                    "ingress_bytes": measured.ingress_bytes, "gpu_percent": measured.gpu_percent,
                    "gpu_memory_bytes": measured.gpu_memory_bytes,
                }
            )  # fmt: skip
        return found

    @overload
    def logs(self, *, follow: Literal[False] = False, replica: str | None = None) -> list[str]: ...

    @overload
    def logs(self, *, follow: Literal[True], replica: str | None = None) -> Iterator[str]: ...

    def logs(self, *, follow: bool = False, replica: str | None = None) -> list[str] | Iterator[str]:
        """Its lines in the order they were written, of all replicas or of one; those of ended ones as far as they are
        kept. follow: an iterator that goes on until the deployment has ended."""
        if follow:
            return self._following(replica)
        return [line.text for _, line in self.lines(replica=replica)]

    def lines(self, *, replica: str | None = None, since: float = 0.0) -> list[tuple[str, LogLine]]:
        """The lines after the moment `since` (seconds since 1970), each with its replica's id; those of hosts that do
        not answer are left out. Raises HostLost where such a replica is asked for."""
        if self._is_model():
            return []  # it writes none
        streams = read_each(self._platform(), self._store.logged(self.id), lambda _: since, replica=replica)
        return list(heapq.merge(*streams, key=lambda pair: pair[1].at))

    def lines_after(self, places: Mapping[str, float], *, replica: str | None = None, limit: int = 5000) -> LinePage:
        """The oldest lines after the places of a page before, all of them from {} on. Raises HostLost, as `lines`."""
        if self._is_model():
            return LinePage([], {}, more=False)
        return lines_after(self._platform(), self.id, places, replica=replica, limit=limit)

    def _following(self, replica: str | None) -> Iterator[str]:
        from rios.services.deployments.following import follow

        platform = self._platform()

        def alive() -> bool:
            app = self._app()
            return not app.ended_at and app.state is not State.STOPPED

        return follow(platform, self.id, replica, alive)

    def exec(self, command: Sequence[str], *, replica: str | None = None, timeout: float = 30.0) -> Executed:
        """Run a command inside a replica, or in any that runs: exit_code, stdout, stderr. timeout: seconds; through a
        gateway 60 at most. Raises NotFound, DeadlineExceeded."""
        if self._is_model():
            raise NotFound(f"{self.name} is a model, and no command runs in it")
        for one in self.replicas:
            if one.state in (State.READY, State.DEGRADED, State.STARTING) and one.started_at:
                host = self._platform().hosts.now().get(one.host)
                if host is not None and replica in (None, one.id):
                    with contextlib.suppress(NotFound):  # it has just ended, and nothing was run: another one may do
                        return host.exec(one.id, tuple(command), timeout_s=timeout)
        raise NotFound(f"{self.name} has no running replica{f' {replica}' if replica else ''}; it is {self.status}")

    def wait(self, state: str = "ready", *, timeout: float | None = None) -> Deployment:
        """Until it is in that state; itself. timeout: seconds, 300 without.

        One of which no replica is wanted is ready, for a request wakes it; a revision that was wished meanwhile is
        tried then, and whoever waits after that is told what became of it.

        Raises DeadlineExceeded, and DeploymentFailed where it has failed or ended in another way, or where an earlier
        revision was gone back to since it was wished through this handle, or meanwhile.
        """

        def seen() -> Look:
            app = self._app()
            return Look(app.state, app.reason, app.revision, tried=not is_untried(app))

        awaited(
            self.name, State(state), seen, events=lambda: self.events, timeout=timeout, look_s=_LOOK_S,
            wished=self._wished,
        )  # fmt: skip
        return self

    # --- what is wanted of it --------------------------------------------------------------------------------

    def scale(self, replicas: int | tuple[int, int]) -> None:
        """Want so many replicas, or from so many to so many as the load asks for. It stays so until a revision comes
        that says another number than the one before it."""
        low, high = span_of(replicas)
        if self._is_model():
            self.update(replicas=(low, high))
            return
        at = self._store.ledger.now()

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            wanted = low if isinstance(replicas, int) else min(max(app.replicas, low, 1), high)
            columns = {"replicas": wanted, "replicas_min": low, "replicas_max": high, **woken(app, wanted, at=at)}
            begun = _begun(app) if app.state is State.READY and is_untried(app) and wanted else {}
            columns |= {"reached": min(app.reached, wanted), **begun}
            return columns, "scaled", f"{self._by} wants {said_of(low, high)}"

        self._change(change)

    def update(self, **fields: Any) -> int:
        """Want another revision: the given fields in place of those that are. Its number; the same for no change.

        It takes over step by step, and where it does not become ready the one before stays. An image that is given is
        always a change: its name may lead elsewhere by now. Values of secrets that are given are the new
        revision's: where the one before stays or comes back, so do its values. Raises InvalidRequest.
        """
        from rios.services.deployments.service import with_function

        wanted = read_app(given_secrets(self._specification(), with_function(fields)))
        return self.update_to(wanted, anew=fields.get("image") is not None)

    def update_to(self, wanted: Specification, *, anew: bool = False) -> int:
        """As `update`, to a whole specification. anew: also where it is no other one."""
        from rios.services.deployments.archives import Standing
        from rios.services.deployments.service import resolved

        if wanted.name != self.name:
            raise InvalidRequest(f"{self.name} cannot become {wanted.name}: a name stays; create another deployment")
        self._rules.allow(self._app())
        platform = self._platform()
        stands = Standing(resolved(self._rules.checked(wanted)), lambda: platform.hosts)
        stands.give(self._store, self.id)
        wanted = stands.wanted
        stored, digest, values = wanted.stored(), wanted.digest, wanted.secret_values()
        at = self._store.ledger.now()

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            if not app.bound:
                require_free(connection, app.organisation_id, stored, but=app.id)
            stands.require(connection, app)
            platform.secrets.require(connection, app, kept_names(stored) - values.keys())
            now = self._store.specification(app.id, app.revision)
            check_new(stored["volumes"], now["volumes"])
            require(connection, app.organisation_id, stored, now)
            take(connection, app, stored)
            changed = platform.secrets.changed(connection, app, values)
            if not anew and not changed and stored == now:
                return {}, "", ""
            stands.record(connection, app, by=self._by, at=at)
            number = self._store.add_revision(connection, app, stored, digest, by=self._by, at=at)
            platform.secrets.put_from(connection, app, changed, revision=number, at=at)
            columns = {"revision": number, "since": at, **_FRESH, **span_after(app, now, stored), **_begun(app)}
            return columns, "update", f"{self._by} wants revision {number}"

        revision = self._change(change).revision
        stands.keep(self.id)
        return self._wished.wish(revision)

    def rollback(self, revision: int | None = None) -> int:
        """Want an earlier revision: the one before, or the one of that number, with the values of secrets that it had
        but for those that `rotate_secrets` gave anew since. Raises InvalidRequest, NotFound."""
        numbers = [one["number"] for one in self.revisions]

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            earlier = [number for number in numbers if number < app.revision]
            wanted = revision if revision is not None else (earlier[-1] if earlier else None)
            if wanted is None or wanted == app.revision:
                raise InvalidRequest(f"{self.name} has no revision before {app.revision} to go back to")
            if wanted not in numbers:
                raise NotFound(f"{self.name} has no revision {wanted}; it has {', '.join(map(str, numbers))}")
            earlier_one = self._store.specification(app.id, wanted)
            if not app.bound:
                require_free(connection, app.organisation_id, earlier_one, but=app.id)
            take(connection, app, earlier_one)
            span = span_after(app, self._store.specification(app.id, app.revision), earlier_one)
            columns = {"revision": wanted, "since": self._store.ledger.now(), **_FRESH, **span, **_begun(app)}
            return columns, "rollback", f"{self._by} wants revision {wanted} back"

        return self._wished.wish(self._change(change).revision)

    @property
    def snapshots(self) -> AppSnapshots:
        """Snapshots of its volumes, which end with it."""
        return AppSnapshots(self)

    @property
    def secrets(self) -> list[dict[str, Any]]:
        """The secrets that are kept for it: a row with name and changed_at, and no value."""
        return self._platform().secrets.names(self.id)

    def rotate_secrets(self, values: Mapping[str, str], *, wait: bool = True, timeout: float = 60.0) -> None:
        """Give secrets anew, such as {"TOKEN": "..."}: each file in /run/secrets changes at once, while replicas run.
        The values count for all revisions: one that is gone back to has them, too.

        wait: until all that run have them. Raises NotFound for a name that it has no secret of, InvalidRequest,
        DeadlineExceeded.
        """
        platform, given = self._platform(), secret_values(values)
        at = self._store.ledger.now()

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            known = kept_names(self._store.specification(app.id, app.revision))
            for name in given:
                if name not in known:
                    raise NotFound(f"{self.name} has no secret {name!r}; it has {', '.join(sorted(known)) or 'none'}")
            platform.secrets.put(connection, app, given, at=at)
            return {"asked_at": app.asked_at}, SECRETS, f"{self._by} gave {', '.join(sorted(given))} anew"

        self._change(change)
        if wait:
            rotated(self.name, self.behind, timeout=timeout, look_s=_LOOK_S)

    def behind(self) -> list[str]:
        """The replicas that run and have not got secrets that were given anew."""
        return self._store.behind(self.id)

    def restart(self) -> None:
        """Want all replicas replaced by new ones, step by step; a deployment that failed or is done begins anew."""
        at = self._store.ledger.now()

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            return begun_anew(app, at=at), "restart", f"{self._by} wants it restarted"

        self._change(change)

    def pause(self) -> None:
        """Want no replica to run. Volumes and revisions stay; it costs nothing but its volumes."""

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            if app.wish is Wish.PAUSE:
                return {}, "", ""
            columns = {"wish": str(Wish.PAUSE), "state": str(State.PAUSED), "reason": f"paused by {self._by}"}
            return columns, "state", f"{self._by} wants it paused"

        self._change(change)

    def resume(self) -> None:
        """Want a paused deployment to run again; a revision that is not ready yet has all of its time from now on."""
        at = self._store.ledger.now()

        def change(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            if app.wish is not Wish.PAUSE:
                raise InvalidRequest(f"{self.name} is not paused by wish; it is {app.state}")
            columns = {"wish": str(Wish.RUN), "state": str(State.REQUESTED), "settled_revision": None, "reached": 0}
            columns["replicas"] = max(app.replicas, min(app.replicas_max, max(app.replicas_min, 1)))
            return {**columns, "since": at, **_FRESH}, "state", f"{self._by} wants it to go on"

        self._change(change)

    def delete(self, *, wait: bool = True, timeout: float | None = None) -> None:
        """Want it gone: replicas, secrets, logs, snapshots, and volumes that are not to be kept.

        wait: until nothing is left. timeout: seconds; without, 60 and twice the grace of what runs. Raises
        DeadlineExceeded where something is still left; it goes on being ended.
        """
        from rios.services.deployments.service import ask_to_end

        now, specification = self._store.ledger.now(), self._specification()
        running = {(self.id, one.revision) for one in self.replicas}
        graces = [one["grace"] for one in (specification, *self._store.specifications(running).values())]
        timeout = ends_within(graces) if timeout is None else timeout

        def before(app: App, connection: Connection) -> None:
            self._rules.allow(app)
            self._rules.record(connection, app, specification, action=DELETED, at=now)

        ask_to_end(self._store, self.id, cause=f"deleted by {self._by}", before=before)
        self._platform().changed()
        deadline = time.monotonic() + timeout
        while wait and not self._app().ended_at:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self.name} is still being ended after {timeout:g} s; it goes on")
            time.sleep(_LOOK_S)
        self._platform().changed()

    def _change(self, change: Callable[[App, Connection], tuple[Mapping[str, Any], str, str]]) -> App:
        def checked(app: App, connection: Connection) -> tuple[Mapping[str, Any], str, str]:
            self._rules.allow(app)
            if app.wish is Wish.DELETE:
                raise InvalidRequest(f"{self.name} is being deleted; create another deployment")
            return change(app, connection)

        found = self._store.change(self.id, checked, at=self._store.ledger.now())
        self._platform().changed()
        return found

    @property
    def _store(self) -> AppStore:
        return self._platform().store

    def _app(self) -> App:
        return self._store.app(self.id)


def begun_anew(app: App, *, at: int) -> dict[str, Any]:
    """All replicas are replaced by new ones, from the moment `at` on."""
    return {"round": app.round + 1, "since": at, **_FRESH, **_begun(app)}


def _begun(app: App) -> dict[str, Any]:
    """What comes with a wish for other replicas: one that is not tried any more, or is done, begins anew; one that is
    ready is not any more, from this moment on, so that whoever waits for it waits for what was wished."""
    if app.state in (State.FAILED, State.STOPPED):
        return {"state": str(State.REQUESTED), "wish": str(Wish.RUN), "settled_revision": None, "reached": 0}
    if app.state not in (State.READY, State.DEGRADED):
        return {}
    return {"state": str(State.REQUESTED if app.settled_revision is None else State.UPDATING)}


__all__ = ["Cost", "Deployment"]
