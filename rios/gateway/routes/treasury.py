"""Deposits, prices, proofs, invoices, refunds and earnings: what a network's money is asked for besides its use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request

from rios.accounts.values import Principal
from rios.gateway import money_schemas as m
from rios.gateway import schemas as s
from rios.gateway.answers import models as models_answers
from rios.gateway.answers import money as money_answers
from rios.gateway.answers.words import says
from rios.gateway.auth import gate_of, needs
from rios.gateway.paging import After, Limit, moment_cursor, page_of, read_moment_cursor
from rios.services.alerts import Alert
from rios.services.moments import parse_moment

router = APIRouter(prefix="/v1", tags=["money"])
# Who may use models may see what they cost.
ModelsReader = Annotated[Principal, Depends(needs("models:read", or_else="generate"))]
UsageReader = Annotated[Principal, Depends(needs("usage:read"))]
WalletReader = Annotated[Principal, Depends(needs("wallet:read"))]
WalletWriter = Annotated[Principal, Depends(needs("wallet:write"))]
Operator = Annotated[Principal, Depends(needs("settlement:write"))]
Giver = Annotated[Principal, Depends(needs("credit:write"))]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
Owner = Annotated[str | None, Query(max_length=100, description="An address; the user's own without.")]
Tokens = Annotated[int, Query(ge=0, lt=2**31)]


@router.get("/prices", summary="The price book in force", responses=says(money_answers.PricesNow))
def get_prices(request: Request, who: ModelsReader) -> dict[str, Any]:
    """As it was published, with its digest; and the network's own parameters, as votes have set them."""
    billing = gate_of(request).tenancy.billing(who.user_id)
    book, parameters = billing.price_book, [one.to_dict() for one in billing.parameters]
    return {"book": book.to_dict(), "digest": book.digest, "parameters": parameters}


@router.get("/deployments/{name}/estimate", summary="What a request will cost", responses=says(money_answers.Estimated))
def get_estimate(
    request: Request, who: ModelsReader, name: str, prompt_tokens: Tokens, max_new_tokens: Tokens = 64
) -> dict[str, Any]:
    """The lowest, the expected and the highest price. The highest is what is held."""
    tenancy = gate_of(request).tenancy
    found = tenancy.billing(who.user_id).estimate(
        tenancy.model(who, name), prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens
    )
    return m.estimate_of(found)


@router.post("/deployments/{name}/tokens", summary="The token ids of a prompt", responses=says(models_answers.TokenIds))
def post_tokens(request: Request, who: ModelsReader, name: str, body: m.Prompt) -> dict[str, Any]:
    """As the model would read them: so many are paid for, and count within its context."""
    model = gate_of(request).tenancy.model(who, name)
    return {"token_ids": model.tokens(body.prompt), "context_length": model.context_length}


@router.get(
    "/deployments/{name}/placement",
    summary="Which worker holds which expert",
    responses=says(models_answers.PlacementNow),
)
def get_placement(request: Request, who: ModelsReader, name: str) -> dict[str, Any]:
    """With the load of each; the trunk's process for admins of the network alone."""
    shown = gate_of(request).tenancy.model(who, name).placement.to_dict()
    if not (who.operator and "settlement:write" in who.scopes):
        shown["trunk_pid"] = None
    return shown


@router.get(
    "/wallet/chain", summary="What the user's address has outside the escrow", responses=says(money_answers.OnChain)
)
def get_wallet_on_chain(request: Request, who: WalletReader) -> dict[str, Any]:
    """In wei."""
    return {"on_chain_wei": str(gate_of(request).money.on_chain(who))}


@router.post(
    "/wallet/deposits", summary="Move ROS from the wallet into the escrow", responses=says(money_answers.BalanceNow)
)
def post_deposit(request: Request, who: WalletWriter, body: m.Amount, key: Key) -> dict[str, Any]:
    """Once for each Idempotency-Key, and answered when it is credited. For the first admin, whose key is here."""
    return s.balance_of(gate_of(request).money.deposit(who, body.amount, key=key))


@router.post(
    "/wallet/withdrawals", summary="Take deposited ROS back to the wallet", responses=says(money_answers.BalanceNow)
)
def post_withdrawal(request: Request, who: WalletWriter, body: m.Amount, key: Key) -> dict[str, Any]:
    """Once for each Idempotency-Key. Settles first; where the escrow delays, it is only asked for."""
    return s.balance_of(gate_of(request).money.withdraw(who, body.amount, key=key))


@router.post(
    "/wallet/withdrawals/finish",
    summary="Take what was asked for and is due now",
    responses=says(money_answers.BalanceNow),
)
def post_withdrawal_finish(request: Request, who: WalletWriter, key: Key) -> dict[str, Any]:
    """Once for each Idempotency-Key."""
    return s.balance_of(gate_of(request).money.finish_withdrawal(who, key=key))


@router.post(
    "/wallet/withdrawals/cancel",
    summary="Leave what was asked for in the escrow",
    responses=says(money_answers.BalanceNow),
)
def post_withdrawal_cancel(request: Request, who: WalletWriter, key: Key) -> dict[str, Any]:
    """Once for each Idempotency-Key."""
    return s.balance_of(gate_of(request).money.cancel_withdrawal(who, key=key))


@router.post(
    "/wallet/address/message",
    summary="What an address has to sign to be the user's",
    responses=says(money_answers.AddressMessage),
)
def post_address_message(request: Request, who: WalletWriter, body: m.NewAddress) -> dict[str, Any]:
    """The key of the address signs `message` (EIP-191) within 15 minutes; and where deposits go afterwards."""
    return asdict(gate_of(request).money.linking.ask(who, body.address))


@router.post("/wallet/address", summary="Take an address for the user's", responses=says(money_answers.AddressLinked))
def post_address(request: Request, who: WalletWriter, body: m.SignedAddress) -> dict[str, Any]:
    """By the nonce that the message ends with, and the signature. Deposits that came before are the user's, too."""
    return {"address": gate_of(request).money.linking.link(who, body.nonce, body.signature)}


@router.get("/alerts", summary="What the user was told of budgets and balance", responses=says(money_answers.AlertRows))
def get_alerts(request: Request, who: UsageReader, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Oldest first, in pages."""
    place = read_moment_cursor(after)
    found = [one for one in gate_of(request).tenancy.billing(who.user_id).alerts if _place(one) > place]
    return page_of(found, limit, shown=m.alert_of, cursor=lambda one: moment_cursor(*_place(one)))


def _place(alert: Alert) -> tuple[int, str]:
    return parse_moment(alert.at, name="at"), alert.key


@router.put("/invoices/{period}", summary="The invoice of a month", responses=says(money_answers.InvoiceDocument))
def put_invoice(request: Request, who: UsageReader, period: str) -> dict[str, Any]:
    """Of a month such as "2026-11". The first one issued stays; a draft without a number while it is not over."""
    return m.invoice_of(gate_of(request).tenancy.billing(who.user_id).invoice(period))


@router.get(
    "/usage/{usage_id}/proof", summary="From a usage record to its payout", responses=says(money_answers.ProofOfUse)
)
def get_proof(request: Request, who: UsageReader, usage_id: str) -> dict[str, Any]:
    """Of the user's own use; of everybody's, and with what a stranger can verify, for admins of the network."""
    return m.proof_of(gate_of(request).money.prove(who, usage_id))


@router.put(
    "/usage/{usage_id}/refund",
    summary="Give the price of a usage record back",
    responses=says(money_answers.RefundNote),
)
def put_refund(request: Request, who: Operator, usage_id: str, body: m.Refund) -> dict[str, Any]:
    """By a credit note: the same again changes nothing, another amount or reason is another note."""
    return m.note_of(gate_of(request).money.refund(who, usage_id, body.reason, body.amount, key=body.key))


@router.get("/discounts", summary="The discounts of users and organisations", responses=says(money_answers.Grants))
def get_discounts(request: Request, who: Giver, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Ended ones too; moments are microseconds of UTC."""
    found = gate_of(request).money.discounts(who, after=read_moment_cursor(after), limit=limit + 1)
    return page_of(found, limit, shown=m.grant_of, cursor=lambda one: moment_cursor(one.since, one.subject))


@router.put(
    "/discounts/{discount}",
    summary="Give a user or an organisation a discount",
    responses=says(money_answers.GrantRow),
)
def put_discount(request: Request, who: Giver, discount: str, body: m.Discount) -> dict[str, Any]:
    """One of the price book's. The same from the same moment on takes its place: an earlier end ends it."""
    return m.grant_of(gate_of(request).money.grant_discount(who, discount, **body.model_dump()))


@router.get("/earnings", summary="What the workers of an owner have earned", responses=says(money_answers.EarningsNow))
def get_earnings(request: Request, who: WalletReader, owner: Owner = None) -> dict[str, Any]:
    """Of the user's own address; of any for admins of the network."""
    return m.earnings_of(gate_of(request).money.earnings(who, owner))


@router.get(
    "/earnings/lines",
    summary="What was earned by worker, model and resource",
    responses=says(money_answers.EarningsLines),
)
def get_earnings_lines(request: Request, who: WalletReader, owner: Owner = None) -> dict[str, Any]:
    """In wei."""
    lines = gate_of(request).money.earnings(who, owner).lines()
    return {
        "data": [
            {"worker": worker, "model": model, "resource": resource, "wei": str(wei)}
            for (worker, model, resource), wei in lines.items()
        ]
    }


@router.post(
    "/earnings/claims", summary="Have the contract pay what it owes an owner", responses=says(money_answers.PaidClaim)
)
def post_claim(request: Request, who: WalletWriter, body: m.Claim) -> dict[str, Any]:
    """The money goes to the owner; again where nothing is due, 0."""
    return {"paid_wei": str(gate_of(request).money.claim(who, body.owner))}


@router.post("/payouts", summary="Pay all owners what is due to them", responses=says(money_answers.PaidOwners))
def post_payouts(request: Request, who: Operator, body: m.PayOut) -> dict[str, Any]:
    """Again where nothing is due: nothing happens twice."""
    return m.paid_out_of(gate_of(request).money.pay_out(who, body.minimum))


@router.get(
    "/reconciliation",
    summary="All books of the network compared, to the wei",
    responses=says(money_answers.BooksCompared),
)
def get_reconciliation(request: Request, who: Operator) -> dict[str, Any]:
    """The ledger with itself, its rebuilt root, the contracts and their tokens."""
    return m.reconciliation_of(gate_of(request).money.reconcile(who))
