"""Random histories of a ledger and the contracts beside it, in steps that can be played again one by one.

`Player` takes wishes drawn at random, makes of each the calls that the world would make, and keeps what the contracts
would hold. The calls are JSON, so another process can make them too (`perform`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import select

from rios.billing.ledger import ChainCursor, ChainEvent, Ledger
from rios.storage.models import Base
from rios.words.errors import BillingError, InvalidRequest, LedgerUnavailable
from tests.billing.clock import HOUR_US, START_US
from tests.billing.ledger.work import PLATFORM, TERMS, charge
from tests.billing.make import OWNERS

USERS = {"ann": OWNERS[4], "bob": OWNERS[5], "eve": OWNERS[6]}
HOSTS = dict(zip("abc", OWNERS, strict=False))
Call = list[Any]
"""A verb and its arguments."""
Wish = tuple[str, int, int, int]
"""What somebody would like, and three numbers to choose what with."""
WISHES = (
    *("deposit", "hold", "hold", "hold", "settle", "settle", "settle", "extend", "release", "refund", "close", "claim"),
    *("trial", "pause", "resume", "expire", "budget", "request", "withdraw", "cancel", "reorg", "again", "early"),
)
wishes = st.lists(
    st.tuples(st.sampled_from(WISHES), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 10**30)),
    min_size=1,
    max_size=40,
)
REORG_MAX = 12
# The first users and what they have, so that most histories come to something.
FIRST: tuple[Wish, ...] = (("deposit", 0, 0, 10**21), ("trial", 1, 0, 10**19), ("deposit", 1, 0, 7))


def perform(ledger: Ledger, call: Sequence[Any]) -> Any:
    """Make one call."""
    verb, given = call[0], dict(call[1])
    if verb == "settle":
        given["charges"] = [charge(**one) for one in given["charges"]]
    elif verb == "hold":
        given["terms"] = TERMS
    elif verb in ("apply_chain", "revert_chain"):
        given["cursor"] = ChainCursor(name="main", block=given["cursor"], block_hash="0x")
        if "events" in given:
            given["events"] = [ChainEvent(**one) for one in given["events"]]
    return getattr(ledger, verb)(**given)


def contents(ledger: Ledger) -> dict[str, list[Any]]:
    """All that is in a ledger. Accounts by their names: their numbers depend on how often it was opened."""
    found: dict[str, list[Any]] = {"entries": list(ledger.entries())}
    with ledger.database.reading() as connection:
        for table in Base.metadata.sorted_tables:
            columns = [column for column in table.c if table.name != "accounts" or column.name != "id"]
            if table.name != "transfers":
                found[table.name] = sorted(map(repr, connection.execute(select(*columns))))
    return found


@dataclass
class Contracts:
    """What the two contracts hold, and what they remember of each user and owner."""

    escrow: int = 0
    settlement: int = 0
    deposits: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Contracts:
        """As they are now."""
        return Contracts(self.escrow, self.settlement, dict(self.deposits), dict(self.pending), dict(self.claimed))


@dataclass
class Block:
    """A block that stands."""

    before: Contracts
    moved: dict[str, int]
    """What it gave to users and paid out to them."""
    call: Call


class Player:
    """Plays wishes on a ledger, and checks it against what it knows itself."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.calls: list[Call] = []
        self.chain = Contracts()
        self.blocks: list[Block] = []
        self.has = dict.fromkeys(USERS, 0)
        """What each user was given, less what was spent and paid out."""
        self.earned = 0
        self.holds: list[str] = []
        self.live: list[str] = []
        self.usage: dict[str, tuple[str, int]] = {}
        self.safe: list[Call] = []
        """Calls that were done and must change nothing when they come again."""
        self.epochs: list[Mapping[str, int]] = []
        for user, address in USERS.items():
            self._do("link_address", user=user, address=address)
        for wish in FIRST:
            self.play(wish)

    @classmethod
    def drawn(cls, ledger: Ledger, rng: Random, length: int) -> Player:
        """One that played `length` wishes of a generator's."""
        found = cls(ledger)
        # A history that is undone every twentieth call gets nowhere.
        weights = [1 if wish == "reorg" else 6 for wish in WISHES]
        for wish in rng.choices(WISHES, weights, k=length):
            found.play((wish, rng.getrandbits(40), rng.getrandbits(40), rng.getrandbits(96)))
        return found

    @property
    def now(self) -> int:
        """Each call has a moment of its own, at times earlier than the one before."""
        place = len(self.calls)
        return START_US + (place - 40 * (place % 7 == 3)) * HOUR_US // 10

    def play(self, wish: Wish) -> None:
        """Try what somebody would like; what the ledger refuses changes nothing."""
        name, one, two, amount = wish
        getattr(self, f"_{name}")(one, two, amount)

    def check(self) -> None:
        """Ledger, contracts and what users have agree, to the wei."""
        accounts = self.ledger.accounts()
        assert sum(accounts.values()) == 0
        assert (accounts.get("chain:escrow", 0), accounts.get("chain:settlement", 0)) == (
            -self.chain.escrow,
            -self.chain.settlement,
        )
        for user, has in self.has.items():
            found = self.ledger.balance(user)
            assert min(found.deposited_wei, found.trial_wei, found.held_wei, found.withdrawing_wei) >= 0
            assert found.withdrawing_wei <= self.chain.pending.get(USERS[user], 0), user
            assert found.wei + found.withdrawing_wei - found.overdrawn_wei == has, user
            assert found.held_wei == sum(hold.left_wei for hold in self.ledger.holds(user=user) if hold.is_live), user
        parts = ("earned", "owed", "revenue", "refunds")
        paid = sum(self.chain.claimed.values())
        assert sum(wei for name, wei in accounts.items() if name.endswith(parts)) + paid == self.earned
        if self.epochs:
            promised = self.ledger.claimable()
            for address, wei in self.epochs[-1].items():
                if address != PLATFORM:
                    assert wei - self.chain.claimed.get(address, 0) == promised.get(f"worker:{address}:earned", 0)
            assert sum(self.epochs[-1].values()) - paid == sum(promised.values())
        assert self.ledger.totals().sound

    # Calls.

    def _do(self, verb: str, *, safe: bool = False, **given: Any) -> Any:
        """Make a call; None where the ledger refuses it."""
        if verb != "resume":
            given["at"] = self.now
        call = [verb, given]
        self.calls.append(json.loads(json.dumps(call)))
        try:
            found = perform(self.ledger, call)
        except LedgerUnavailable:
            raise
        except (BillingError, InvalidRequest):
            return None
        if safe:
            self.safe.append(call)
        return True if found is None else found

    def _mine(self, *logs: tuple[str, dict[str, Any]], moved: dict[str, int] | None = None) -> None:
        """A block with some events; `moved` is what it gives to users, or pays out to them."""
        before, number = self.chain.copy(), len(self.blocks) + 1
        # After a reorganisation another transaction has the place.
        tx = f"0x{len(self.calls):064x}"
        events = [
            {"tx_hash": tx, "log_index": index, "block": number, "block_hash": "0x", "name": name, "args": args}
            for index, (name, args) in enumerate(logs)
        ]
        assert self._do("apply_chain", events=events, cursor=number), "what happened on the chain is never refused"
        self.blocks.append(Block(before, moved or {}, self.calls[-1]))
        for user, wei in (moved or {}).items():
            self.has[user] += wei

    # What people do.

    def _deposit(self, one: int, two: int, amount: int) -> None:
        user, amount = _pick(USERS, one), amount + 1
        address = USERS[user]
        self._mine(("Deposited", {"user": address, "amount": amount}), moved={user: amount})
        self.chain.escrow += amount
        self.chain.deposits[address] = self.chain.deposits.get(address, 0) + amount

    def _trial(self, one: int, two: int, amount: int) -> None:
        user = _pick(USERS, one)
        if self._do("grant_trial", user=user, amount_wei=amount + 1, id=f"t{len(self.calls)}", safe=True):
            self.has[user] += amount + 1

    def _hold(self, one: int, two: int, amount: int) -> None:
        user, name = _pick(USERS, one), f"h{len(self.calls)}"
        free = self.ledger.balance(user).available_wei
        wanted = amount % (free // (1 + two % 4) + 2)
        if self._do("hold", id=name, user=user, amount_wei=wanted, request_id=name, safe=True):
            self.holds.append(name)
            self.live.append(name)

    def _extend(self, one: int, two: int, amount: int) -> None:
        if self.live:
            name = _pick(self.live, one)
            self._do("extend", hold_id=name, step=1 + two % 3, amount_wei=amount % 10**18, safe=True)

    def _pause(self, one: int, two: int, amount: int) -> None:
        if self.holds:
            self._do("pause", hold_id=_pick(self.holds, one))

    def _resume(self, one: int, two: int, amount: int) -> None:
        if self.holds:
            self._do("resume", hold_id=_pick(self.holds, one))

    def _settle(self, one: int, two: int, amount: int) -> None:
        if not self.holds:
            return
        name = _pick(self.live or self.holds, one)
        hold = self.ledger.hold_of(name)
        assert hold is not None
        parts = [amount % (hold.left_wei + 1), two % 3 * (hold.left_wei // 7)]
        charges = []
        for place, part in enumerate(parts):
            host = _pick(HOSTS, two + place)
            step = len(self.calls) if two % 5 else 0
            resource = ("tokens_out", "bytes")[place]
            charges.append(
                {"amount_wei": part, "request_id": name, "worker": host, "owner": HOSTS[host], "step": step}
                | {"resource": resource, "platform_bp": two % 3 * 1_000}
            )
        final = bool(two % 2)
        found = self._do("settle", hold_id=name, charges=charges, final=final, safe=True)
        if found is None:
            return
        for one_charge in charges:
            made = charge(**one_charge)
            if made.record.usage_id not in self.usage:
                self.usage[made.record.usage_id] = (hold.user_id, made.amount_wei)
                self.has[hold.user_id] -= made.amount_wei
                self.earned += made.amount_wei
        if final and name in self.live:
            self.live.remove(name)

    def _release(self, one: int, two: int, amount: int) -> None:
        if self.holds:
            name = _pick(self.holds, one)
            self._do("release", hold_id=name, safe=True)
            if name in self.live:
                self.live.remove(name)

    def _expire(self, one: int, two: int, amount: int) -> None:
        self._do("expire")

    def _budget(self, one: int, two: int, amount: int) -> None:
        limit = None if two % 3 else amount
        period = ("day", "week", "month", "total")[two % 4]
        self._do("set_budget", user=_pick(USERS, one), limit_wei=limit, period=period, hard=bool(two % 5))

    def _refund(self, one: int, two: int, amount: int) -> None:
        if not self.usage:
            return
        usage_id = _pick(self.usage, one)
        user, price = self.usage[usage_id]
        part = None if two % 2 else amount % (price + 1)
        note_id = f"n{len(self.calls)}"
        note = self._do("refund", usage_id=usage_id, reason="r", amount_wei=part, note_id=note_id, safe=True)
        if note is not None:
            self.has[user] += note.amount_wei
            self.earned -= note.amount_wei

    def _early(self, one: int, two: int, amount: int) -> None:
        """A message that comes before what it is about."""
        self._do("settle", hold_id=f"h{len(self.calls) + 1}", charges=[], final=True)
        self._do("refund", usage_id="u-none", reason="r")

    def _again(self, one: int, two: int, amount: int) -> None:
        """A message that comes twice."""
        head = self.ledger.head()
        again = [block.call for block in self.blocks[-1:]]
        if self.safe:
            again.append(self.safe[one % len(self.safe)])
        for call in again:
            perform(self.ledger, call)
            assert self.ledger.head() == head, call

    # What the operator and the contracts do.

    def _close(self, one: int, two: int, amount: int) -> None:
        before = len(self.epochs)
        epoch = self._do("close_epoch", platform=PLATFORM)
        if epoch is True or epoch.number == before:
            return
        leaves = self.ledger.leaves(epoch.number)
        for address, wei in (self.epochs[-1] if self.epochs else {}).items():
            assert leaves[address] >= wei, "what an address has earned never falls"
        self.epochs.append(leaves)
        logs: list[tuple[str, dict[str, Any]]] = []
        chain = self.chain.copy()
        for owed in self.ledger.charges(epoch.number):
            address = USERS[owed.user_id]
            have = chain.deposits.get(address, 0)
            if owed.amount_wei < 0:
                logs.append(("Credited", {"user": address, "amount": -owed.amount_wei}))
                chain.escrow -= owed.amount_wei
                chain.deposits[address] = have - owed.amount_wei
            elif part := min(owed.amount_wei, have):
                logs.append(("Charged", {"user": address, "amount": part}))
                chain.escrow -= part
                chain.settlement += part
                chain.deposits[address] = left = have - part
                if (asked := chain.pending.get(address, 0)) > left:
                    logs.append(("WithdrawalReduced", {"user": address, "amount": asked - left, "total": left}))
                    chain.pending[address] = left
        missing = sum(leaves.values()) - sum(chain.claimed.values()) - chain.settlement
        if missing > 0:
            logs.append(("Funded", {"amount": missing}))
            chain.settlement += missing
        if logs:
            self._mine(*logs)
            self.chain = chain

    def _claim(self, one: int, two: int, amount: int) -> None:
        if not self.epochs:
            return
        address = _pick(self.epochs[-1], one)
        paid = self.chain.claimed.get(address, 0)
        due = self.epochs[-1][address] - paid
        if 0 < due <= self.chain.settlement:
            self._mine(("Claimed", {"account": address, "amount": due}))
            self.chain.settlement -= due
            self.chain.claimed[address] = paid + due

    def _request(self, one: int, two: int, amount: int) -> None:
        address = USERS[_pick(USERS, one)]
        room = self.chain.deposits.get(address, 0) - self.chain.pending.get(address, 0)
        if room > 0:
            wanted = 1 + amount % room
            total = self.chain.pending.get(address, 0) + wanted
            self._mine(("WithdrawalRequested", {"user": address, "amount": wanted, "total": total}))
            self.chain.pending[address] = total

    def _cancel(self, one: int, two: int, amount: int) -> None:
        address = USERS[_pick(USERS, one)]
        if asked := self.chain.pending.get(address, 0):
            self._mine(("WithdrawalCancelled", {"user": address, "amount": asked}))
            del self.chain.pending[address]

    def _withdraw(self, one: int, two: int, amount: int) -> None:
        user = _pick(USERS, one)
        address = USERS[user]
        if asked := self.chain.pending.get(address, 0):
            self._mine(("Withdrawn", {"user": address, "amount": asked}), moved={user: -asked})
            del self.chain.pending[address]
            self.chain.deposits[address] -= asked
            self.chain.escrow -= asked

    def _reorg(self, one: int, two: int, amount: int) -> None:
        """Up to 12 blocks go away, and what they did; what happened off the chain stays."""
        depth = min(1 + one % REORG_MAX, len(self.blocks))
        if depth:
            stands = len(self.blocks) - depth
            assert self._do("revert_chain", from_block=stands + 1, cursor=stands) is not None
            for block in self.blocks[stands:]:
                for user, wei in block.moved.items():
                    self.has[user] -= wei
            self.chain = self.blocks[stands].before
            del self.blocks[stands:]


def _pick(things: Mapping[str, Any] | Sequence[str], number: int) -> str:
    return list(things)[number % len(things)]
