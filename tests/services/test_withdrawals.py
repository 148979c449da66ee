"""A withdrawal is made once, shows while it waits, and can be ended, whatever happened to who asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.billing.chain.protocol import Verdict
from rios.services.purse import Purse
from rios.words.errors import InvalidRequest
from rios.words.money import WEI_PER_ROS
from tests.services.earning import purse_of
from tests.services.places import PLACES, Place, place_of


class Killed(BaseException):
    """In place of the end of a process."""


def dies_at_the_second(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends when it is about to hand in a second transaction."""
    node = purse.settlement.chain._chain
    hand_in, count = node.send_raw, iter(range(2))

    def handed_in(raw: bytes) -> Verdict:
        if next(count):
            raise Killed
        return hand_in(raw)

    monkeypatch.setattr(node, "send_raw", handed_in)


@pytest.mark.parametrize("again", ["withdraw", "other", "key"])
def test_a_withdrawal_cut_in_two_pays_once(again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "mine" if again == "key" else None
    with purse_of(home=tmp_path) as purse:
        purse.wallet.deposit("20 ROS")
        before = purse.wallet.on_chain
        dies_at_the_second(purse, monkeypatch)
        with pytest.raises(Killed):
            purse.wallet.withdraw("5 ROS", key=key)
        monkeypatch.undo()
    with purse_of(home=tmp_path) as purse:
        if again == "other":
            purse.wallet.deposit("1 ROS")  # whatever comes first goes on with it
            assert purse.wallet.on_chain == before + 4 * WEI_PER_ROS
            return
        assert purse.wallet.withdraw("5 ROS", key=key).withdrawing_wei == 0
        assert purse.wallet.on_chain == before + 5 * WEI_PER_ROS
        purse.wallet.withdraw("5 ROS")
        assert purse.wallet.on_chain == before + 10 * WEI_PER_ROS
        assert purse.billing.reconcile().sound


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_of("anvil", tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture(scope="module")
def purse(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Purse]:
    with place.purse(tmp_path_factory.mktemp("home")) as found:
        yield found


class TestWhereTheEscrowDelays:
    """A node whose contracts have the delay of a real network."""

    pytestmark = PLACES[1].marks  # type: ignore[attr-defined]

    def test_it_shows_and_can_be_cancelled_and_finished(self, place: Place, purse: Purse) -> None:
        wallet = purse.wallet
        wallet.deposit("10 ROS")
        assert "being withdrawn" not in str(wallet)
        on_chain = wallet.on_chain
        assert wallet.withdraw("4 ROS").withdrawing_wei == 4 * WEI_PER_ROS
        assert "being withdrawn  4 ROS" in str(wallet)
        for key in (None, "another"):
            with pytest.raises(InvalidRequest, match="being withdrawn already"):
                wallet.withdraw("4 ROS", key=key)
        assert wallet.cancel_withdrawal(key="no").deposited_wei == 10 * WEI_PER_ROS
        assert wallet.cancel_withdrawal(key="no").withdrawing_wei == 0
        for end in (wallet.cancel_withdrawal, wallet.finish_withdrawal):
            with pytest.raises(InvalidRequest, match="no withdrawal waits"):
                end()
        wallet.withdraw("3 ROS", key="taken")
        place.advance(purse, purse.settlement.chain.withdrawal_delay_s)
        assert wallet.finish_withdrawal().withdrawing_wei == 0
        assert wallet.on_chain == on_chain + 3 * WEI_PER_ROS
        assert wallet.withdraw("3 ROS", key="taken").withdrawing_wei == 0
        assert purse.billing.reconcile().sound
