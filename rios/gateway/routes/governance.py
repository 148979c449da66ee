"""Votes over the price book, with what the network's operator and its wallet hold: for admins of the network."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from rios.accounts.values import Principal
from rios.billing.books import PriceBook
from rios.gateway import money_schemas as m
from rios.gateway.auth import gate_of, needs

router = APIRouter(prefix="/v1/governance", tags=["money"])
Operator = Annotated[Principal, Depends(needs("settlement:write"))]


@router.post("/proposals", status_code=201, summary="Put a price book to the vote")
def post_proposal(request: Request, who: Operator, body: m.Book) -> dict[str, Any]:
    """Of all who hold ROS. Its version must be the next one; the same book again is the same proposal."""
    return gate_of(request).money.propose(who, _book(body)).to_dict()


@router.post("/proposals/state", summary="How the vote over a price book stands")
def post_state(request: Request, who: Operator, body: m.Book) -> dict[str, Any]:
    """A conflict where it was never proposed."""
    return gate_of(request).money.proposal(who, _book(body)).to_dict()


@router.post("/votes", summary="Vote over a price book")
def post_vote(request: Request, who: Operator, body: m.Vote) -> dict[str, Any]:
    """Once, with all that operator and wallet hold."""
    return gate_of(request).money.vote(who, _book(body), body.choice).to_dict()


@router.post("/executions", summary="Publish a price book that has won")
def post_execution(request: Request, who: Operator, body: m.Book) -> dict[str, Any]:
    """It is in force from the moment that it names."""
    return gate_of(request).money.execute(who, _book(body)).to_dict()


def _book(body: m.Book) -> PriceBook:
    return PriceBook.from_dict(body.book)
