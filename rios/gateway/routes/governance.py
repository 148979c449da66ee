"""Votes over price book and parameters, with what operator and wallet of the network hold: for its admins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from rios.accounts.values import Principal
from rios.gateway import money_schemas as m
from rios.gateway.answers import money as money_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs

router = APIRouter(prefix="/v1/governance", tags=["money"])
Operator = Annotated[Principal, Depends(needs("settlement:write"))]


@router.post(
    "/proposals",
    status_code=201,
    summary="Put a price book or a parameter to the vote",
    responses=says(money_answers.ProposalNow, 201),
)
def post_proposal(request: Request, who: Operator, body: m.Subject) -> dict[str, Any]:
    """Of all who hold ROS. A book's version must be the next one; until it is over, the same again is the same one."""
    return gate_of(request).money.propose(who, body.subject()).to_dict()


@router.post(
    "/proposals/state",
    summary="How the last vote over a price book or a parameter stands",
    responses=says(money_answers.ProposalNow),
)
def post_state(request: Request, who: Operator, body: m.Subject) -> dict[str, Any]:
    """A conflict where it was never proposed."""
    return gate_of(request).money.proposal(who, body.subject()).to_dict()


@router.post("/votes", summary="Vote over a price book or a parameter", responses=says(money_answers.ProposalNow))
def post_vote(request: Request, who: Operator, body: m.Vote) -> dict[str, Any]:
    """Once, with all that operator and wallet hold."""
    return gate_of(request).money.vote(who, body.subject(), body.choice).to_dict()


@router.post("/executions", summary="Put in force what has won", responses=says(money_answers.ProposalNow))
def post_execution(request: Request, who: Operator, body: m.Subject) -> dict[str, Any]:
    """A book is in force from the moment that it names, a parameter at once."""
    return gate_of(request).money.execute(who, body.subject()).to_dict()


@router.get("/parameters", summary="The parameters of the network", responses=says(money_answers.ParametersNow))
def get_parameters(request: Request, who: Operator) -> dict[str, Any]:
    """Those that a vote can set, and those that the contracts fix."""
    return {"data": [one.to_dict() for one in gate_of(request).money.parameters(who)]}
