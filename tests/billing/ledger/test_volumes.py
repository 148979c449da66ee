"""What prices of an account depend on: its month so far, counted with each posting, and its discount."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import insert

from rios.billing.books import Line, PriceBook, Tier
from rios.billing.ledger import Grant, Ledger
from rios.billing.pricing import DEFAULT_BOOK, Terms
from rios.billing.rating import rate
from rios.services.charging import terms_of
from rios.services.moments import month
from rios.storage.models import OrganisationRow, PersonRow
from rios.words.errors import InvalidRequest
from rios.words.money import Wei
from tests.billing import make
from tests.billing.clock import DAY_US, Clock
from tests.billing.ledger.work import ROS, charge, hold, use

TIERED = Line("token", 1, (Tier(100, Wei(10)), Tier(None, Wei(1))))
BOOK = make.book(version=1, lines={**DEFAULT_BOOK.lines, "tokens_out": TIERED})


@pytest.fixture
def ann(ledger: Ledger) -> Ledger:
    ledger.deposit("d", "ann", ROS)
    ledger.publish_price_book(BOOK)
    return ledger


def _used(ledger: Ledger, user: str = "ann") -> dict[str, int]:
    return dict(ledger.standing(user, ledger.now()).used)


def test_what_was_posted_is_where_the_tiers_start(ann: Ledger, clock: Clock) -> None:
    assert _used(ann) == {}
    use(ann, 30, name="r1")
    assert _used(ann) == {"tokens_out": 30}
    hold(ann, 50, id="h2", request_id="r2")
    for _ in range(2):  # the same again is counted once
        ann.settle("h2", [charge(20, request_id="r2"), charge(7, request_id="r2", resource="tokens_in")])
    assert _used(ann) == {"tokens_out": 50}, "only lines whose price depends on it"
    assert _used(ann, "bob") == {}
    ann.refund(charge(20, request_id="r2").record.usage_id, "wrong")
    assert _used(ann) == {"tokens_out": 50}, "it was used all the same"
    clock.now_us = month("2026-12")[0] - 1
    assert _used(ann) == {"tokens_out": 50}
    clock.now_us += 1
    assert _used(ann) == {}, "another month"
    use(ann, 3, name="r3")
    assert _used(ann) == {"tokens_out": 3}


def test_the_terms_of_a_hold_have_it_and_keep_it(ann: Ledger, clock: Clock) -> None:
    use(ann, 90, name="r1")
    terms = terms_of(ann, "ann", [make.HOSTS["a"]])
    assert terms.before == {"tokens_out": 90}
    record = dataclasses.replace(charge(20, request_id="r2").record, quantity=20)
    rated = rate(record, terms)
    assert rated.amount_wei == 10 * 10 + 10 * 1
    assert Terms.from_dict(terms.to_dict(), {BOOK.digest: BOOK}) == terms
    ann.hold("h2", "ann", 500, request_id="r2", terms=terms)
    use(ann, 40, name="r3")  # meanwhile
    ann.settle("h2", [rated])
    assert _used(ann) == {"tokens_out": 150}
    assert rate(record, terms_of(ann, "ann", [make.HOSTS["a"]])).amount_wei == 20


def test_a_flat_book_asks_for_nothing(ledger: Ledger) -> None:
    ledger.deposit("d", "ann", ROS)
    use(ledger, 30, name="r1")
    assert (_used(ledger), terms_of(ledger, "ann", []).before) == ({}, {})


def _grant(ledger: Ledger, name: str, since: int, until: int | None = None, **to: str) -> None:
    ledger.grant_discount(
        Grant(discount=name, user=to.get("user"), organisation=to.get("organisation"), since=since, until=until)
    )


def test_a_discount_holds_from_its_moment_until_its_end(ann: Ledger, clock: Clock) -> None:
    now = clock.now_us
    _grant(ann, "research", now + DAY_US, now + 2 * DAY_US, user="ann")
    found = []
    for at in (now, now + DAY_US - 1, now + DAY_US, now + 2 * DAY_US - 1, now + 2 * DAY_US):
        clock.now_us = at
        found.append(terms_of(ann, "ann", []).discount)
    assert found == [None, None, "research", "research", None]
    clock.now_us = now + DAY_US
    assert terms_of(ann, "bob", []).discount is None
    _grant(ann, "research", now + DAY_US, now + DAY_US, user="ann")  # the same, ended
    assert terms_of(ann, "ann", []).discount is None
    (kept,) = ann.discounts()
    assert (kept.user, kept.organisation, kept.discount, kept.until) == ("ann", None, "research", now + DAY_US)


def test_ones_own_comes_before_the_organisations_and_the_last_before_others(ledger: Ledger, clock: Clock) -> None:
    with ledger.database.writing() as connection:
        connection.execute(insert(OrganisationRow).values(id="lab", name="Lab", operator=False, created_at=1))
        person = {"id": "ann", "organisation_id": "lab", "login": "ann", "name": "Ann", "role": "developer"}
        connection.execute(insert(PersonRow).values(**person, password=None, created_at=1, profile=None))
    some = {**DEFAULT_BOOK.discounts, "half": dataclasses.replace(DEFAULT_BOOK.discounts["research"], off_bp=5_000)}
    ledger.publish_price_book(make.book(version=1, discounts=some))
    now = clock.now_us
    _grant(ledger, "research", now - 2, organisation="lab")
    assert terms_of(ledger, "ann", []).discount == "research"
    assert terms_of(ledger, "bob", []).discount is None
    _grant(ledger, "half", now - 1, organisation="lab")
    assert terms_of(ledger, "ann", []).discount == "half"
    _grant(ledger, "research", now - 3, user="ann")
    assert terms_of(ledger, "ann", []).discount == "research"
    ledger.publish_price_book(make.book(version=2, discounts={"half": some["half"]}))
    assert terms_of(ledger, "ann", []).discount == "half", "the book in force has no other"
    ledger.publish_price_book(make.book(version=3, discounts={}))
    assert terms_of(ledger, "ann", []).discount is None


@pytest.mark.parametrize("to", [{}, {"user": "ann", "organisation": "lab"}])
def test_a_discount_is_for_one(ledger: Ledger, to: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="one of the two"):
        _grant(ledger, "research", 1, **to)
    with pytest.raises(InvalidRequest, match="before it begins"):
        _grant(ledger, "research", 2, 1, user="ann")


def test_it_is_on_the_record_and_on_the_invoice(ann: Ledger, clock: Clock) -> None:
    _grant(ann, "research", clock.now_us, user="ann")
    terms = terms_of(ann, "ann", [make.HOSTS["a"]])
    record = dataclasses.replace(charge(20, request_id="r2").record, quantity=33)
    rated = rate(record, terms)
    assert (rated.amount_wei, rated.discount_wei) == (264, 66)
    ann.hold("h2", "ann", 500, request_id="r2", terms=terms)
    ann.settle("h2", [rated])
    (usage,) = ann.usage(user="ann")
    assert (usage.amount_wei, usage.discount, usage.discount_wei) == (264, "research", 66)
    use(ann, 30, name="r3")
    since, until = month("2026-11")
    found = ann.invoice("ann", "2026-11", since=since, until=until).document
    assert found["discounts"] == [{"discount": "research", "off_wei": "66"}]
    assert (found["total_wei"], sum(int(line["amount_wei"]) for line in found["lines"])) == ("294", 294)
    assert ann.totals().sound


def test_a_book_is_its_own_whatever_was_used_before(ann: Ledger, clock: Clock) -> None:
    """Tiers that are published in the middle of a month count all of the month."""
    use(ann, 60, name="r1")
    tiered = dataclasses.replace(TIERED, tiers=(Tier(50, Wei(9)), Tier(None, Wei(2))))
    new = PriceBook.from_json(make.book(version=2, lines={**BOOK.lines, "tokens_out": tiered}).to_json())
    ann.publish_price_book(new)
    record = dataclasses.replace(charge(1, request_id="r2").record, quantity=1)
    assert rate(record, terms_of(ann, "ann", [])).amount_wei == 2
