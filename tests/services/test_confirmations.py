"""On a node whose last blocks may still go: money counts when its block has enough others on top, and not before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable
from rios.words.money import WEI_PER_ROS
from tests.services.earning import earn, owner, purse_of
from tests.services.life import ask
from tests.services.places import PLACES, Place, place_of

pytestmark = PLACES[1].marks  # type: ignore[attr-defined]
CONFIRMATIONS = 3
SHORT_S = 0.6
"""No block comes in this time, for nobody mines one."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_of("anvil", tmp_path) as found:
        yield found


@contextmanager
def purse_at(place: Place, home: Path, *, final_timeout_s: float) -> Iterator[Purse]:
    options = {**place.options, "chain_confirmations": CONFIRMATIONS, "chain_final_timeout_s": final_timeout_s}
    with purse_of(home=home, **options) as purse:
        place.fund(purse, home)
        yield purse


@contextmanager
def mined(place: Place) -> Iterator[None]:
    """Somebody mines."""
    ended = threading.Event()

    def mine() -> None:
        while not ended.wait(0.05):
            place.mine(1)

    miner = threading.Thread(target=mine)
    miner.start()
    try:
        yield
    finally:
        ended.set()
        miner.join(10)


def test_a_deposit_counts_when_its_block_is_final(place: Place, tmp_path: Path) -> None:
    with purse_at(place, tmp_path, final_timeout_s=60) as purse, mined(place):
        purse.wallet.deposit("25 ROS")
        assert purse.wallet.deposited == 25 * WEI_PER_ROS
    with purse_at(place, tmp_path, final_timeout_s=SHORT_S) as purse:
        with pytest.raises(ChainUnavailable, match="is not final after"):
            purse.wallet.deposit("5 ROS")
        assert purse.wallet.deposited == 25 * WEI_PER_ROS
        place.mine(CONFIRMATIONS)
        purse.settlement.sync()
        assert purse.wallet.deposited == 30 * WEI_PER_ROS
        assert purse.billing.reconcile().sound


def test_a_deposit_whose_block_goes_again_is_counted_once(place: Place, tmp_path: Path) -> None:
    assert place.node is not None
    with purse_at(place, tmp_path, final_timeout_s=SHORT_S) as purse:
        with pytest.raises(ChainUnavailable):
            purse.wallet.deposit("7 ROS")
        ask(place.node.url, "anvil_reorg", 1, [])
        place.mine(CONFIRMATIONS)
        purse.settlement.sync()
        assert purse.wallet.deposited == 0
    with purse_at(place, tmp_path, final_timeout_s=60) as purse, mined(place):
        purse.settlement.chain.finish_wallet()
        purse.settlement.sync()
        assert purse.wallet.deposited == 7 * WEI_PER_ROS
        assert purse.billing.reconcile().sound


def test_a_root_and_its_payout_are_settled_through_confirmations(place: Place, tmp_path: Path) -> None:
    with purse_at(place, tmp_path, final_timeout_s=60) as purse, mined(place):
        purse.wallet.deposit("25 ROS")
        earn(purse, "one", {owner(1): 3 * WEI_PER_ROS})
        settled = purse.billing.settle()
        assert settled is not None
        assert settled.total_wei == 3 * WEI_PER_ROS
        assert purse.settlement.claim(owner(1)) == 3 * WEI_PER_ROS
        assert purse.settlement.chain.tokens_of(owner(1)) == 3 * WEI_PER_ROS
        assert purse.billing.reconcile().sound
