"""Usage, costs, budgets and the balance of the user, and settlement."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from rios.accounts.values import Principal
from rios.gateway import schemas as s
from rios.gateway.answers import money as money_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.money_schemas import settled_of
from rios.gateway.paging import After, moment_cursor, page_of, read_moment_cursor
from rios.services.moments import parse_moment

router = APIRouter(prefix="/v1", tags=["money"])
UsageReader = Annotated[Principal, Depends(needs("usage:read"))]
BudgetWriter = Annotated[Principal, Depends(needs("budgets:write"))]
WalletReader = Annotated[Principal, Depends(needs("wallet:read"))]
Settler = Annotated[Principal, Depends(needs("settlement:write"))]
Moment = Annotated[str | None, Query(max_length=40, description='Such as "2026-11-01".')]
Filter = Annotated[str | None, Query(max_length=200)]
Period = Literal["day", "week", "month", "total"]


@router.get("/usage", summary="The user's own usage records", responses=says(money_answers.UsageRows))
def get_usage(
    request: Request,
    who: UsageReader,
    since: Moment = None,
    until: Moment = None,
    model: Filter = None,
    worker: Filter = None,
    resource: Filter = None,
    request_id: Filter = None,
    deployment: Filter = None,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """By time, in pages."""
    ledger = gate_of(request).tenancy.ledger
    begin, last = read_moment_cursor(after)
    first = None if since is None else parse_moment(since, name="since")
    rows = ledger.usage(
        user=who.user_id, model=model, worker=worker, resource=resource, request_id=request_id,
        deployment=deployment, since=max(begin, first or 0),
        until=None if until is None else parse_moment(until, name="until"),
    )  # fmt: skip
    found = []
    for usage in rows:
        if (usage.at, usage.usage_id) <= (begin, last):
            continue
        found.append(usage)
        if len(found) > limit:
            break
    return page_of(found, limit, shown=s.usage_of, cursor=lambda one: moment_cursor(one.at, one.usage_id))


@router.get("/costs", summary="What the user spent, by one thing", responses=says(money_answers.Costs))
def get_costs(
    request: Request,
    who: UsageReader,
    by: Literal["worker", "model", "deployment", "day", "resource", "line"] = "model",
    since: Moment = None,
    until: Moment = None,
    model: Filter = None,
    request_id: Filter = None,
    deployment: Filter = None,
) -> dict[str, Any]:
    """Less refunds."""
    filters = {"model": model, "request_id": request_id, "deployment": deployment}
    found = gate_of(request).tenancy.billing(who.user_id).costs(by, since=since, until=until, **filters)
    return {
        "by": by, "data": {str(key): str(wei) for key, wei in found.wei.items()}, "total_wei": str(found.total_wei)
    }  # fmt: skip


@router.get("/budgets", summary="The user's own budgets", responses=says(money_answers.Budgets))
def get_budgets(request: Request, who: UsageReader) -> dict[str, Any]:
    """With what is spent and held in their periods."""
    return {"data": [s.budget_of(one) for one in gate_of(request).tenancy.billing(who.user_id).budgets]}


@router.put("/budgets/{period}", status_code=204, summary="Set a budget, or take it away")
def put_budget(request: Request, who: BudgetWriter, period: Period, body: s.NewBudget) -> Response:
    """A hard budget refuses what does not fit before it starts."""
    alerts = [f"{share}/10000" for share in body.alerts_bp]
    gate_of(request).tenancy.billing(who.user_id).budget(body.limit, period=period, alerts=alerts, hard=body.hard)
    return Response(status_code=204)


@router.get("/wallet", summary="What the user has", responses=says(money_answers.Wallet))
def get_wallet(request: Request, who: WalletReader) -> dict[str, Any]:
    """Deposits, trial credit, and what is held for running requests."""
    ledger = gate_of(request).tenancy.ledger
    return {**s.balance_of(ledger.balance(who.user_id)), "address": ledger.address_of(who.user_id)}


@router.post(
    "/settlement",
    summary="Close an epoch over all that was used, and post its root",
    responses=says(money_answers.EpochClosed),
)
def post_settlement(request: Request, who: Settler) -> dict[str, Any]:
    """Again where nothing was used meanwhile: the same, and nothing happens twice."""
    return settled_of(gate_of(request).money.settle(who))
