"""Proofs of use that no root has to promise: they say so, and do not wait for an epoch that was closed long ago."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from rios.services.accounting import reconcile_followed
from rios.services.published import Publisher
from rios.services.purse import Purse
from rios.services.reports.facts import facts_of
from rios.services.reports.periods import Span
from rios.services.reports.reading import pin
from rios.words.errors import NotProvable
from rios.words.ids import Address, UsageId
from tests.billing.ledger.work import TERMS, charge
from tests.services.earning import owner, purse_of

if TYPE_CHECKING:
    from rios.services.gate import Gate

ANN, BOB = owner(0xA1), owner(0xB2)


@pytest.fixture(scope="module")
def purse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Purse]:
    with purse_of(home=tmp_path_factory.mktemp("home")) as purse:
        yield purse


def use(purse: Purse, name: str, wei: int, *, platform_bp: int, owns: Address = ANN) -> UsageId:
    ledger = purse.books.ledger
    ledger.hold(f"hold-{name}", "local", max(wei, 1), request_id=name, terms=TERMS)
    one = charge(wei, request_id=name, owner=owns, worker="w", platform_bp=platform_bp)
    ledger.settle(f"hold-{name}", [one], deployment="demo")
    return one.record.usage_id


@pytest.mark.parametrize(("wei", "platform_bp"), [(1_000, 10_000), (0, 1_000)], ids=["platform's alone", "free"])
def test_a_part_of_nothing_waits_for_no_epoch(purse: Purse, tmp_path: Path, wei: int, platform_bp: int) -> None:
    usage_id = use(purse, f"free-{wei}", wei, platform_bp=platform_bp)
    use(purse, f"other-{wei}", 500, platform_bp=0)
    early = {link.name: link.state for link in purse.billing.prove(usage_id).links}
    assert early["payout"] == "pending"
    purse.billing.settle()
    links = {link.name: link for link in purse.billing.prove(usage_id).links}
    assert {links[name].state for name in ("leaf", "root", "payout")} == {"ok"}
    assert "worker's part is 0" in links["payout"].reason
    assert not [link for link in links.values() if "not closed" in link.reason]
    with pytest.raises(NotProvable, match="worker's part is 0"):
        purse.billing.export(usage_id, tmp_path / "proof.json")


def test_what_was_refunded_before_its_epoch_is_in_no_leaf(purse: Purse, tmp_path: Path) -> None:
    usage_id = use(purse, "refunded", 100, platform_bp=0, owns=BOB)
    purse.billing.refund(usage_id, "wrong")
    use(purse, "more", 500, platform_bp=0)
    purse.billing.settle()
    links = {link.name: link for link in purse.billing.prove(usage_id).links}
    assert {links[name].state for name in ("leaf", "root", "payout")} == {"ok"}
    with pytest.raises(NotProvable, match="refunds have taken"):
        purse.billing.export(usage_id, tmp_path / "proof.json")


def test_books_are_compared_after_the_block_that_the_ledger_knows(purse: Purse) -> None:
    """By who settles, on the page for everybody and in reports alike."""
    chain, ledger = purse.settlement.chain, purse.books.ledger
    purse.settlement.sync()
    chain.as_wallet("approve", "RosToken", "approve", chain.addresses.escrow, 7)
    chain.as_wallet("straight", "RiosEscrow", "deposit", 7)  # nobody follows the chain to it yet
    span = Span(label="today", since_us=0, until_us=ledger.now() + 1)
    facts = facts_of(ledger, span, pin(ledger.database), user=None, chain=chain)
    gate = SimpleNamespace(network=SimpleNamespace(_purse=purse))
    published = Publisher(cast("Gate", gate))._compared()
    assert facts.reconciliation is not None
    assert (facts.reconciliation.sound, facts.reconciliation.chain) == (True, True)
    assert (published["difference_wei"], published["chain"]) == ("0", True)
    assert purse.billing.reconcile().sound


def test_contracts_are_not_asked_before_anything_was_followed() -> None:
    with purse_of() as purse:
        found, asked = reconcile_followed(purse.books.ledger, purse.settlement.chain)
        assert (found.sound, asked) == (True, False)
