"""What one transaction of the writer changes: read once, changed in memory, and written in bulk at its end.

Requests run one after the other on a batch. One that fails is undone in memory and its neighbours stay. A hot account
is read once and written once, however many transfers of the batch it is in.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.schema import sort_tables

from rios.billing.ledger.accounts import Kind, floor_of, kind_of
from rios.billing.ledger.entries import Transfer
from rios.billing.verify import GENESIS
from rios.storage.bulk import Entry, insert_transfers, update_balances
from rios.storage.gateway_models import QuotaRow
from rios.storage.models import (
    AccountRow,
    BudgetRow,
    EpochRow,
    HoldRow,
    OutboxRow,
    PriceBookRow,
    SpendingRow,
    TransferRow,
    UserRow,
    VolumeRow,
)
from rios.storage.rows import Rows
from rios.words.canonical import canonical
from rios.words.errors import InsufficientBalance, LedgerConflict
from rios.words.money import WEI_MAX, format_ros

# Asked at the beginning of every batch; as plain text it takes a third of the time.
_STATE = "SELECT seq, hash, (SELECT max(number) FROM epochs) FROM transfers ORDER BY seq DESC LIMIT 1"
_CHUNK = 400
KEPT = frozenset((HoldRow, UserRow, SpendingRow, VolumeRow, BudgetRow, QuotaRow, PriceBookRow))
"""Tables that are small, or whose rows are asked for again soon."""
# Accounts that a writer remembers between batches; 100,000 of them take about 30 MB.
_CACHE_MAX = 100_000


class Account:
    """An account in a batch: `balance` and `floor` change here, and are written at the end."""

    __slots__ = ("balance", "floor", "id", "is_new", "kind", "name")

    def __init__(self, number: int, name: str, kind: str, floor: int | None, balance: int, *, is_new: bool) -> None:
        self.id = number
        self.name = name
        self.kind = kind
        self.floor = floor
        self.balance = balance
        self.is_new = is_new

    @property
    def free_wei(self) -> int:
        """What may leave an account that has a floor."""
        assert self.floor is not None
        return self.balance - self.floor


@dataclass(slots=True)
class Cache:
    """Accounts as the last batch of this process left them, valid while nobody else wrote since."""

    state: tuple[Any, ...] | None = None
    accounts: dict[str, Account] = field(default_factory=dict)
    next_id: int = 1
    version: tuple[int, int] | None = None
    """Of the database, as the last batch left it (`Database.version`); None where nothing can be said by it."""
    tables: dict[Any, Rows] = field(default_factory=dict)
    """Rows that each request of a user asks for, as the last batch left them, while the version is still this one."""

    def clear(self) -> None:
        """Forget all of it."""
        self.state = self.version = None
        self.accounts.clear()
        self.tables.clear()


class Batch:
    """The requests of one transaction. `known` says that transfer ids may be there already, so each is looked up."""

    def __init__(
        self,
        connection: Connection,
        cache: Cache,
        *,
        now: int,
        known: bool,
        version: tuple[int, int] | None = None,
        plain: bool = False,
    ) -> None:
        """now: microseconds of UTC since 1970, for what brings no time of its own.

        version: of the database. plain: its requests change tables by what this class has for that, and not by SQL.
        """
        self.connection = connection
        self.now = now
        self._cache = cache
        self._known = known
        self._entries: list[Entry] = []
        self._new: dict[str, bytes] = {}
        self._stored: dict[str, bytes] = {}
        self._before: dict[Account, tuple[int, int | None]] = {}
        self._changed: dict[Account, None] = {}
        self._tables: dict[tuple[Any, tuple[str, ...]], Rows] = {}
        self._mark: tuple[int, int, bytes] = (0, 0, b"")
        self._counters: dict[Any, int] = {}
        self._plain = plain
        self._next = None if version is None else (version[0] + 1, version[1])
        if cache.state is not None and version is not None and cache.version == version:
            found = cache.state
        else:
            cache.tables.clear()
            state = connection.exec_driver_sql(_STATE).one_or_none()
            found = (0, GENESIS, None) if state is None else (state[0], bytes(state[1]), state[2])
        if not plain:
            cache.tables.clear()
        if cache.state != found or len(cache.accounts) > _CACHE_MAX:
            cache.clear()
            cache.next_id = (connection.scalar(select(func.max(AccountRow.id))) or 0) + 1
        self._state = found
        self.seq: int = found[0]
        self.head: bytes = found[1]
        self.begin_request()

    # Requests.

    def begin_request(self) -> None:
        """Keep what was done so far, whatever becomes of the next request."""
        self._changed.update(dict.fromkeys(self._before))
        self._before.clear()
        self._mark = (len(self._entries), self.seq, self.head)
        for rows in self._tables.values():
            rows.commit_request()

    def undo_request(self) -> None:
        """Take back all that was done since the last `begin_request`."""
        for account, (balance, floor) in self._before.items():
            account.balance, account.floor = balance, floor
        self._before.clear()
        count, self.seq, self.head = self._mark
        for entry in self._entries[count:]:
            del self._new[entry[1]]
        del self._entries[count:]
        for rows in self._tables.values():
            rows.undo_request()

    # Accounts.

    def load_accounts(self, names: Iterable[str]) -> None:
        """Read the accounts that are not known yet, in few statements; those that do not exist are new and empty."""
        accounts = self._cache.accounts
        missing = [name for name in dict.fromkeys(names) if name not in accounts]
        columns = (AccountRow.id, AccountRow.name, AccountRow.kind, AccountRow.floor_wei, AccountRow.balance_wei)
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            for row in self.connection.execute(select(*columns).where(AccountRow.name.in_(chunk))):
                accounts[row.name] = Account(*row, is_new=False)
            for name in chunk:
                if name not in accounts:
                    kind = kind_of(name)
                    accounts[name] = Account(self._cache.next_id, name, kind, floor_of(kind), 0, is_new=True)
                    self._cache.next_id += 1

    def account(self, name: str) -> Account:
        """The account called `name`; InvalidRequest where there can be none."""
        found = self._cache.accounts.get(name)
        if found is None:
            self.load_accounts([name])
            found = self._cache.accounts[name]
        return found

    def set_floor(self, account: Account, floor: int) -> None:
        """Promise that the balance of an account stays at or above `floor`."""
        self._before.setdefault(account, (account.balance, account.floor))
        account.floor = floor

    # Entries.

    def post(self, transfers: Iterable[Transfer]) -> int:
        """Post transfers as one request does; how many of them were new. All floors hold afterwards, or none is posted.

        Raises InsufficientBalance naming the account, and LedgerConflict for a known id with other contents.
        """
        transfers = list(transfers)
        if self._known:
            self._look_up(transfer.id for transfer in transfers)
        accounts, before, new, entries = self._cache.accounts, self._before, self._new, self._entries
        seq, head, now, first, stored = self.seq, self.head, self.now, len(entries), self._stored
        debited: dict[Account, None] = {}
        for transfer in transfers:
            name, digest, giver, taker, amount, text, kind, reference, document = transfer.parts
            if name in new or name in stored:
                if new.get(name, stored.get(name)) != digest:
                    raise LedgerConflict(
                        f"transfer {name} is in the ledger with other contents; an id may only bring the same again"
                    )
                continue
            debit, credit = accounts.get(giver), accounts.get(taker)
            if debit is None or credit is None:
                self.load_accounts(name for t in transfers for name in (t.debit, t.credit))
                debit, credit = accounts[giver], accounts[taker]
            if debit not in before:
                before[debit] = (debit.balance, debit.floor)
            if credit not in before:
                before[credit] = (credit.balance, credit.floor)
            debit.balance -= amount
            credit.balance += amount
            debited[debit] = None
            seq += 1
            at = transfer.at
            if at is None:
                at = now
            # `verify.entry_hash`, written out: this loop is the cost of a posting beyond the database's own.
            head = sha256(head + seq.to_bytes(8, "big") + at.to_bytes(8, "big", signed=True) + digest).digest()
            new[name] = digest
            entries.append((seq, name, debit.id, credit.id, text, kind, reference, at, document, digest, head))
        self.seq, self.head = seq, head
        for account in debited:
            floor, balance = account.floor, account.balance
            if (floor is not None and balance < floor) or balance < -WEI_MAX:
                raise _below(account, before[account][0])
        return len(entries) - first

    def posted_wei(self, transfer_id: str) -> int:
        """The amount of a transfer that an earlier batch posted; 0 where there is none."""
        found = self.connection.scalar(select(TransferRow.amount_wei).where(TransferRow.id == transfer_id))
        return 0 if found is None else found

    def _look_up(self, ids: Iterable[str]) -> None:
        missing = [name for name in ids if name not in self._new and name not in self._stored]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            found = self.connection.execute(select(TransferRow.id, TransferRow.digest).where(TransferRow.id.in_(chunk)))
            self._stored.update((row.id, bytes(row.digest)) for row in found)

    # Other tables, and messages.

    def rows(self, table: Any, *, key: tuple[str, ...] = ()) -> Rows:
        """The rows of a table, as this batch has changed them so far."""
        found = self._tables.get((table, key))
        if found is None:
            kept = self._cache.tables.get(table) if not key else None
            found = kept.go_on(self.connection) if kept else Rows(self.connection, table, key=key)
            self._tables[table, key] = found
        return found

    def next_number(self, column: Any) -> int:
        """One more than the highest number in `column`, and than what this returned before."""
        if column not in self._counters:
            self._counters[column] = self.connection.scalar(select(func.max(column))) or 0
        self._counters[column] += 1
        return self._counters[column]

    def send(self, topic: str, key: str, payload: Mapping[str, Any], *, at: int) -> bool:
        """Put a message into the outbox; False where one of that key is there already."""
        outbox = self.rows(OutboxRow, key=("key",))
        if outbox.get(key) is not None:
            return False
        outbox.put(
            {
                "id": self.next_number(OutboxRow.id),
                "topic": topic,
                "key": key,
                "payload": canonical(payload).decode(),
                "created_at": at,
                "attempts": 0,
                "next_attempt_at": at,
                "delivered_at": None,
                "error": None,
            }
        )
        return True

    def flush(self) -> None:
        """Write everything, in an order in which all references hold."""
        self.begin_request()
        self._insert_accounts()
        if self._entries:
            insert_transfers(self.connection, self._entries)
        changed = [(a.balance, a.floor, a.id) for a in self._changed if not a.is_new]
        if changed:
            update_balances(self.connection, changed)
        order = _order(frozenset(table.__table__ for table, _ in self._tables))
        for key in sorted(self._tables, key=lambda key: order[key[0].__table__]):
            self._tables[key].flush()

    def _insert_accounts(self) -> None:
        new = [account for account in self._changed if account.is_new]
        if new:
            self.connection.execute(
                insert(AccountRow),
                [
                    {"id": a.id, "name": a.name, "kind": a.kind, "floor_wei": a.floor, "balance_wei": a.balance}
                    for a in new
                ],
            )

    def committed(self) -> None:
        """Remember the accounts for the next batch: the transaction has been committed."""
        for account in self._changed:
            account.is_new = False
        epoch = self._counters.get(EpochRow.number, self._state[2])
        self._cache.state = (self.seq, self.head, epoch)
        self._cache.version = self._next if self._plain else None
        views = {table for table, key in self._tables if key}  # by which the same rows may have changed
        for (table, _), rows in self._tables.items():
            if table in views:
                self._cache.tables.pop(table, None)
            elif table in KEPT:
                self._cache.tables[table] = rows


def _below(account: Account, had_wei: int) -> InsufficientBalance:
    wanted_wei = had_wei - account.balance
    if account.floor is None:
        return InsufficientBalance(
            f"{account.name} would stand at {format_ros(account.balance)}, below what a contract can hold; nothing was "
            "posted"
        )
    if account.kind == Kind.AVAILABLE:
        remedy = "deposit more or ask for less"
    elif account.kind in (Kind.EARNED, Kind.REVENUE):
        remedy = "what a posted root promises stays there until it is claimed"
    else:
        remedy = "nothing was posted"
    return InsufficientBalance(
        f"{account.name} would have to give {format_ros(wanted_wei)} and has {format_ros(had_wei - account.floor)}; "
        f"{remedy}"
    )


@functools.cache
def _order(tables: frozenset[Table]) -> dict[Table, int]:
    """The place of each table after those that it refers to. Not among all that there are: another thread may import a
    module with more of them just now, and one that is half made cannot be sorted."""
    return {table: place for place, table in enumerate(sort_tables(sorted(tables, key=str)))}
