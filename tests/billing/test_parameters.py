"""What a vote can set, and what it may be."""

from __future__ import annotations

import pytest

from rios.billing.chain import abi
from rios.billing.parameters import PARAMETERS, Change
from rios.words.errors import InvalidAmount, InvalidRequest
from rios.words.money import WEI_PER_ROS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("payout_min_wei=2 ROS", 2 * WEI_PER_ROS), ("payout_min_wei = 7", 7), ("payout_min_wei=0", 0),
        ("epoch_interval_s=86400", 86_400), ("quorum_percent=0", 0), ("timelock_delay_s=60", 60),
    ],
)  # fmt: skip
def test_a_change_is_written_as_name_and_value(text: str, value: int) -> None:
    found = Change.parse(text)
    assert (found.name, found.value) == (text.partition("=")[0].strip(), value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("payout_min_wei", "NAME=VALUE"), ("tea=1", "no parameter 'tea'; a vote can set payout_min_wei"),
        ("epoch_interval_s=59", "from 60 to"), ("epoch_interval_s=1 day", "whole number"),
        ("voting_period_blocks=0", "from 1 to"), ("quorum_percent=101", "from 0 to 100"),
        ("challenge_window_s=5", "fixed in the contract RiosSettlement"), ("cap_wei=1", "fixed in the contract"),
        ("platform_bp=900", "in the price book"), ("hold_grace_s=-1", "0 for what each process is set to"),
    ],
)  # fmt: skip
def test_what_cannot_be_voted_on_is_refused_by_name(text: str, wrong: str) -> None:
    with pytest.raises(InvalidRequest, match=wrong):
        Change.parse(text)


def test_an_amount_is_checked_as_one() -> None:
    with pytest.raises(InvalidAmount, match="payout_min_wei"):
        Change.parse("payout_min_wei=2 USD")
    with pytest.raises(InvalidRequest, match="whole number"):
        Change("payout_min_wei", True)


def test_the_contracts_have_what_is_called() -> None:
    for one in PARAMETERS.values():
        functions = abi.artifact(one.contract).functions
        assert one.getter in functions
        if one.setter is not None:
            value = ((one.key,) if one.of_network else ()) + (one.high,)
            assert abi.encode(one.contract, one.setter, *value)


def test_names_fit_into_the_contract_and_say_their_unit() -> None:
    for name, one in PARAMETERS.items():
        assert len(one.key) == 32
        assert one.key.rstrip(b"\0").decode() == name
        assert name.rpartition("_")[2] in ("wei", "s", "blocks", "percent")
        assert (one.within(-1), one.within(2**300)) == (one.low, one.high)
