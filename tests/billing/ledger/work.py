"""Rated usage and small verbs for the tests of the ledger."""

from __future__ import annotations

from fractions import Fraction

from rios.billing.ledger import ChainEvent, Hold, Ledger
from rios.billing.pricing import DEFAULT_BOOK, Terms
from rios.billing.rating import Charge
from rios.billing.split import split
from rios.billing.usage import UsageRecord
from rios.words.ids import Address, UsageId, check_address, derived_id
from rios.words.money import Wei
from tests.billing.make import OWNERS

ROS = 10**18
PLATFORM = check_address("0x00000000000000000000000000000000000000ff")
TERMS = Terms.of(DEFAULT_BOOK)
DIGEST = "0" * 64


def charge(
    amount_wei: int,
    *,
    request_id: str = "r1",
    owner: Address = OWNERS[0],
    worker: str = "a",
    resource: str = "tokens_out",
    step: int = 0,
    model: str = "demo",
    platform_bp: int = 1_000,
) -> Charge:
    """A charge of exactly `amount_wei`, split as the default book does."""
    record = UsageRecord(
        usage_id=UsageId(derived_id("u", request_id, worker, resource, step)),
        source=request_id,
        model=model,
        worker=worker,
        owner=owner,
        resource=resource,
        device_class="cpu",
        ask_bp=10_000,
        hold_step=step,
        quantity=amount_wei,
        rows=3,
        measured_ns=2**70,
        events=2,
        events_digest=DIGEST,
    )
    shares = split(amount_wei, platform_bp)
    return Charge(
        record,
        resource,
        "token",
        Fraction(amount_wei, 3),
        Fraction(3),
        Wei(amount_wei),
        shares.worker_wei,
        shares.platform_wei,
    )


def hold(ledger: Ledger, amount_wei: int, *, id: str = "h1", user: str = "ann", request_id: str = "r1") -> Hold:  # noqa: A002
    """A hold under the default book."""
    return ledger.hold(id, user, amount_wei, request_id=request_id, terms=TERMS)


def use(
    ledger: Ledger,
    amount_wei: int,
    *,
    name: str = "r1",
    user: str = "ann",
    owner: Address = OWNERS[0],
    worker: str = "a",
) -> UsageId:
    """Hold, post and release one charge; the id of its usage record."""
    hold(ledger, amount_wei, id=f"h-{name}", user=user, request_id=name)
    rated = charge(amount_wei, request_id=name, owner=owner, worker=worker)
    ledger.settle(f"h-{name}", [rated])
    return rated.record.usage_id


def event(name: str, number: int, *, block: int = 1, **args: str | int) -> ChainEvent:
    """An event of the chain; `number` tells it from others."""
    return ChainEvent(
        tx_hash=f"0x{number:064x}", log_index=0, block=block, block_hash=f"0x{block:064x}", name=name, args=args
    )
