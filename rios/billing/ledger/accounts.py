"""The accounts of the ledger: what they are called, of which kind they are, and how low each may go.

    user:<id>:available      deposited and free            user:<id>:withdrawing   asked back from the escrow contract
    user:<id>:trial          trial credit, never withdrawn user:<id>:overdrawn     below 0: left the chain though spent
    user:<id>:held           set aside for running work
    worker:<address>:earned  earned and not yet claimed    worker:<address>:owed   below 0: refunded after its epoch
    platform:revenue         the platform's share          platform:refunds        below 0: the same of the platform
    treasury                 gives trial credit            chain:escrow            minus what the escrow contract holds
                                                           chain:settlement        minus what the settlement one holds

Every transfer takes from one account what it gives to another, so the sum over all of them is always 0. An account that
is not among these does not exist.
"""

from __future__ import annotations

import functools
import re
from enum import StrEnum

from rios.words.errors import InvalidRequest
from rios.words.ids import Address

TREASURY = "treasury"
REVENUE = "platform:revenue"
REFUNDS = "platform:refunds"
ESCROW = "chain:escrow"
SETTLEMENT = "chain:settlement"


class Kind(StrEnum):
    """What an account is for."""

    AVAILABLE = "available"
    TRIAL = "trial"
    HELD = "held"
    WITHDRAWING = "withdrawing"
    OVERDRAWN = "overdrawn"
    EARNED = "earned"
    OWED = "owed"
    REVENUE = "revenue"
    REFUNDS = "refunds"
    TREASURY = "treasury"
    CHAIN = "chain"


SPENDABLE = (Kind.AVAILABLE, Kind.TRIAL, Kind.HELD)
"""What a user has: free, as trial credit, and set aside."""
_NO_FLOOR = {Kind.OVERDRAWN, Kind.OWED, Kind.REFUNDS, Kind.TREASURY, Kind.CHAIN}
_FIXED = {
    TREASURY: Kind.TREASURY,
    REVENUE: Kind.REVENUE,
    REFUNDS: Kind.REFUNDS,
    ESCROW: Kind.CHAIN,
    SETTLEMENT: Kind.CHAIN,
}
_USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_USER = re.compile(rf"user:({_USER_ID.pattern}):(available|trial|held|withdrawing|overdrawn)")
_WORKER = re.compile(r"worker:(0x[0-9a-fA-F]{40}):(earned|owed)")


def user_account(user: str, kind: Kind) -> str:
    """The name of an account of a user."""
    return f"user:{user}:{kind}"


def earned(owner: Address | str) -> str:
    """The account of what the workers of `owner` earned and nobody has claimed yet."""
    return f"worker:{owner}:earned"


def owed(owner: Address | str) -> str:
    """The account of what `owner` owes for refunds, as an amount below 0; earnings repay it first."""
    return f"worker:{owner}:owed"


def check_user(user: object) -> str:
    """`user` if it can be the id of a user, else InvalidRequest."""
    if not isinstance(user, str) or not _USER_ID.fullmatch(user):
        raise InvalidRequest(
            f"{user!r} is no user id: 1 to 128 letters, digits and . _ @ + - that begin with a letter or digit"
        )
    return user


@functools.lru_cache(maxsize=1 << 16)
def kind_of(name: str) -> Kind:
    """The kind of the account called `name`, or InvalidRequest where there can be none of that name."""
    if name in _FIXED:
        return _FIXED[name]
    match = _USER.fullmatch(name) or _WORKER.fullmatch(name)
    if match is None:
        raise InvalidRequest(f"there is no account {name!r}; accounts are user:ID:available, worker:ADDRESS:earned ...")
    return Kind(match[2])


def floor_of(kind: Kind) -> int | None:
    """How low an account of this kind may go when it is new; None for any depth."""
    return None if kind in _NO_FLOOR else 0


def owner_of(name: str) -> Address:
    """The address in the name of a worker's account."""
    return Address(name.split(":")[1])
