"""What a transaction offers for its gas (EIP-1559), and how much more when it is stuck; never more than a bound."""

from __future__ import annotations

from dataclasses import dataclass

from rios.billing.chain.intents import Attempt
from rios.billing.chain.protocol import Fees

_GWEI = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeBounds:
    """How far a sender goes."""

    max_fee_wei: int = 500 * _GWEI
    """The most for each gas, tip and base fee together."""
    tip_max_wei: int = 50 * _GWEI
    bump_percent: int = 13
    """Nodes replace a transaction by one that offers at least 10 % more (geth's `--txpool.pricebump`); 13 is above
    that after rounding, and above the 12.5 % by which a base fee can rise from block to block."""
    attempts_max: int = 12
    """Signed transactions of one nonce."""


def first(fees: Fees, bounds: FeeBounds) -> tuple[int, int]:
    """The highest fee and the tip of a new transaction: it stays valid while the base fee doubles."""
    tip = min(fees.tip_wei, bounds.tip_max_wei, bounds.max_fee_wei)
    return min(2 * fees.base_wei + tip, bounds.max_fee_wei), tip


def bumped(last: Attempt, fees: Fees, bounds: FeeBounds) -> tuple[int, int] | None:
    """Those of a transaction that replaces `last`; None where a bound forbids as much as nodes ask for."""
    fee, tip = first(fees, bounds)
    fee, tip = max(fee, _more(last.max_fee_wei, bounds)), max(tip, _more(last.tip_wei, bounds))
    if fee > bounds.max_fee_wei or tip > bounds.tip_max_wei:
        return None
    return fee, min(tip, fee)


def _more(wei: int, bounds: FeeBounds) -> int:
    return max(-(-wei * (100 + bounds.bump_percent) // 100), wei + 1)
