"""Deployments behind a gateway, as `net.deploy` of a network in this process gives them."""

from __future__ import annotations

import base64
import builtins
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import SecretStr

from rios.client.http import Http
from rios.deploy.lifecycle import State
from rios.deploy.reading import read_app, read_file
from rios.deploy.runtimes.protocol import Executed, LogLine
from rios.deploy.spec import GRACE_MAX_S, MODEL_FIELDS, App, SecretRef
from rios.services.deployments.awaiting import Look, Wished, awaited, ends_within, rotated
from rios.services.deployments.given import given_secrets, secret_values
from rios.services.deployments.handle import Cost
from rios.services.deployments.kept_volumes import KeptVolume, table_of
from rios.services.deployments.service import Change, Plan, resolved, with_function
from rios.services.deployments.shared_secrets import shared_values
from rios.services.deployments.snapshots import Snapshot, taken
from rios.services.deployments.spans import span_of
from rios.services.deployments.values import EXEC_MAX_S, Event
from rios.services.deployments.views import AppView
from rios.services.edges import edge
from rios.words.display import Shown, answer
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from rios.client.remote import RemoteModel

_LOOK_S, _LINES_S = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class RemoteReplica(Shown):
    """One replica of a deployment."""

    id: str
    revision: int
    host: str
    state: State
    created_at: int
    started_at: int
    ready_at: int


class RemoteDeployments(Shown):
    """Applications and models on a network: `net.deploy`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<Deployments at {self._http.url}>"

    def create(self, *, name: str, **fields: Any) -> RemoteDeployment:
        """As of a local network. Values of secrets are sent to the gateway, which keeps them encrypted."""
        return self.create_from(read_app(with_function({"name": name, **fields})))

    def create_from(self, wanted: App) -> RemoteDeployment:
        """As `create`, of a specification that was read already."""
        self._http.post("/v1/apps", _body(wanted))
        return RemoteDeployment(self._http, wanted.name)

    def get(self, name: str) -> RemoteDeployment:
        """A deployment by its name. Raises NotFound."""
        self._http.get(f"/v1/apps/{name}")
        return RemoteDeployment(self._http, name)

    def list(self) -> tuple[RemoteDeployment, ...]:
        """The deployments of the organisation, by name."""
        return tuple(RemoteDeployment(self._http, one["name"]) for one in self._http.pages("/v1/apps"))

    @property
    def secrets(self) -> RemoteSecrets:
        """The organisation's own secrets, which its applications take by `{store: NAME}`."""
        return RemoteSecrets(self._http)

    @property
    def volumes(self) -> RemoteVolumes:
        """The volumes that were kept when their deployments were deleted, for new ones to take, or to be removed."""
        return RemoteVolumes(self._http)

    def views(self) -> tuple[AppView, ...]:
        """All that a panel shows of those that there are, by name."""
        return tuple(AppView.from_dict(one) for one in self._http.pages("/v1/apps"))

    def plan(self, source: str | Path | Sequence[App]) -> Plan:
        """What `apply` would do. Nothing is changed."""
        rows = self._http.post("/v1/apps/plan", _file(source))["data"]
        return Plan(
            Change(
                row["name"],
                row["action"],
                tuple((one["field"], one["before"], one["after"]) for one in row["fields"]),
            )
            for row in rows
        )

    def apply(self, source: str | Path | Sequence[App]) -> tuple[RemoteDeployment, ...]:
        """Make deployments what a file says: new ones are created, others updated where they differ."""
        rows = self._http.post("/v1/apps/apply", _file(source))["data"]
        return tuple(RemoteDeployment(self._http, row["name"], wished=row["revision"]) for row in rows)


class RemoteSecrets(Shown):
    """The secrets of the own organisation. No value comes back out."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<RemoteSecrets at {self._http.url}>"

    def list(self) -> builtins.list[dict[str, Any]]:
        """A row with name and changed_at of each."""
        return self._http.pages("/v1/secrets")

    def put(self, values: Mapping[str, str]) -> None:
        """Keep values by their names, in place of those that are; running replicas have them at once."""
        given = {name: value.get_secret_value() for name, value in shared_values(values).items()}
        self._http.ask("PUT", "/v1/secrets", json={"secrets": given})

    def delete(self, name: str) -> None:
        """Keep a secret no longer. Raises NotFound, and InvalidRequest where applications refer to it."""
        self._http.ask("DELETE", "/v1/secrets", params={"name": name})


class RemoteVolumes(Shown):
    """The kept volumes of the own organisation. Nothing is charged for them."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<RemoteVolumes at {self._http.url}>"

    def _table(self) -> tuple[tuple[str, ...], builtins.list[tuple[object, ...]]]:
        return table_of(answer(self.list))

    def list(self) -> builtins.list[KeptVolume]:
        """All of them, those that were left first come first."""
        return [KeptVolume(**row) for row in self._http.pages("/v1/volumes")]

    def get(self, name: str) -> KeptVolume:
        """One by its id. Raises NotFound."""
        return KeptVolume(**self._http.get(f"/v1/volumes/{name}"))

    def delete(self, name: str) -> None:
        """Remove one for good, by its id. Raises NotFound, and InvalidRequest where a deployment takes it."""
        self._http.ask("DELETE", f"/v1/volumes/{name}")


class RemoteSnapshots(Shown):
    """The snapshots of one deployment."""

    def __init__(self, http: Http, name: str) -> None:
        self._http, self._name = http, name
        self._path = f"/v1/apps/{name}/snapshots"

    def __repr__(self) -> str:
        return f"<RemoteSnapshots of {self._name!r} at {self._http.url}>"

    def take(self, path: str, *, copies: int = 1, wait: bool = True, timeout: float = 600.0) -> Snapshot:
        """Have a snapshot of the volume at `path` taken, of one moment, and kept by so many hosts; what it is then.

        wait: until the first host keeps it. timeout: seconds. As of a local network otherwise.
        """
        found = _snapshot(self._http.post(self._path, {"path": path, "copies": copies}))
        return taken(self._name, lambda: self.get(found.id), wait=wait, timeout=timeout, look_s=_LOOK_S)

    def list(self) -> builtins.list[Snapshot]:
        """All of them, oldest first."""
        return [_snapshot(row) for row in self._http.pages(self._path)]

    def get(self, name: str) -> Snapshot:
        """One by its id. Raises NotFound."""
        return _snapshot(self._http.get(f"{self._path}/{name}"))

    def delete(self, name: str) -> None:
        """Keep a snapshot no longer; hosts that do not answer forget it when they are back. Raises NotFound."""
        self._http.ask("DELETE", f"{self._path}/{name}")


def _snapshot(row: Mapping[str, Any]) -> Snapshot:
    return Snapshot(**{**row, "hosts": tuple(row["hosts"])})


class RemoteDeployment(Shown):
    """A deployment behind a gateway."""

    def __init__(self, http: Http, name: str, *, wished: int = 0) -> None:
        self._http = http
        self.name = name
        self._path = f"/v1/apps/{name}"
        self._ended = False
        self._wished = Wished(wished)

    def __repr__(self) -> str:
        return f"<RemoteDeployment {self.name!r} at {self._http.url}>"

    def widget(self) -> Any:
        """It in the notebook, live: state, replicas, requests, cost, hosts and log, with buttons to scale and stop."""
        return edge("widgets").of_app(self)

    def view(self) -> AppView:
        """All that a panel shows of it, at one moment. Raises NotFound once it is gone."""
        return AppView.from_dict(self._found())

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(self._path)
        return found

    @property
    def id(self) -> str:
        """The same for its life; its name may be another's afterwards."""
        return str(self._found()["id"])

    @property
    def status(self) -> str:
        """requested, scheduled, pulling, starting, ready, degraded, updating, paused, stopping, stopped or failed."""
        try:
            return str(self._found()["status"])
        except NotFound:
            if self._ended:
                return "stopped"
            raise

    @property
    def reason(self) -> str:
        """Why it is in that state, where there is something to say."""
        return str(self._found()["reason"])

    @property
    def revision(self) -> int:
        """The number of the revision that is wanted now."""
        return int(self._found()["revision"])

    @property
    def revisions(self) -> list[dict[str, Any]]:
        """All revisions: number, digest, created_by, created_at; image: the digest that its name led to when it was
        first started, which every replica of it runs."""
        return self._http.pages(f"{self._path}/revisions")

    @property
    def specification(self) -> dict[str, Any]:
        """What is wanted now. Secrets are in it by name alone."""
        found: dict[str, Any] = self._found()["specification"]
        return found

    @property
    def replicas(self) -> list[RemoteReplica]:
        """The replicas that have not ended."""
        rows = self._http.pages(f"{self._path}/replicas")
        return [RemoteReplica(**{**row, "state": State(row["state"])}) for row in rows]

    @property
    def model(self) -> RemoteModel:
        """The model of a model deployment that the gateway serves. Raises InvalidRequest for another, NotFound."""
        from rios.client.remote import RemoteModel

        said = self.specification
        if said["model"] is None:
            raise InvalidRequest(f"{self.name} is an application and no model; app.url is where it answers")
        found = RemoteModel(self._http, str(said.get("served_name") or said["name"]))
        if (state := found.state) != "serving":
            raise NotFound(f"the model {self.name} is {state} at this gateway; wait() until it is ready")
        return found

    @property
    def url(self) -> str:
        """Where the gateway answers for it, with its token unless it is public."""
        return f"{self._http.url}/apps/{self.name}/"

    def link(self, *, hours: float = 1.0) -> str:
        """Where a browser opens it, without a token, for so long: at most 12 hours. Whoever has the link may ask this
        application in your name, and nothing else; it ends with the key or sign-in that you ask by."""
        made = self._http.post(f"{self._path}/ticket", {"lasts_s": round(hours * 3600)})
        return f"{self._http.url}{made['path']}"

    @property
    def events(self) -> list[Event]:
        """What happened to it and to its replicas, oldest first, with causes."""
        return [Event(**row) for row in self._http.pages(f"{self._path}/events")]

    @property
    def cost(self) -> Cost:
        """What it has cost so far, in wei; periods that go on are not in it."""
        return Cost(int(self._found()["cost_wei"]))

    def metrics(self) -> list[dict[str, Any]]:
        """What each replica used so far, as its host's kernel counted."""
        found: list[dict[str, Any]] = self._http.get(f"{self._path}/metrics")["data"]
        return found

    @overload
    def logs(self, *, follow: Literal[False] = False, replica: str | None = None) -> list[str]: ...

    @overload
    def logs(self, *, follow: Literal[True], replica: str | None = None) -> Iterator[str]: ...

    def logs(self, *, follow: bool = False, replica: str | None = None) -> list[str] | Iterator[str]:
        """Its lines in the order they were written, the last 5000. follow: an iterator that begins with the oldest
        that is kept and goes on until it has ended; it leaves out none, whatever the clocks of hosts say."""
        if follow:
            return self._following(replica)
        return [row["text"] for row in self._lines(replica, 0.0)]

    def lines(self, *, replica: str | None = None, since: float = 0.0) -> list[tuple[str, LogLine]]:
        """The lines after the moment `since` (seconds since 1970), each with its replica's id."""
        rows = self._lines(replica, since)
        return [(row["replica"], LogLine(row["at"], row["stream"], row["text"])) for row in rows]

    def _lines(self, replica: str | None, since: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get(f"{self._path}/logs", replica=replica, since=since)["data"]
        return found

    def _following(self, replica: str | None) -> Iterator[str]:
        places: dict[str, float] = {}
        while True:
            try:
                last = self.status == "stopped"
                page = self._http.read(f"{self._path}/logs", {"after": places, "replica": replica})
            except NotFound:
                return
            places = page["next"]
            yield from (row["text"] for row in page["data"])
            if page["more"]:
                continue
            if last:
                return
            time.sleep(_LINES_S)

    def exec(self, command: Sequence[str], *, replica: str | None = None, timeout: float = 30.0) -> Executed:
        """Run a command inside a replica: exit_code, stdout, stderr.

        timeout: seconds, at most `EXEC_MAX_S` through a gateway. Raises InvalidRequest for longer, NotFound,
        DeadlineExceeded.
        """
        if timeout > EXEC_MAX_S:
            raise InvalidRequest(
                f"timeout is {timeout:g} s, and through a gateway a command has {EXEC_MAX_S:g} s at most: have what "
                "takes longer go on in the background (`nohup ... &`, into a file) and ask for its output, or make it "
                'a deployment of its own (restart="on-failure")'
            )
        body = {"command": list(command), "replica": replica, "timeout_s": float(timeout)}
        done = self._http.post(f"{self._path}/exec", body)
        return Executed(done["exit_code"], base64.b64decode(done["stdout"]), base64.b64decode(done["stderr"]))

    def wait(self, state: str = "ready", *, timeout: float | None = None) -> RemoteDeployment:
        """Until it is in that state; itself. Raises DeadlineExceeded, DeploymentFailed."""

        def seen() -> Look:
            found = self._found()
            return Look(State(found["status"]), found["reason"], found["revision"], tried=found["replicas"] > 0)

        awaited(
            self.name, State(state), seen, events=lambda: self.events, timeout=timeout, look_s=_LOOK_S,
            wished=self._wished,
        )  # fmt: skip
        return self

    def scale(self, replicas: int | tuple[int, int]) -> None:
        """Want so many replicas, or from so many to so many as the load asks for."""
        low, high = span_of(replicas)
        body = {"min": low, "max": None if isinstance(replicas, int) else high}
        self._http.post(f"{self._path}/scale", body)

    def update(self, **fields: Any) -> int:
        """Want another revision: the given fields in place of those that are. Its number; the same for no change."""
        wanted = read_app({**given_secrets(self.specification, with_function(fields))})
        return self.update_to(wanted, only=set(fields))

    def update_to(self, wanted: App, *, only: set[str] | None = None) -> int:
        """As `update`, to a whole specification. only: the fields that may differ."""
        # What a specification leaves out where it is nothing is said here: it may take the place of something.
        whole = {**{name: getattr(wanted, name) for name in MODEL_FIELDS}, **_body(wanted)}
        fields = {name: value for name, value in whole.items() if name != "name" and (only is None or name in only)}
        found: dict[str, Any] = self._http.ask("PATCH", self._path, json={"fields": fields})
        return self._wished.wish(int(found["revision"]))

    def rollback(self, revision: int | None = None) -> int:
        """Want an earlier revision: the one before, or the one of that number."""
        return self._wished.wish(int(self._http.post(f"{self._path}/rollback", {"revision": revision})["revision"]))

    @property
    def snapshots(self) -> RemoteSnapshots:
        """Snapshots of its volumes, which end with it."""
        return RemoteSnapshots(self._http, self.name)

    @property
    def secrets(self) -> list[dict[str, Any]]:
        """The secrets that are kept for it: a row with name and changed_at, and no value."""
        return self._http.pages(f"{self._path}/secrets")

    def rotate_secrets(self, values: Mapping[str, str], *, wait: bool = True, timeout: float = 60.0) -> None:
        """Give secrets anew while replicas run. wait: until all that run have them."""
        given = {name: value.get_secret_value() for name, value in secret_values(values).items()}
        self._http.ask("PUT", f"{self._path}/secrets", json={"secrets": given})
        if wait:
            rotated(self.name, self.behind, timeout=timeout, look_s=_LOOK_S)

    def behind(self) -> list[str]:
        """The replicas that run and have not got secrets that were given anew."""
        found: list[str] = self._http.get(f"{self._path}/secrets")["behind"]
        return found

    def restart(self) -> None:
        """Want all replicas replaced by new ones, step by step."""
        self._http.ask("POST", f"{self._path}/restart")

    def pause(self) -> None:
        """Want no replica to run."""
        self._http.ask("POST", f"{self._path}/pause")

    def resume(self) -> None:
        """Want a paused deployment to run again."""
        self._http.ask("POST", f"{self._path}/resume")

    def delete(self, *, wait: bool = True, timeout: float | None = None) -> None:
        """Want it gone. wait: until nothing is left. timeout: seconds; without, 60 and twice the grace of what runs.
        Raises DeadlineExceeded."""
        if wait and timeout is None:
            found = self._found()
            older = any(one.revision != found["revision"] for one in self.replicas)
            timeout = ends_within([GRACE_MAX_S if older else found["specification"]["grace"]])
        mine = self._http.ask("DELETE", self._path)["id"]
        self._ended = True

        def seen() -> Look:
            try:
                found = self._found()
            except NotFound:
                return Look(State.STOPPED, "", 0)
            return Look(State.STOPPED if found["id"] != mine else State.STOPPING, found["reason"], 0)

        if wait:
            awaited(self.name, State.STOPPED, seen, events=list, timeout=timeout, look_s=_LOOK_S, wished=Wished())


def _body(wanted: App) -> dict[str, Any]:
    """What is sent: values of secrets too, those of this process's environment among them."""
    wanted = resolved(wanted)
    return {**wanted.stored(), "secrets": {name: _secret(value) for name, value in wanted.secrets.items()}}


def _secret(value: SecretStr | SecretRef) -> str | dict[str, Any]:
    return value.model_dump(exclude_none=True) if isinstance(value, SecretRef) else value.get_secret_value()


def _file(source: str | Path | Sequence[App]) -> Mapping[str, Any]:
    apps = read_file(Path(source)).apps if isinstance(source, str | Path) else source
    return {"version": 1, "apps": [_body(one) for one in apps]}
