"""The HTTP application: protection, routes and error shapes put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts

import rios
from rios.gateway import errors
from rios.gateway.app_tickets import Tickets
from rios.gateway.document import described, secured
from rios.gateway.kept_jobs import Jobs
from rios.gateway.limits import Limits, limiter
from rios.gateway.metrics import Metrics
from rios.gateway.once import Idempotent
from rios.gateway.origins import Origins, origins_of
from rios.gateway.protect import Protect
from rios.gateway.remembered import Remembered
from rios.gateway.routes import (
    accounts,
    app_secrets,
    app_snapshots,
    app_volumes,
    apps,
    dashboard,
    events,
    governance,
    health,
    job_list,
    jobs,
    models,
    money,
    oauth,
    openai,
    own,
    pages,
    proxied,
    reports,
    sign_in,
    treasury,
)
from rios.gateway.runs import Runs
from rios.gateway.settings import GatewaySettings
from rios.gateway.shared import share, shared_parts
from rios.gateway.signing_in import signing_in
from rios.gateway.tags import Tagged
from rios.services.deployments.secrets import open_secrets_key
from rios.services.gate import Gate
from rios.services.job_records import JobRecords
from rios.services.job_views import JobViews
from rios.services.oauth import OAuth
from rios.services.published import Publisher

PUBLIC = frozenset(
    {
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/static/{name}"),
        ("GET", "/v1/network"),
        ("GET", "/live"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/v1/roles"),
        ("POST", "/v1/sessions"),
        ("POST", "/v1/sessions/refresh"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/.well-known/openid-configuration"),
        ("POST", "/oauth/token"),
        *sign_in.PAGES,
    }
)
"""The only routes without a token."""

ROUTERS = tuple(
    module.router
    for module in (
        # Each is asked in turn whether a path is its own: what programs ask most comes first.
        openai, models, job_list, dashboard, jobs, money, treasury, governance, own, accounts, events, apps,
        app_secrets, app_snapshots, app_volumes, reports, oauth, sign_in, pages, health,
    )
)  # fmt: skip


def create_app(gate: Gate, settings: GatewaySettings) -> FastAPI:
    """The application that serves `gate`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with signing_in(app), shared_parts(app):
            app.state.jobs.start()
            yield
        await proxied.close(app)
        for one in (app.state.published, app.state.checked):
            await one.close()
        await app.state.runs.close()
        await app.state.jobs.close()
        await app.state.limits.close()

    app = FastAPI(
        title="rios", version=rios.__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
        description="Mixture-of-experts models on pooled machines. Amounts are in wei, as text: 1 ROS is 10^18 wei.",
    )  # fmt: skip
    metrics = Metrics()
    limits = limiter(settings.burst, settings.rate_per_s, redis=settings.redis)
    app.state.gate = gate
    app.state.settings = settings
    app.state.limits = limits
    # A page of an application is dozens of requests: they have room of their own, in each gateway by itself.
    app.state.app_limits = app_limits = Limits(settings.app_burst, settings.app_rate_per_s)
    app.state.streams = Counter()
    app.state.parts = [*limits.parts(), *gate.network.parts()]
    share(app)
    app.state.oauth = OAuth(gate.accounts)
    app.state.openid = None
    # What everybody may ask for without a token costs a network the same, however many ask.
    app.state.published = Remembered(Publisher(gate).now, fresh_s=1.0, served_s=60.0)
    app.state.checked = Remembered(partial(health.checks_of, gate), fresh_s=1.0, served_s=1.0)
    app.state.metrics = metrics
    app.state.runs = Runs(settings.running_max, settings.waiting_max, metrics)
    key = open_secrets_key(gate.network._settings.home, gate.tenancy.ledger.database)
    app.state.tickets = Tickets(key, gate.accounts)
    records = JobRecords(
        gate.tenancy.ledger, key=key, gateway=gate.once.gateway, kept_s=settings.job_kept_s
    )  # fmt: skip
    views = JobViews(gate.tenancy.ledger, gate.network.jobs, gateway=gate.once.gateway, url=settings.url)
    app.state.jobs = Jobs(settings.jobs_max, settings.job_kept_s, records, views)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(proxied.router)  # what answers there is no part of this interface
    app.add_middleware(Tagged)
    app.add_middleware(Idempotent)
    app.add_middleware(Protect, settings=settings, limits=limits, app_limits=app_limits, metrics=metrics)
    if origins := origins_of(settings.origins):
        app.add_middleware(Origins, origins=origins)
    app.openapi = partial(described, app, ROUTERS)  # type: ignore[method-assign]
    app.add_route("/openapi.json", _document, include_in_schema=False)
    assert not unguarded(app), unguarded(app)
    return app


def _document(request: Request) -> JSONResponse:
    """Made when it is first asked for, in a thread: nobody else waits."""
    return JSONResponse(request.app.openapi())


def unguarded(app: FastAPI) -> list[tuple[str, str]]:
    """Routes that anybody may call though nobody said so: deny by default."""
    # The document would tell, too, but takes a second of a core, and few ever read it.
    return sorted(
        (method, str(found.path_format))
        for found in iter_route_contexts(app.routes)
        if isinstance(route := found.original_route, APIRoute)
        and route.include_in_schema
        and not secured(found.dependant)
        for method in route.methods or ()
        if (method, found.path_format) not in PUBLIC
    )
