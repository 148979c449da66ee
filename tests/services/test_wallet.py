"""What a wallet and a balance show: all that there is, the chain only where it was started, and nothing is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rios.billing.ledger.values import Balance
from rios.services.network_chain import NetworkChain
from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable
from rios.words.money import WEI_PER_ROS, Wei
from tests.billing.ledger.work import TERMS
from tests.services.earning import purse_of


@pytest.fixture(scope="module")
def purse() -> Iterator[Purse]:
    with purse_of() as purse:
        purse.books.ledger.hold("h", "local", WEI_PER_ROS // 5, request_id="r", terms=TERMS)
        yield purse


def test_a_wallet_shows_what_there_is(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = purse.wallet
    page = wallet._repr_html_()
    assert purse.books.started_chain is None, "looking starts nothing"
    for said in (wallet.address, "deposited", "0 ROS", "available", "9.8 ROS", "held", "0.2 ROS"):
        assert said in page
    assert "on chain" not in page
    assert "1000 ROS" in str(wallet), "whoever prints it asks the chain"
    assert "on chain" in wallet._repr_html_()
    assert "1000 ROS" in wallet._repr_html_()
    assert "being withdrawn" not in wallet._repr_html_()

    def away(chain: NetworkChain, who: str) -> Wei:
        raise ChainUnavailable("it is away")

    monkeypatch.setattr(NetworkChain, "tokens_of", away)
    for shown in (wallet._repr_html_(), str(wallet)):
        assert "unknown: it is away" in shown
        assert "9.8 ROS" in shown


def test_a_balance_is_one_line_wherever_it_is_shown(purse: Purse) -> None:
    found = purse.billing.balance
    assert (str(found), repr(found)) == ("10 ROS (0.2 held)", "<Balance of local: 10 ROS (0.2 held)>")
    assert "10 ROS (0.2 held)" in found._repr_html_()
    nothing = dict.fromkeys(("deposited_wei", "trial_wei", "held_wei", "withdrawing_wei", "overdrawn_wei"), Wei(0))
    assert repr(Balance(user_id="ann", **nothing)) == "<Balance of ann: 0 ROS>"


@pytest.mark.parametrize("end", ["finish_withdrawal", "cancel_withdrawal"])
def test_a_withdrawal_that_was_ended_is_not_what_the_next_one_goes_on_with(
    end: str, purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was not final in time, on a chain whose escrow delays withdrawals."""
    chain, wallet = purse.settlement.chain, purse.wallet
    wallet.deposit("12 ROS")
    monkeypatch.setattr(chain, "withdrawal_delay_s", 1)
    act = chain.as_wallet

    def silent(*given: Any, **named: Any) -> Any:
        act(*given, **named)
        raise ChainUnavailable("not final yet")

    with monkeypatch.context() as away:
        away.setattr(chain, "as_wallet", silent)
        with pytest.raises(ChainUnavailable):
            wallet.withdraw("5 ROS")
    getattr(wallet, end)()
    assert wallet.balance.withdrawing_wei == 0
    assert wallet.withdraw("5 ROS").withdrawing_wei == 5 * WEI_PER_ROS
    wallet.cancel_withdrawal()
