"""Offers for gas rise as nodes ask for, and never above their bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rios.billing.chain.fees import FeeBounds, bumped, first
from rios.billing.chain.intents import Attempt
from rios.billing.chain.protocol import Fees

GWEI = 10**9
amounts = st.integers(min_value=0, max_value=2000 * GWEI)
fees_now = st.builds(Fees, base_wei=amounts, tip_wei=amounts)
bounds_of_all = st.builds(
    FeeBounds, max_fee_wei=st.integers(1, 1000 * GWEI), tip_max_wei=amounts, bump_percent=st.integers(10, 100)
)


def _attempt(fee: int, tip: int) -> Attempt:
    return Attempt(tx_hash="0x1", raw=b"", max_fee_wei=fee, tip_wei=tip)


def test_an_offer_outlives_a_base_fee_that_doubles() -> None:
    assert first(Fees(base_wei=30 * GWEI, tip_wei=2 * GWEI), FeeBounds()) == (62 * GWEI, 2 * GWEI)


@given(fees_now, bounds_of_all)
def test_a_first_offer_is_within_its_bounds(fees: Fees, bounds: FeeBounds) -> None:
    fee, tip = first(fees, bounds)
    assert 0 <= tip <= fee <= bounds.max_fee_wei
    assert tip <= bounds.tip_max_wei


@given(fees_now, fees_now, bounds_of_all)
def test_each_later_one_replaces_the_one_before(fees: Fees, later: Fees, bounds: FeeBounds) -> None:
    """Nodes ask for a tenth more of both, and more than before where that is nothing."""
    fee, tip = first(fees, bounds)
    while (offer := bumped(_attempt(fee, tip), later, bounds)) is not None:
        assert offer[0] > fee
        assert offer[1] > tip
        assert offer[0] * 10 >= fee * 11
        assert offer[1] * 10 >= tip * 11
        assert offer[1] <= offer[0] <= bounds.max_fee_wei
        assert offer[1] <= bounds.tip_max_wei
        fee, tip = offer
