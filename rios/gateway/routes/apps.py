"""Applications and models: what the organisation wants to run, what became of it, and what is wanted next."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, SecretStr

from rios.accounts.values import Principal
from rios.deploy.runtimes.protocol import LogLine
from rios.deploy.spec import App, AppFile
from rios.gateway.answers import apps as apps_answers
from rios.gateway.answers.words import says
from rios.gateway.app_tickets import LASTS_MAX_S, LASTS_S
from rios.gateway.auth import gate_of, needs
from rios.gateway.paging import After, AfterNumber, Limit, moment_cursor, page_of, read_moment_cursor
from rios.gateway.protect import DEPLOY
from rios.gateway.schemas import Name, Strict
from rios.services.deployments.handle import Deployment
from rios.services.deployments.service import Deployments, Plan
from rios.services.deployments.spans import REPLICAS_MAX
from rios.services.deployments.values import EXEC_MAX_S, Event, Replica
from rios.services.deployments.views import AppWhole, whole_of
from rios.words.errors import InvalidRequest

router = APIRouter(prefix="/v1/apps", tags=["apps"])
Reader = Annotated[Principal, Depends(needs("models:read"))]
Deployer = Annotated[Principal, Depends(needs(DEPLOY))]
_LINES_MAX = 5000
Opener = Annotated[Principal, Depends(needs("generate"))]


class Replicas(Strict, json_schema_extra={"examples": [{"min": 2, "max": 4}]}):
    """How many replicas."""

    min: int = Field(ge=0, le=REPLICAS_MAX)
    max: int | None = Field(default=None, ge=1, le=REPLICAS_MAX, description="The same as `min` without.")


class Revision(Strict, json_schema_extra={"examples": [{"revision": 1}]}):
    """Which revision to go back to."""

    revision: int | None = Field(default=None, ge=1, le=2**31, description="The one before without.")


class Command(Strict, json_schema_extra={"examples": [{"command": ["ls", "/data"]}]}):
    """A command to run inside a replica."""

    command: list[Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]] = Field(max_length=256)
    replica: Name | None = None
    timeout_s: float = Field(default=30.0, gt=0, le=EXEC_MAX_S)


class Changes(Strict, json_schema_extra={"examples": [{"fields": {"env": {"GREETING": "hello"}}}]}):
    """Fields of the specification in place of those that are; secrets that are not named stay."""

    fields: dict[str, Any] = Field(max_length=40)


class Lasting(Strict, json_schema_extra={"examples": [{"lasts_s": 3600}]}):
    """How long an address is good."""

    lasts_s: int = Field(default=LASTS_S, ge=1, le=LASTS_MAX_S)


class Places(Strict, json_schema_extra={"examples": [{"after": {"hello-4f1c-1": 1764410400.25}}]}):
    """Which lines are to follow."""

    after: dict[Annotated[str, Field(max_length=63)], Annotated[float, Field(ge=0, le=2**40)]] = Field(
        default_factory=dict, max_length=2 * REPLICAS_MAX,
        description="The `next` of the page before; nothing for the first one.",
    )  # fmt: skip
    replica: Annotated[str, Field(max_length=63)] | None = Field(default=None, description="Of this one alone.")
    limit: int = Field(default=_LINES_MAX, ge=1, le=_LINES_MAX)


class Values(Strict, json_schema_extra={"examples": [{"secrets": {"TOKEN": "s3cret"}}]}):
    """Values of secrets by their names."""

    secrets: dict[str, SecretStr] = Field(min_length=1, max_length=64)


def _apps(request: Request, who: Principal) -> Deployments:
    return gate_of(request).tenancy.deployments(who)


def _app(request: Request, who: Principal, name: str) -> Deployment:
    return _apps(request, who).get(name)


def _said(whole: AppWhole) -> dict[str, Any]:
    found = whole.app
    more = {
        "replicas_min": found.replicas_min, "replicas_max": found.replicas_max, "ended": found.ended_at > 0,
        "url": f"/apps/{found.name}/", "specification": whole.specification,
    }  # fmt: skip
    return {**whole.view.to_dict(), **more}


def _event(one: Event) -> dict[str, Any]:
    return {
        "seq": one.seq, "at": one.at, "kind": one.kind, "state": one.state, "replica": one.replica, "cause": one.cause
    }  # fmt: skip


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "data": [
            {
                "name": change.name,
                "action": change.action,
                "fields": [{"field": field, "before": old, "after": new} for field, old, new in change.fields],
            }
            for change in plan
        ]
    }


@router.get("", summary="The applications that the organisation wants to run", responses=says(apps_answers.AppRows))
def get_apps(request: Request, who: Reader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """By name, with their states, in pages."""
    apps = _apps(request, who)
    found = apps.rows(after=after, limit=limit + 1)
    said = {whole.app.id: _said(whole) for whole in apps.wholes(found[:limit])}
    return page_of(found, limit, shown=lambda app: said[app.id], cursor=lambda app: app.name)


@router.post("", status_code=202, summary="Deploy an application", responses=says(apps_answers.AppRow, 202))
def post_app(request: Request, who: Deployer, body: App) -> dict[str, Any]:
    """It starts in the background, in a sandbox, and is paid for by the user. Values of secrets are in no answer."""
    return _said(whole_of(_apps(request, who).create_from(body)))


@router.post("/plan", summary="What applying a file would change", responses=says(apps_answers.Planned))
def post_plan(request: Request, who: Deployer, body: AppFile) -> dict[str, Any]:
    """Nothing is changed."""
    return _plan(_apps(request, who).plan(body.apps))


@router.post(
    "/apply",
    status_code=202,
    summary="Make applications what a file says",
    responses=says(apps_answers.AppsApplied, 202),
)
def post_apply(request: Request, who: Deployer, body: AppFile) -> dict[str, Any]:
    """New ones are created, others updated where they differ; none is deleted."""
    return {"data": [_said(whole_of(app)) for app in _apps(request, who).apply(body.apps)]}


@router.get("/{name}", summary="An application", responses=says(apps_answers.AppRow))
def get_app(request: Request, who: Reader, name: str) -> dict[str, Any]:
    """State, revision, replicas, cost and specification."""
    return _said(whole_of(_app(request, who, name)))


@router.patch("/{name}", status_code=202, summary="Want another revision", responses=says(apps_answers.AppRow, 202))
def patch_app(request: Request, who: Deployer, name: str, body: Changes) -> dict[str, Any]:
    """It takes over step by step; where it does not become ready, the one before stays."""
    app = _app(request, who, name)
    app.update(**body.fields)
    return _said(whole_of(app))


@router.delete("/{name}", status_code=202, summary="Take an application down", responses=says(apps_answers.AppRow, 202))
def delete_app(request: Request, who: Deployer, name: str) -> dict[str, Any]:
    """It is gone when nobody finds it any more."""
    app = _app(request, who, name)
    app.delete(wait=False)
    return _said(whole_of(app))


@router.post(
    "/{name}/scale", status_code=202, summary="Want so many replicas", responses=says(apps_answers.AppRow, 202)
)
def post_scale(request: Request, who: Deployer, name: str, body: Replicas) -> dict[str, Any]:
    """Exactly so many, or between two numbers as the load asks for."""
    app = _app(request, who, name)
    app.scale(body.min if body.max is None else (body.min, body.max))
    return _said(whole_of(app))


@router.post(
    "/{name}/rollback", status_code=202, summary="Want an earlier revision", responses=says(apps_answers.AppRow, 202)
)
def post_rollback(request: Request, who: Deployer, name: str, body: Revision) -> dict[str, Any]:
    """The one before, or the one of that number."""
    app = _app(request, who, name)
    app.rollback(body.revision)
    return _said(whole_of(app))


@router.post(
    "/{name}/pause", status_code=202, summary="Want no replica to run", responses=says(apps_answers.AppRow, 202)
)
def post_pause(request: Request, who: Deployer, name: str) -> dict[str, Any]:
    """Volumes and revisions stay."""
    app = _app(request, who, name)
    app.pause()
    return _said(whole_of(app))


@router.post(
    "/{name}/resume",
    status_code=202,
    summary="Want a paused application to run again",
    responses=says(apps_answers.AppRow, 202),
)
def post_resume(request: Request, who: Deployer, name: str) -> dict[str, Any]:
    """With the revision that it had."""
    app = _app(request, who, name)
    app.resume()
    return _said(whole_of(app))


@router.post(
    "/{name}/restart", status_code=202, summary="Want all replicas replaced", responses=says(apps_answers.AppRow, 202)
)
def post_restart(request: Request, who: Deployer, name: str) -> dict[str, Any]:
    """Step by step; one that failed or is done begins anew."""
    app = _app(request, who, name)
    app.restart()
    return _said(whole_of(app))


@router.post(
    "/{name}/ticket",
    status_code=201,
    summary="An address that opens an application in a browser",
    responses=says(apps_answers.Ticket, 201),
)
def post_ticket(request: Request, who: Opener, name: str, body: Lasting) -> dict[str, Any]:
    """Good for whoever has it, for this application alone, until it expires or the token ends that asked for it."""
    found = request.app.state.tickets.give(who, _app(request, who, name).id, lasts_s=body.lasts_s)
    return {"path": found.path, "expires_at": found.expires_at}


@router.post("/{name}/exec", summary="Run a command inside a replica", responses=says(apps_answers.Done))
def post_exec(request: Request, who: Deployer, name: str, body: Command) -> dict[str, Any]:
    """Output is in base64, at most 1 MiB of each kind."""
    app = _app(request, who, name)
    if not body.command:
        raise InvalidRequest("command is empty; give a program and its arguments")
    done = app.exec(body.command, replica=body.replica, timeout=body.timeout_s)
    return {
        "exit_code": done.exit_code,
        "stdout": base64.b64encode(done.stdout).decode(),
        "stderr": base64.b64encode(done.stderr).decode(),
    }


@router.get("/{name}/secrets", summary="The secrets of an application", responses=says(apps_answers.AppSecrets))
def get_secrets(request: Request, who: Reader, name: str, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Names and when they changed, without values, in pages; and which replicas have not got those given anew."""
    app = _app(request, who, name)
    secrets = app._platform().secrets
    found = secrets.names(app.id, organisation_id=who.organisation_id, after=after, limit=limit + 1)
    return {**page_of(found, limit, shown=dict, cursor=lambda one: str(one["name"])), "behind": app.behind()}


@router.put(
    "/{name}/secrets",
    status_code=202,
    summary="Give secrets anew while an application runs",
    responses=says(apps_answers.AppRow, 202),
)
def put_secrets(request: Request, who: Deployer, name: str, body: Values) -> dict[str, Any]:
    """Their files inside change; nothing is restarted."""
    app = _app(request, who, name)
    app.rotate_secrets({name: value.get_secret_value() for name, value in body.secrets.items()}, wait=False)
    return _said(whole_of(app))


@router.get("/{name}/events", summary="What happened to an application", responses=says(apps_answers.AppEvents))
def get_events(
    request: Request,
    who: Reader,
    name: str,
    after: AfterNumber = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> dict[str, Any]:
    """Oldest first, in pages."""
    app = _app(request, who, name)
    found = app._store.events(app.id, after=after, limit=limit + 1)
    return page_of(found, limit, shown=_event, cursor=lambda one: one.seq)


@router.get("/{name}/logs", summary="What an application wrote", responses=says(apps_answers.LogRows))
def get_logs(
    request: Request,
    who: Reader,
    name: str,
    since: Annotated[float, Query(ge=0, le=2**40, description="Seconds since 1970.")] = 0.0,
    replica: Annotated[str | None, Query(max_length=63)] = None,
) -> dict[str, Any]:
    """Lines of all replicas, oldest first: the last 5000 after that moment."""
    lines = _app(request, who, name).lines(replica=replica, since=since)
    return {"data": [_line(*one) for one in lines[-_LINES_MAX:]]}


@router.post("/{name}/logs", summary="What an application wrote, in pages", responses=says(apps_answers.LogPage))
def post_logs(request: Request, who: Reader, name: str, body: Places) -> dict[str, Any]:
    """From the oldest line kept on, none left out: those of a replica in their order, of several as their hosts' clocks
    say. Nothing is changed."""
    page = _app(request, who, name).lines_after(body.after, replica=body.replica, limit=body.limit)
    return {"data": [_line(*one) for one in page.lines], "next": page.places, "more": page.more}


def _line(replica: str, line: LogLine) -> dict[str, Any]:
    return {"at": line.at, "replica": replica, "stream": line.stream, "text": line.text}


@router.get("/{name}/replicas", summary="The replicas of an application", responses=says(apps_answers.ReplicaRows))
def get_replicas(request: Request, who: Reader, name: str, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Those that have not ended, oldest first, in pages."""
    app = _app(request, who, name)
    found = app._store.replicas(app.id, after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=_replica, cursor=lambda one: moment_cursor(one.created_at, one.id))


def _replica(one: Replica) -> dict[str, Any]:
    names = ("id", "revision", "host", "state", "created_at", "started_at", "ready_at")
    return {**{field: getattr(one, field) for field in names}, "state": str(one.state)}


@router.get("/{name}/metrics", summary="What an application's replicas used", responses=says(apps_answers.MetricsRows))
def get_metrics(request: Request, who: Reader, name: str) -> dict[str, Any]:
    """As the kernels of their hosts counted."""
    return {"data": _app(request, who, name).metrics()}


@router.get("/{name}/revisions", summary="The revisions of an application", responses=says(apps_answers.RevisionRows))
def get_revisions(
    request: Request, who: Reader, name: str, after: AfterNumber = 0, limit: Limit = 100
) -> dict[str, Any]:
    """Oldest first, in pages."""
    app = _app(request, who, name)
    found = app._store.revisions(app.id, after=after, limit=limit + 1)
    return page_of(found, limit, shown=dict, cursor=lambda one: int(one["number"]))
