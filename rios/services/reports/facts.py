"""What a report says besides the entries: budgets, whether all books agree, and a few records proved link by link."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from rios.billing.budgets import Period
from rios.billing.verify import PENDING
from rios.services.accounting import Proof, Reconciliation, prove, reconcile_followed
from rios.services.reports import documents as doc
from rios.services.reports.periods import Span
from rios.services.reports.reading import Pin, Reading
from rios.storage import models as m
from rios.words.keccak import keccak256

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain

SAMPLES = 3
EXPORT_ENTRIES_MAX = 200_000
"""A proof to the payout reads all entries of an epoch; in a longer one, price and postings are shown alone."""
_NOT_ASKED = "not asked here: `rios prove` follows it on the chain"
_WATCH_BP, _WHOLE_BP = 7_500, 10_000


def facts_of(ledger: Ledger, span: Span, pin: Pin, *, user: str | None, chain: NetworkChain | None) -> doc.Facts:
    """Budgets and proofs of `user` or everybody; that books agree only for who sees all of them."""
    return doc.Facts(
        budgets=tuple(_budgets(ledger, span, user)),
        reconciliation=None if user is not None else _reconciled(*reconcile_followed(ledger, chain)),
        samples=tuple(_samples(ledger, span, pin, user, chain)),
    )  # fmt: skip


def _budgets(ledger: Ledger, span: Span, user: str | None) -> Iterator[doc.BudgetState]:
    row = m.BudgetRow
    wanted = select(row.__table__)
    if user is not None:
        wanted = wanted.where(row.user_id == user)
    with ledger.database.reading() as connection:
        found = connection.execute(wanted.order_by(row.user_id, row.period)).mappings().all()
    for one in found:
        limit = one["limit_wei"]
        if limit < 0:  # taken away
            continue
        spent = ledger.spent(one["user_id"], Period(one["period"]), at=span.until_us - 1)
        share = spent * _WHOLE_BP // limit if limit else _WHOLE_BP
        state = "used up" if share >= _WHOLE_BP else "watch" if share >= _WATCH_BP else "good"
        yield doc.BudgetState(
            user=one["user_id"], period=one["period"], limit_wei=str(limit), spent_wei=str(spent), share_bp=share,
            hard=bool(one["hard"]), state=state,
        )  # fmt: skip


def _reconciled(found: Reconciliation, chain: bool) -> doc.Reconciled:
    return doc.Reconciled(
        sound=found.sound,
        chain=chain,
        difference_wei=str(found.difference_wei),
        checks=tuple(
            doc.Comparison(what=one.what, here_wei=str(one.here_wei), there_wei=str(one.there_wei))
            for one in found.checks
        ),
        broken=found.broken,
    )


def _samples(
    ledger: Ledger, span: Span, pin: Pin, user: str | None, chain: NetworkChain | None
) -> Iterator[doc.Sample]:
    """Whoever made the records could not know which would be chosen: the hash of the ledger's head decides."""

    def place(usage_id: str) -> bytes:
        return hashlib.sha256(f"{pin.head}:{usage_id}".encode()).digest()

    with ledger.database.reading() as connection:
        ids = heapq.nsmallest(
            SAMPLES, Reading(connection, pin.height, user=user).sample_ids(span.since_us, span.until_us), key=place
        )
    view = chain if pin.height <= EXPORT_ENTRIES_MAX else None
    for usage_id in ids:
        yield _sample(prove(ledger, usage_id, view, keccak=keccak256 if view is None else view.keccak))


def _sample(proof: Proof) -> doc.Sample:
    usage, links = proof.usage, proof.links
    if usage.epoch is not None and proof.export is None:
        links = tuple(link if link.state != PENDING else replace(link, reason=_NOT_ASKED) for link in links)
    return doc.Sample(
        usage_id=usage.usage_id, user=usage.user_id, model=usage.model, line=usage.line,
        amount_wei=str(usage.amount_wei), holds=proof.verified,
        links=tuple(doc.Link(name=link.name, state=link.state, reason=link.reason) for link in links),
    )  # fmt: skip


def to_text(facts: doc.Facts) -> str:
    """As the database keeps it."""
    return json.dumps(facts.model_dump(mode="json"), sort_keys=True)
