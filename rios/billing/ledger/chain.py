"""From events of the chain to entries: each once, in the transaction that moves the cursor; and back, after a reorg.

The accounts of the chain mirror its contracts: `chain:escrow` is minus what the escrow contract holds,
`chain:settlement` minus what the settlement contract does. What the chain says has happened, so nothing here refuses
it: where a user has already spent what leaves the chain, the rest is overdrawn, and later deposits repay it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from rios.billing.ledger import published
from rios.billing.ledger.accounts import ESCROW, REVENUE, SETTLEMENT, TREASURY, Kind, earned, user_account
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.money import deposit, lowered
from rios.storage.models import ChainCursorRow, ChainEventRow, UserRow
from rios.storage.rows import Row
from rios.words.errors import InvalidRequest, LedgerConflict
from rios.words.ids import check_address

Args = Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainEvent:
    """One log of a contract."""

    tx_hash: str
    log_index: int
    block: int
    block_hash: str
    name: str
    """As the contract calls it: "Deposited", "Claimed" ... Events that move no money are kept and post nothing."""
    args: Args
    """By the contract's names of them: addresses and hashes as text, amounts as ints."""

    @property
    def document(self) -> str:
        """The arguments as canonical text; every number is decimal text in it."""
        return json.dumps({key: str(value) for key, value in sorted(self.args.items())}, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCursor:
    """Up to which block, itself included, the events are in the ledger."""

    name: str
    block: int
    block_hash: str


@dataclass(frozen=True, slots=True)
class _Step:
    """Where an event is applied or reversed: its postings have ids of their own each time."""

    batch: Batch
    id: str
    args: Mapping[str, str]
    at: int

    def amount(self, name: str = "amount") -> int:
        return int(self.args[name])

    def user(self, name: str = "user") -> str:
        """The id of the user whose address an argument is; the address itself where it is linked to none."""
        address = check_address(self.args[name])
        row = self.batch.rows(UserRow, key=("address",)).get(address)
        return address if row is None else str(row["id"])

    def account(self, kind: Kind) -> str:
        return user_account(self.user(), kind)

    def move(self, debit: str, credit: str, amount_wei: int, *, part: str = "") -> None:
        if amount_wei > 0:
            transfer = Transfer(
                id=f"{self.id}{part}", debit=debit, credit=credit, amount_wei=amount_wei, kind="chain", at=self.at,
                reference=self.args["tx"],
            )  # fmt: skip
            self.batch.post([transfer])

    def take(self, user: str, credit: str, amount_wei: int, kinds: Sequence[Kind]) -> None:
        """Take an amount from the accounts `kinds` of a user, one after the other, and overdraw for the rest."""
        for kind in kinds:
            name = user_account(user, kind)
            part = min(self.batch.account(name).balance, amount_wei)
            self.move(name, credit, part, part=f":{kind}")
            amount_wei -= max(part, 0)
        self.move(user_account(user, Kind.OVERDRAWN), credit, amount_wei, part=":overdrawn")


def apply(batch: Batch, events: Sequence[ChainEvent], cursor: ChainCursor | None, *, at: int) -> int:
    """Post what `events` say, in their order, and move the cursor; how many of them were new.

    Raises LedgerConflict for an event whose place on the chain has other contents in the ledger.
    """
    known = batch.rows(ChainEventRow)
    known.load((event.tx_hash, event.log_index) for event in events)
    count = 0
    for event in events:
        row = known.get(event.tx_hash, event.log_index)
        if row is not None and row["applied"]:
            if (row["name"], row["args"]) != (event.name, event.document):
                raise LedgerConflict(f"log {event.log_index} of {event.tx_hash} is in the ledger with other contents")
            continue
        times = 1 if row is None else row["times"] + 1
        known.put(
            {
                "tx_hash": event.tx_hash,
                "log_index": event.log_index,
                "block": event.block,
                "block_hash": event.block_hash,
                "name": event.name,
                "args": event.document,
                "applied": 1,
                "times": times,
            }
        )
        step = _step(batch, event.tx_hash, event.log_index, f"{times}", event.document, at)
        if event.name in _APPLY:
            _APPLY[event.name](step)
        elif event.name == published.EVENT:
            published.put_in_force(batch, step.args)
        count += 1
    if cursor is not None:
        set_cursor(batch, cursor)
    return count


def revert(batch: Batch, from_block: int, cursor: ChainCursor, *, at: int) -> int:
    """Reverse all events from `from_block` on, newest first, and set the cursor back; how many there were."""
    rows = batch.connection.execute(
        select(ChainEventRow.__table__)
        .where(ChainEventRow.block >= from_block, ChainEventRow.applied == 1)
        .order_by(ChainEventRow.block.desc(), ChainEventRow.log_index.desc())
    ).mappings()
    found = [dict(row) for row in rows]
    for row in found:
        batch.rows(ChainEventRow).change(row, applied=0)
        step = _step(batch, row["tx_hash"], row["log_index"], f"{row['times']}:reverted", row["args"], at)
        if row["name"] in _REVERT:
            _REVERT[row["name"]](step)
        elif row["name"] == published.EVENT:
            published.take_back(batch, step.args)
    set_cursor(batch, cursor)
    return len(found)


def set_cursor(batch: Batch, cursor: ChainCursor) -> None:
    """Say how far the chain was followed."""
    batch.rows(ChainCursorRow).put({"name": cursor.name, "block": cursor.block, "block_hash": cursor.block_hash})


def as_event(row: Row) -> ChainEvent:
    """The event that a row stands for; its numbers are text."""
    fields = {name: row[name] for name in ("tx_hash", "log_index", "block", "block_hash", "name")}
    return ChainEvent(**fields, args=json.loads(row["args"]))


def _step(batch: Batch, tx_hash: str, log_index: int, which: str, document: str, at: int) -> _Step:
    args = {**json.loads(document), "tx": tx_hash}
    return _Step(batch, f"chain:{tx_hash}:{log_index}:{which}", args, at)


def _deposited(step: _Step) -> None:
    deposit(step.batch, id=step.id, user=step.user(), amount_wei=step.amount(), reference=step.args["tx"], at=step.at)


def _deposit_gone(step: _Step) -> None:
    step.take(step.user(), ESCROW, step.amount(), (Kind.AVAILABLE, Kind.WITHDRAWING))


def _requested(step: _Step) -> None:
    wanted = step.amount("total") - step.batch.account(step.account(Kind.WITHDRAWING)).balance
    free = step.batch.account(step.account(Kind.AVAILABLE)).balance
    step.move(step.account(Kind.AVAILABLE), step.account(Kind.WITHDRAWING), min(wanted, free))
    lowered(step.batch, step.user(), at=step.at)


def _request_gone(step: _Step) -> None:
    # It may have found less than it asked for, and some of that later. What was asked for before stays aside.
    there = step.batch.account(step.account(Kind.WITHDRAWING)).balance
    before = step.amount("total") - step.amount()
    step.move(step.account(Kind.WITHDRAWING), step.account(Kind.AVAILABLE), there - before)


def _reduced(step: _Step) -> None:
    # A charge left less in the contract than was requested.
    there = step.batch.account(step.account(Kind.WITHDRAWING)).balance
    step.move(step.account(Kind.WITHDRAWING), step.account(Kind.AVAILABLE), there - step.amount("total"))


def _reduction_gone(step: _Step) -> None:
    free = step.batch.account(step.account(Kind.AVAILABLE)).balance
    moved = step.batch.posted_wei(step.id.removesuffix(":reverted"))
    step.move(step.account(Kind.AVAILABLE), step.account(Kind.WITHDRAWING), min(moved, free))


def _cancelled(step: _Step) -> None:
    there = step.batch.account(step.account(Kind.WITHDRAWING)).balance
    step.move(step.account(Kind.WITHDRAWING), step.account(Kind.AVAILABLE), there)


def _cancel_gone(step: _Step) -> None:
    free = step.batch.account(step.account(Kind.AVAILABLE)).balance
    step.move(step.account(Kind.AVAILABLE), step.account(Kind.WITHDRAWING), min(step.amount(), free))


def _withdrawn(step: _Step) -> None:
    step.take(step.user(), ESCROW, step.amount(), (Kind.WITHDRAWING, Kind.AVAILABLE))
    # The contract pays what is there and forgets the rest of the request.
    rest = step.batch.account(step.account(Kind.WITHDRAWING)).balance
    step.move(step.account(Kind.WITHDRAWING), step.account(Kind.AVAILABLE), rest, part=":rest")
    lowered(step.batch, step.user(), at=step.at)


def _withdrawal_gone(step: _Step) -> None:
    missing = min(-step.batch.account(step.account(Kind.OVERDRAWN)).balance, step.amount())
    step.move(ESCROW, step.account(Kind.OVERDRAWN), missing, part=":overdrawn")
    step.move(ESCROW, step.account(Kind.WITHDRAWING), step.amount() - max(missing, 0))


def _claims(step: _Step) -> Iterator[tuple[str, int]]:
    """From which accounts a claim is paid: what was promised to the address, then to the platform."""
    left = step.amount()
    for name in (earned(check_address(step.args["account"])), REVENUE):
        part = min(step.batch.account(name).floor or 0, left)
        left -= part
        yield name, part
    if left:
        raise LedgerConflict(
            f"{step.args['account']} claimed {left} wei more than the ledger's roots promise ({step.args['tx']}): "
            "the contract follows another ledger"
        )


def _claimed(step: _Step) -> None:
    for name, part in list(_claims(step)):
        account = step.batch.account(name)
        if part:
            step.batch.set_floor(account, (account.floor or 0) - part)
            step.move(name, SETTLEMENT, part, part=f":{account.kind}")


def _claim_gone(step: _Step) -> None:
    # Which account paid is in the entries of the claim that is reversed; the ids differ in their last part alone.
    paid = step.id.removesuffix(":reverted")
    for name in (earned(check_address(step.args["account"])), REVENUE):
        account = step.batch.account(name)
        part = step.batch.posted_wei(f"{paid}:{account.kind}")
        if part:
            step.move(SETTLEMENT, name, part, part=f":{account.kind}")
            step.batch.set_floor(account, (account.floor or 0) + part)


def _mover(debit: str, credit: str) -> Callable[[_Step], None]:
    return lambda step: step.move(debit, credit, step.amount())


_APPLY: Mapping[str, Callable[[_Step], None]] = {
    "Deposited": _deposited,
    "WithdrawalRequested": _requested,
    "WithdrawalReduced": _reduced,
    "WithdrawalCancelled": _cancelled,
    "Withdrawn": _withdrawn,
    # Tokens go from the escrow to the settlement contract; who pays was decided when the use was posted.
    "Charged": _mover(SETTLEMENT, ESCROW),
    # The platform pays tokens into the escrow, or into the settlement contract, out of its own pocket.
    "Credited": _mover(ESCROW, TREASURY),
    "Funded": _mover(SETTLEMENT, TREASURY),
    "Given": _mover(ESCROW, TREASURY),
    "Claimed": _claimed,
}
_REVERT: Mapping[str, Callable[[_Step], None]] = {
    "Deposited": _deposit_gone,
    "WithdrawalRequested": _request_gone,
    "WithdrawalReduced": _reduction_gone,
    "WithdrawalCancelled": _cancel_gone,
    "Withdrawn": _withdrawal_gone,
    "Charged": _mover(ESCROW, SETTLEMENT),
    "Credited": _mover(TREASURY, ESCROW),
    "Funded": _mover(TREASURY, SETTLEMENT),
    "Given": _mover(TREASURY, ESCROW),
    "Claimed": _claim_gone,
}
POSTING_EVENTS = frozenset(_APPLY)
"""Events that move money. "Funded" and "Given" are no events of a contract: the follower names so transfers of tokens
straight to the settlement contract and to the escrow, with an `amount`."""


def check_events(events: Sequence[ChainEvent]) -> None:
    """Raise InvalidRequest unless each event that moves money brings what it needs."""
    for event in events:
        if event.name in POSTING_EVENTS:
            wanted = {"amount", *(["account"] if event.name == "Claimed" else [])}
            if event.name.startswith(("Deposited", "Withdraw")):
                wanted.add("user")
            if event.name in ("WithdrawalRequested", "WithdrawalReduced"):
                wanted.add("total")
            if missing := wanted - event.args.keys():
                raise InvalidRequest(f"event {event.name} of {event.tx_hash} lacks {', '.join(sorted(missing))}")
