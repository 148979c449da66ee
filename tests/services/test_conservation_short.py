"""A user who took back what was held of it: the others are settled and paid all the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.billing.chain import abi
from rios.services.books import LOCAL_USER, TRIAL_WEI
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.money import WEI_PER_ROS
from tests.services import histories


@pytest.fixture
def purse(tmp_path: Path) -> Iterator[Purse]:
    """Money alone, with the trial credit set aside."""
    with Purse(settings().model_copy(update={"home": tmp_path})) as found:
        terms = found.charging.terms({})
        found.books.ledger.hold("saved", LOCAL_USER, TRIAL_WEI, request_id="saved", terms=terms)
        yield found
    shutil.rmtree(tmp_path)


def test_who_withdrew_what_was_held_does_not_stop_the_others(purse: Purse) -> None:
    ledger, chain = purse.books.ledger, purse.settlement.chain
    hosts = histories.hosts_of(purse.books.address)
    ledger.link_address(histories.GUEST, histories.GUEST_ADDRESS)
    purse.wallet.deposit("10 ROS")
    chain.as_wallet("gift:approve", "RosToken", "approve", chain.addresses.escrow, 9 * WEI_PER_ROS)
    chain.as_wallet("gift", "RiosEscrow", "depositFor", histories.GUEST_ADDRESS, 9 * WEI_PER_ROS)
    purse.settlement.sync()
    # What a process leaves that was killed before it had sent the withdrawal that it kept.
    everything = abi.encode("RiosEscrow", "requestWithdrawal", 10 * WEI_PER_ROS)
    chain._wallet.submit("withdraw:x:request", chain.addresses.escrow, everything)
    spent = {}
    for place, user in ((3, LOCAL_USER), (6, histories.GUEST)):
        hold, charges = f"hold-r{place}", histories.charges_of(5, place, purse.books.address)
        terms = purse.charging.terms(hosts)
        ledger.hold(hold, user, 8 * WEI_PER_ROS, request_id=f"r{place}", terms=terms)
        spent[user] = sum(charge.amount_wei for charge in charges)
        if user == LOCAL_USER:
            purse.wallet.deposit("0.1 ROS")
            purse.wallet.finish_withdrawal()
            assert purse.wallet.balance.overdrawn_wei == 79 * WEI_PER_ROS // 10
        ledger.settle(hold, charges)
    assert min(spent.values()) > WEI_PER_ROS

    settled = purse.billing.settle()
    assert settled is not None
    assert settled.total_wei == sum(spent.values())
    assert purse.settlement.pay_out(1).total_wei == settled.total_wei
    assert chain.read("RiosEscrow", "balanceOf", purse.books.address) == 0
    assert chain.read("RiosEscrow", "balanceOf", histories.GUEST_ADDRESS) == 9 * WEI_PER_ROS - spent[histories.GUEST]
    assert purse.billing.settle() == settled
    assert purse.billing.reconcile().sound
    purse.wallet.deposit("20 ROS")
    assert purse.wallet.balance.overdrawn_wei == 0
    assert purse.billing.reconcile().sound
