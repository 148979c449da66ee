"""On a node whose last blocks may still go: money counts when its block is final, and not before.

Once where so many blocks on top are asked for, once by what the node itself calls finalized.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rios.billing.chain.intents import IntentState
from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable
from rios.words.money import WEI_PER_ROS
from tests import waiting
from tests.services.earning import earn, owner, purse_of
from tests.services.life import ask
from tests.services.places import PLACES, Place, place_of

pytestmark = PLACES[1].marks  # type: ignore[attr-defined]
CONFIRMATIONS = 3
TAG = None
"""The node's own; `Anvil` takes two blocks of others for it."""
SHORT_S = 0.6
"""No block comes in this time, for nobody mines one."""
until = partial(waiting.until, deadline_s=60.0)


@pytest.fixture(params=[CONFIRMATIONS, TAG], ids=["counted", "tagged"])
def confirmations(request: pytest.FixtureRequest) -> int | None:
    found: int | None = request.param
    return found


@pytest.fixture
def place(tmp_path: Path, confirmations: int | None) -> Iterator[Place]:
    with place_of("anvil", tmp_path, slots=1) as found:
        yield replace(found, confirmations=confirmations)


@contextmanager
def purse_at(place: Place, home: Path, *, final_timeout_s: float) -> Iterator[Purse]:
    with purse_of(home=home, **place.options, chain_final_timeout_s=final_timeout_s) as purse:
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
        assert purse.billing.reconcile().sound  # both sides without what is not final
        place.mine(CONFIRMATIONS)
        purse.settlement.sync()
        assert purse.wallet.deposited == 30 * WEI_PER_ROS
        assert purse.billing.reconcile().sound


def test_a_node_is_taken_at_its_word_unless_somebody_counts(tmp_path: Path) -> None:
    """What has 12 blocks on top is not final where the node calls older ones so."""
    with place_of("anvil", tmp_path) as place:
        node = replace(place, confirmations=TAG)
        with purse_at(node, tmp_path, final_timeout_s=SHORT_S) as purse:
            with pytest.raises(ChainUnavailable):
                purse.wallet.deposit("5 ROS")
            place.mine(13)
            purse.settlement.sync()
            assert purse.wallet.deposited == 0
            place.mine(64)
            purse.settlement.sync()
            assert purse.wallet.deposited == 5 * WEI_PER_ROS


def test_a_deposit_without_an_answer_is_made_once_when_it_is_repeated(place: Place, tmp_path: Path) -> None:
    with purse_at(place, tmp_path, final_timeout_s=SHORT_S) as purse:
        before = purse.wallet.on_chain
        with pytest.raises(ChainUnavailable):
            purse.wallet.deposit("5 ROS")
        with pytest.raises(ChainUnavailable):
            purse.wallet.deposit("5 ROS")
        assert purse.wallet.on_chain == before - 5 * WEI_PER_ROS
        with pytest.raises(ChainUnavailable, match="asked for before"):
            purse.wallet.deposit("6 ROS")
        place.mine(CONFIRMATIONS)
        purse.settlement.chain.pump()  # as somebody does meanwhile, so nothing is under way any more
        assert purse.wallet.deposit("5 ROS").deposited_wei == 5 * WEI_PER_ROS
        assert purse.wallet.on_chain == before - 5 * WEI_PER_ROS
        with pytest.raises(ChainUnavailable):
            purse.wallet.deposit("5 ROS")  # another one, for the first was answered
        assert purse.wallet.on_chain == before - 10 * WEI_PER_ROS
    with purse_at(place, tmp_path, final_timeout_s=60) as purse, mined(place):
        assert purse.wallet.deposit("5 ROS").deposited_wei == 10 * WEI_PER_ROS  # by another process
        assert purse.wallet.on_chain == before - 10 * WEI_PER_ROS


def test_a_block_that_goes_while_a_deposit_waits_is_noticed(place: Place, tmp_path: Path) -> None:
    assert place.node is not None
    node = place.node
    with purse_at(place, tmp_path, final_timeout_s=60) as purse:
        wallet = purse.settlement.chain._wallet

        def seen() -> bool:
            """Whether who deposits has seen it in a block, which he waits to become final."""
            sent = [found for found in wallet.unfinished() if not found.key.endswith(":approve")]
            return bool(sent) and sent[0].state is IntentState.MINED

        with ThreadPoolExecutor(1) as pool:
            deposit = pool.submit(purse.wallet.deposit, "7 ROS")
            until(seen, "the deposit in a block")
            ask(node.url, "anvil_reorg", 1, [])
            with mined(place):
                assert deposit.result(60).deposited_wei == 7 * WEI_PER_ROS
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
        assert purse.wallet.deposit("7 ROS").deposited_wei == 7 * WEI_PER_ROS
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
