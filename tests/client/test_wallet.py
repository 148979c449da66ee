"""What a wallet behind a gateway asks for again when it had no answer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rios.client.http import Http
from rios.client.wallet import RemoteWallet
from rios.words.errors import ChainUnavailable, GatewayLost, InvalidRequest, NotSignedIn, QueueFull, RiosError

BALANCE = dict.fromkeys(("deposited_wei", "trial_wei", "held_wei", "withdrawing_wei", "overdrawn_wei"), "0")


class Gateway:
    """One that answers as it is told, and keeps the keys that it was asked with."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.next: RiosError | None = None

    def post(self, path: str, body: Any, *, key: str, timeout: float) -> dict[str, str]:
        """See `Http.post`."""
        self.keys.append(key)
        if self.next is not None:
            raise self.next
        return BALANCE | {"user": "ann"}


@pytest.mark.parametrize("verb", ["deposit", "withdraw"])
@pytest.mark.parametrize("error", [GatewayLost("silent"), ChainUnavailable("not final")])
def test_what_had_no_answer_is_asked_for_by_the_same_key(verb: str, error: RiosError) -> None:
    gateway = Gateway()
    move = getattr(RemoteWallet(cast("Http", gateway)), verb)
    for gateway.next in (error, error):
        with pytest.raises(type(error)):
            move("5 ROS")
    with pytest.raises(type(error)):
        move("6 ROS")
    gateway.next = None
    move("5 ROS")
    move("5 ROS")
    move("5 ROS", key="mine")
    lost, again, other, answered, new, named = gateway.keys
    assert lost == again == answered
    assert len({lost, other, new}) == 3
    assert named == "mine"


def test_what_was_refused_is_asked_for_anew() -> None:
    gateway = Gateway()
    wallet = RemoteWallet(cast("Http", gateway))
    gateway.next = InvalidRequest("too much")
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            wallet.deposit("5 ROS")
    assert len(set(gateway.keys)) == 2


@pytest.mark.parametrize("error", [QueueFull("still runs"), NotSignedIn("expired"), InvalidRequest("too much")])
def test_a_repetition_that_is_refused_does_not_make_it_another_one(error: RiosError) -> None:
    gateway = Gateway()
    wallet = RemoteWallet(cast("Http", gateway))
    for gateway.next in (GatewayLost("silent"), error):
        with pytest.raises(type(gateway.next)):
            wallet.deposit("5 ROS")
    with pytest.raises(type(error)):
        wallet.deposit("5 ROS", key="mine")
    gateway.next = None
    wallet.deposit("5 ROS")
    wallet.deposit("5 ROS")
    lost, refused, named, again, new = gateway.keys
    assert lost == refused == again
    assert named == "mine"
    assert new != lost


def test_a_first_call_that_a_gateway_has_no_turn_for_is_gone_on_with() -> None:
    gateway = Gateway()
    wallet = RemoteWallet(cast("Http", gateway))
    gateway.next = QueueFull("still runs")
    for _ in range(2):
        with pytest.raises(QueueFull):
            wallet.withdraw("5 ROS")
    assert len(set(gateway.keys)) == 1


@pytest.mark.parametrize("end", ["finish_withdrawal", "cancel_withdrawal"])
def test_a_withdrawal_that_was_ended_is_not_what_the_next_one_goes_on_with(end: str) -> None:
    gateway = Gateway()
    wallet = RemoteWallet(cast("Http", gateway))
    gateway.next = GatewayLost("silent")
    for move in (wallet.deposit, wallet.withdraw):
        with pytest.raises(GatewayLost):
            move("5 ROS")
    gateway.next = None
    getattr(wallet, end)()
    wallet.deposit("5 ROS")
    wallet.withdraw("5 ROS")
    deposited, withdrawn, _, again, new = gateway.keys
    assert deposited == again
    assert withdrawn != new
