"""Reports: made now and on a schedule, with what became of each. A user's own alone, but for who may settle."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from rios.accounts.values import Principal
from rios.gateway.answers import reports as reports_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import check_recent, gate_of, needs
from rios.gateway.paging import After, AfterNumber, moment_cursor, page_of, read_last_first, read_moment_cursor
from rios.gateway.schemas import Name, Strict
from rios.services.reports import served
from rios.services.reports.own import UserReports
from rios.services.reports.tenants import reports_of
from rios.services.reports.values import Made, Past, Schedule, Wish

router = APIRouter(prefix="/v1/reports", tags=["reports"])
Reader = Annotated[Principal, Depends(needs("usage:read"))]
Writer = Annotated[Principal, Depends(needs("reports:write"))]
Limit = Annotated[int, Query(ge=1, le=1000)]
Email = Annotated[str, Field(min_length=3, max_length=254)]
Url = Annotated[str, Field(min_length=8, max_length=2000)]
Subject = Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class NewRun(Strict, json_schema_extra={"examples": [{"name": "costs", "period": "last-week"}]}):
    """A report that is wanted now."""

    name: Name
    period: Name = "yesterday"
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=40)
    subject: Subject = Field(None, description="Whose costs: the user's own without; empty for everybody's.")
    force: bool = Field(False, description="Again, from the same entries of the ledger.")


class NewSchedule(
    Strict,
    json_schema_extra={
        "examples": [{"name": "costs", "cron": "0 6 * * *", "zone": "Europe/Berlin", "emails": ["ada@lab.example"]}]
    },
):
    """A report that is wanted again and again."""

    name: Name
    cron: Name = Field(description="Minute, hour, day, month and weekday.")
    zone: Name = "UTC"
    period: Name = "yesterday"
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=40)
    emails: list[Email] = Field(default_factory=list, max_length=20)
    webhooks: list[Url] = Field(default_factory=list, max_length=20)
    catch_up: bool = Field(True, description="Make each one that was missed, or the last alone.")
    subject: Subject = Field(None, description="Whose costs: the user's own without; empty for everybody's.")


def _file(kind: str) -> dict[str, Any]:
    """What is said of a file: one in JSON is as its kind of report says, or a notebook."""
    said = {
        "type": "object",
        "additionalProperties": True,
        "description": "A report's facts, or the notebook as it was executed.",
        "examples": [{}],
    }
    return {"schema": said} if kind.partition(";")[0].endswith("json") else {}


def _reports(request: Request, who: Principal) -> UserReports:
    return reports_of(gate_of(request), who)


def _schedule(found: Schedule) -> dict[str, Any]:
    return {**found.to_dict(), "parameters": json.loads(found.parameters), "paused": found.paused_at is not None}


@router.get("", summary="The reports that can be made", responses=says(reports_answers.ReportKinds))
def get_reports(request: Request, who: Reader) -> dict[str, Any]:
    """Names, what each is about, and its parameters."""
    kinds = _reports(request, who).kinds
    return {"data": [{"name": k.name, "summary": k.summary, "parameters": list(k.parameters)} for k in kinds]}


@router.get("/runs", summary="Reports that were asked for", responses=says(reports_answers.ReportRuns))
def get_runs(request: Request, who: Reader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """The last first, with state, price and files, in pages."""
    found = _reports(request, who).list(limit + 1, after=read_last_first(after))
    return page_of(found, limit, shown=Made.to_dict, cursor=lambda one: moment_cursor(one.created_at, one.id))


@router.post("/runs", status_code=202, summary="Have a report made", responses=says(reports_answers.ReportRun, 202))
def post_run(request: Request, who: Writer, body: NewRun) -> dict[str, Any]:
    """In the background, paid by the user; one that was made already is found."""
    found = _reports(request, who).want(
        body.name, body.period, parameters=body.parameters, subject=body.subject, force=body.force
    )
    return found.to_dict()


@router.get("/runs/{run_id}", summary="A report that was asked for", responses=says(reports_answers.ReportRun))
def get_run(request: Request, who: Reader, run_id: str) -> dict[str, Any]:
    """State, price and files."""
    return _reports(request, who).get(run_id).to_dict()


@router.post(
    "/runs/{run_id}/rerun",
    status_code=202,
    summary="Have a report made again",
    responses=says(reports_answers.ReportRun, 202),
)
def post_rerun(request: Request, who: Writer, run_id: str) -> dict[str, Any]:
    """From the same entries of the ledger: the same bytes."""
    return _reports(request, who).again(run_id).to_dict()


@router.get("/runs/{run_id}/lines", summary="What a report has written", responses=says(reports_answers.ReportLines))
def get_lines(
    request: Request,
    who: Reader,
    run_id: str,
    after: Annotated[int, Query(ge=-1, lt=2**53, description="The `next` of the page before; -1 for the first.")] = -1,
    limit: Limit = 1000,
) -> dict[str, Any]:
    """In the last attempt at it, also while it is made: the cells that it came to, and what they printed; in pages."""
    found = _reports(request, who).numbered_lines(run_id, after=after, limit=limit + 1)
    return page_of(found, limit, shown=lambda one: one[1].to_dict(), cursor=lambda one: one[0])


@router.get(
    "/runs/{run_id}/file",
    summary="A file of a report",
    response_class=Response,
    responses={200: {"content": {kind.partition(";")[0]: _file(kind) for kind in served.TYPES.values()}}},
)
def get_file(
    request: Request,
    who: Reader,
    run_id: str,
    kind: Annotated[Literal["html", "pdf", "json", "ipynb"], Query(description="Which of its files.")] = "html",
) -> Response:
    """To be kept: the page opens without a network."""
    content = _reports(request, who).file(run_id, kind)
    return Response(content, headers=served.headers(kind))


@router.get("/history", summary="Each attempt to make a report", responses=says(reports_answers.ReportHistory))
def get_history(
    request: Request,
    who: Reader,
    name: Annotated[str | None, Query(max_length=200)] = None,
    run_id: Annotated[str | None, Query(max_length=200)] = None,
    after: AfterNumber = 0,
    limit: Limit = 100,
) -> dict[str, Any]:
    """The last first, in pages. It is only ever added to."""
    found = _reports(request, who).history(name, run_id=run_id, limit=limit + 1, after=after)
    return page_of(found, limit, shown=Past.to_dict, cursor=lambda one: one.seq)


@router.get("/schedules", summary="Schedules", responses=says(reports_answers.ReportSchedules))
def get_schedules(request: Request, who: Reader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Those that were not deleted, oldest first, in pages."""
    found = _reports(request, who).schedules(after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=_schedule, cursor=lambda one: moment_cursor(one.created_at, one.id))


@router.post(
    "/schedules",
    status_code=201,
    summary="Have a report made again and again",
    responses=says(reports_answers.ReportScheduleMade, 201),
)
def post_schedule(request: Request, who: Writer, body: NewSchedule) -> dict[str, Any]:
    """`webhook_secret` signs what webhooks are told, and is shown this once. Others' mail addresses and webhooks need
    the scope webhooks:write too, and webhooks a recent sign-in."""
    if body.webhooks and "webhooks:write" in who.scopes:
        check_recent(request, who)
    wish = Wish(
        name=body.name, cron=body.cron, zone=body.zone, period=body.period, parameters=body.parameters,
        emails=tuple(body.emails), webhooks=tuple(body.webhooks), catch_up=body.catch_up,
    )  # fmt: skip
    found, secret = _reports(request, who).schedule_wish(wish, subject=body.subject)
    return {**_schedule(found), **({"webhook_secret": secret} if body.webhooks else {})}


@router.get("/schedules/{schedule_id}", summary="A schedule", responses=says(reports_answers.ReportSchedule))
def get_schedule(request: Request, who: Reader, schedule_id: str) -> dict[str, Any]:
    """When it is due next, and whom it tells."""
    return _schedule(_reports(request, who).get_schedule(schedule_id))


@router.post(
    "/schedules/{schedule_id}/pause", summary="Let a schedule rest", responses=says(reports_answers.ReportSchedule)
)
def post_pause(request: Request, who: Writer, schedule_id: str) -> dict[str, Any]:
    """What it misses is not made up for."""
    return _schedule(_reports(request, who).pause(schedule_id))


@router.post(
    "/schedules/{schedule_id}/resume", summary="Let a schedule go on", responses=says(reports_answers.ReportSchedule)
)
def post_resume(request: Request, who: Writer, schedule_id: str) -> dict[str, Any]:
    """From now."""
    return _schedule(_reports(request, who).resume(schedule_id))


@router.delete("/schedules/{schedule_id}", status_code=204, summary="End a schedule")
def delete_schedule(request: Request, who: Writer, schedule_id: str) -> Response:
    """What it made stays."""
    _reports(request, who).delete(schedule_id)
    return Response(status_code=204)
