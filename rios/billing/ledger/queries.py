"""Questions to the ledger. Each reads one state of the database and does not wait for the writer.

Amounts are summed in Python: SQLite keeps them as text, and a float must never come near them. What can be long is
streamed, so that a million rows need no memory to speak of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    CursorResult,
    Select,
    and_,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.orm import aliased

from rios.billing.books import TOKENS_IN, TOKENS_OUT, PriceBook
from rios.billing.budgets import Period, room_wei
from rios.billing.ledger import audit, epochs, holds, invoices, refunds, settling, volumes
from rios.billing.ledger.accounts import Kind, check_user, kind_of, user_account
from rios.billing.ledger.chain import ChainCursor, ChainEvent, as_event
from rios.billing.ledger.spending import start_of
from rios.billing.ledger.values import (
    Balance,
    Budget,
    CreditNote,
    Entry,
    Epoch,
    EpochCharge,
    Grant,
    Hold,
    HoldState,
    HoldStep,
    Invoice,
    Standing,
    StatementLine,
    Totals,
    Usage,
)
from rios.billing.parameters import PARAMETERS
from rios.storage import models as m
from rios.storage.engine import Database
from rios.storage.gateway_models import QuotaRow
from rios.words.errors import InvalidRequest, PriceBookError
from rios.words.ids import Address
from rios.words.money import Wei

_STREAM = 5_000
PARAMETER_SET = "ParameterSet"
"""The event by which a vote sets one of the network's own parameters."""
GROUPS = ("worker", "owner", "user", "model", "deployment", "day", "resource", "line")
"""What costs can be grouped by."""
_DAY_US = 86_400 * 10**6


class Queries:
    """The questions. `Ledger` has them and the verbs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Accounts and entries.

    def balance(self, user: str) -> Balance:
        """What `user` has; nothing for a user that nobody knows."""
        check_user(user)
        found = self.accounts(user_account(user, kind) for kind in Kind)
        amounts = {name.rpartition(":")[2]: amount for name, amount in found.items()}
        return Balance(
            user_id=user,
            deposited_wei=Wei(amounts.get("available", 0)),
            trial_wei=Wei(amounts.get("trial", 0)),
            held_wei=Wei(amounts.get("held", 0)),
            withdrawing_wei=Wei(amounts.get("withdrawing", 0)),
            overdrawn_wei=Wei(-amounts.get("overdrawn", 0)),
        )

    def accounts(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Balances in wei by account; of the accounts `names`, or of all. An account without entries is left out."""
        wanted = select(m.AccountRow.name, m.AccountRow.balance_wei)
        if names is not None:
            wanted = wanted.where(m.AccountRow.name.in_(list(names)))
        return dict(self._rows(wanted.order_by(m.AccountRow.id)))

    def claimable(self, owner: Address | str | None = None) -> dict[str, int]:
        """What roots have promised and nobody has claimed, in wei by account ("worker:0x...:earned")."""
        kinds = [str(Kind.EARNED), str(Kind.REVENUE)]
        wanted = select(m.AccountRow.name, m.AccountRow.floor_wei).where(m.AccountRow.kind.in_(kinds))
        if owner is not None:
            wanted = wanted.where(m.AccountRow.name == f"worker:{owner}:earned")
        return {name: floor for name, floor in self._rows(wanted) if floor}

    def entry(self, transfer_id: str) -> Entry | None:
        """The entry of a transfer, or None."""
        found = list(self._entries(m.TransferRow.id == transfer_id))
        return found[0] if found else None

    def entries(self, *, after: int = 0, up_to: int | None = None) -> Iterator[Entry]:
        """Entries with `after` < seq <= `up_to`, in their order, streamed."""
        wanted = m.TransferRow.seq > after
        if up_to is not None:
            wanted = and_(wanted, m.TransferRow.seq <= up_to)
        return self._entries(wanted)

    def postings(self, usage_id: str) -> list[Entry]:
        """The entries that posted a usage record."""
        ids = [f"{usage_id}:{part}" for part in ("worker", "platform")]
        return list(self._entries(m.TransferRow.id.in_(ids)))

    def hold_entries(self, hold_id: str) -> list[Entry]:
        """The entries that set a hold aside and gave the rest of it back."""
        steps = [f"hold:{step.step}" for step in self.hold_steps(hold_id)]
        ids = [f"{hold_id}:{what}:{kind}" for what in (*steps, "release") for kind in (Kind.TRIAL, Kind.AVAILABLE)]
        return list(self._entries(m.TransferRow.id.in_(ids)))

    def statement(self, account: str, *, after: int = 0) -> Iterator[StatementLine]:
        """All entries of an account in their order, streamed, with its balance after each; those after seq `after`."""
        kind_of(account)
        number = self._scalar(select(m.AccountRow.id).where(m.AccountRow.name == account))
        balance = 0
        for entry in self._entries(or_(m.TransferRow.debit_id == number, m.TransferRow.credit_id == number)):
            amount = entry.amount_wei if entry.credit == account else -entry.amount_wei
            balance += amount
            if entry.seq > after:
                other = entry.debit if entry.credit == account else entry.credit
                yield StatementLine(entry=entry, other=other, amount_wei=amount, balance_wei=balance)

    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last entry; (0, 32 zero bytes) in an empty ledger."""
        with self._database.reading() as connection:
            return audit.head(connection)

    def totals(self) -> Totals:
        """Go over all entries: sum them up by account, compare with the balances, and check the hash chain."""
        with self._database.reading() as connection:
            return audit.totals(connection)

    def verify_hash_chain(self) -> int | None:
        """The number of the first entry that is missing or was changed; None where all are as they were posted."""
        return self.totals().broken_at

    # Holds, budgets, usage.

    def hold_of(self, hold_id: str) -> Hold | None:
        """A hold, or None."""
        return next(iter(self._holds(m.HoldRow.id == hold_id)), None)

    def holds(self, *, user: str | None = None, state: HoldState | None = None) -> list[Hold]:
        """Holds, oldest first; of one user, in one state."""
        wanted = []
        if user is not None:
            wanted.append(m.HoldRow.user_id == user)
        if state is not None:
            wanted.append(m.HoldRow.state == str(state))
        return self._holds(*wanted)

    def overdue(self, at: int) -> list[Hold]:
        """Live holds whose time, or hour of grace, was over at `at`: settle what was done, then `expire`."""
        return self._holds(holds.overdue_at(at))

    def hold_steps(self, hold_id: str) -> list[HoldStep]:
        """The steps of a hold."""
        wanted = select(m.HoldStepRow.__table__).where(m.HoldStepRow.hold_id == hold_id).order_by(m.HoldStepRow.step)
        return [HoldStep(**row) for row in self._mappings(wanted)]

    def budgets(self, user: str, *, at: int) -> list[Budget]:
        """The budgets of a user, with what was spent in the periods around `at` and what is held now."""
        held = self.balance(user).held_wei
        found = []
        for row in self._mappings(select(m.BudgetRow.__table__).where(m.BudgetRow.user_id == user)):
            if row["limit_wei"] < 0:
                continue
            period = Period(row["period"])
            found.append(
                Budget(
                    user_id=user,
                    period=period,
                    limit_wei=row["limit_wei"],
                    alerts_bp=tuple(json.loads(row["alerts"])),
                    hard=row["hard"],
                    spent_wei=Wei(self.spent(user, period, at=at)),
                    held_wei=held,
                )
            )
        return found

    def room(self, user: str, *, at: int) -> Wei:
        """The most that could be held for a user at `at`, in wei: by its balance, its hard budgets, and what an admin
        allows it in a day."""
        balance = self.balance(user)
        limits = [(one.limit_wei, one.spent_wei) for one in self.budgets(user, at=at) if one.hard]
        allowed = self._scalar(select(QuotaRow.spend_wei).where(QuotaRow.user_id == user))
        if allowed is not None:
            limits.append((allowed, Wei(self.spent(user, Period.DAY, at=at))))
        rooms = (room_wei(limit, spent_wei=spent, held_wei=balance.held_wei) for limit, spent in limits)
        return min([balance.available_wei, *rooms])

    def spent(self, user: str, period: Period, *, at: int) -> int:
        """What a user spent in the period around `at`, in wei."""
        key = (m.SpendingRow.user_id == user, m.SpendingRow.period == str(period))
        wanted = select(m.SpendingRow.spent_wei).where(*key, m.SpendingRow.start == start_of(period, at))
        return self._scalar(wanted) or 0

    def usage_of(self, usage_id: str) -> Usage | None:
        """A usage record, or None."""
        row = self._first(select(m.UsageRow.__table__).where(m.UsageRow.id == usage_id))
        return None if row is None else settling.as_usage(row)

    def usage(self, **filters: Any) -> Iterator[Usage]:
        """Usage records by time, streamed.

        filters: user, model, deployment, worker, owner, resource, request_id, hold_id, epoch (a value each), unsettled
        (True: of no epoch yet), since and until (microseconds; `until` itself excluded).
        """
        wanted = select(m.UsageRow.__table__).where(*_usage_filters(filters)).order_by(m.UsageRow.at, m.UsageRow.id)
        return map(settling.as_usage, self._mappings(wanted))

    def tokens(self) -> int:
        """How many tokens all users read and wrote."""
        row = m.UsageRow
        # Of tokens, unlike of money, both databases can add up more than will ever be.
        wanted = select(func.sum(cast(row.quantity, BigInteger))).where(row.resource.in_((TOKENS_IN, TOKENS_OUT)))
        return int(self._scalar(wanted) or 0)

    def costs(self, by: str, **filters: Any) -> dict[str, Wei]:
        """What usage cost less what was refunded, in wei, by worker, owner, user, model, deployment, day, resource or
        line; `filters` as for `usage`. Days are of UTC, as "2026-11-25"."""
        columns = {"user": m.UsageRow.user_id, "day": m.UsageRow.at}
        if by not in GROUPS:
            raise InvalidRequest(f"costs cannot be grouped by {by!r}; only by {', '.join(GROUPS)}")
        column = columns.get(by) or getattr(m.UsageRow, by)
        wanted = select(column, m.UsageRow.amount_wei, m.UsageRow.refunded_wei).where(*_usage_filters(filters))
        sums: dict[Any, int] = {}
        for key, amount, refunded in self._rows(wanted):
            key = key // _DAY_US if by == "day" else key
            sums[key] = sums.get(key, 0) + amount - refunded
        return {_day(key) if by == "day" else key: Wei(sums[key]) for key in sorted(sums)}

    def credit_notes(self, *, user: str | None = None, usage_id: str | None = None) -> list[CreditNote]:
        """Refunds in their order; of one user, of one usage record."""
        wanted = select(m.CreditNoteRow.__table__).order_by(m.CreditNoteRow.number)
        if user is not None:
            wanted = wanted.where(m.CreditNoteRow.user_id == user)
        if usage_id is not None:
            wanted = wanted.where(m.CreditNoteRow.usage_id == usage_id)
        return [refunds.as_note(row) for row in self._mappings(wanted)]

    def invoices(self, user: str) -> list[Invoice]:
        """The invoices that were issued to a user."""
        with self._database.reading() as connection:
            return invoices.issued(connection, user)

    # Epochs, price books, the chain.

    def epochs(self) -> list[Epoch]:
        """All closed epochs, the last one at the end."""
        wanted = select(m.EpochRow.__table__).order_by(m.EpochRow.number)
        return [epochs.as_epoch(row) for row in self._mappings(wanted)]

    def epoch(self, number: int) -> Epoch | None:
        """A closed epoch, or None."""
        row = self._first(select(m.EpochRow.__table__).where(m.EpochRow.number == number))
        return None if row is None else epochs.as_epoch(row)

    def leaves(self, number: int) -> dict[Address, Wei]:
        """What each address had earned at the end of an epoch, since the beginning."""
        wanted = select(m.EpochLeafRow.address, m.EpochLeafRow.cumulative_wei)
        wanted = wanted.where(m.EpochLeafRow.epoch == number).order_by(m.EpochLeafRow.address)
        return {Address(address): Wei(amount) for address, amount in self._rows(wanted)}

    def charges(self, number: int) -> list[EpochCharge]:
        """What each user pays for an epoch."""
        wanted = select(m.EpochChargeRow.user_id, m.EpochChargeRow.amount_wei, m.EpochChargeRow.trial_wei)
        wanted = wanted.where(m.EpochChargeRow.epoch == number).order_by(m.EpochChargeRow.user_id)
        return [EpochCharge(**row) for row in self._mappings(wanted)]

    def price_book(self, digest: str) -> PriceBook:
        """The price book of a digest that was published or pinned by a hold, or PriceBookError."""
        document = self._scalar(select(m.PriceBookRow.document).where(m.PriceBookRow.digest == digest))
        if document is None:
            raise PriceBookError(f"the ledger has no price book {digest}; only published ones and those of its holds")
        return PriceBook.from_dict(json.loads(document))

    def price_book_at(self, at: int) -> PriceBook | None:
        """The published price book in force at `at`: the latest that had begun, of equal ones the higher version."""
        with self._database.reading() as connection:
            return volumes.book_at(connection, at)

    def standing(self, user: str, at: int) -> Standing:
        """What the prices of `user` depend on at `at`: the book in force, its discount, what it used in the month."""
        with self._database.reading() as connection:
            return volumes.standing(connection, user, at=at)

    def discounts(self, *, after: tuple[int, str] = (-1, ""), limit: int | None = None) -> list[Grant]:
        """The discounts that were given to accounts and organisations, ended ones too, by subject and beginning.

        after: `since` and `subject` of the last one before.
        """
        with self._database.reading() as connection:
            return volumes.grants(connection, after=after, limit=limit)

    def parameters(self) -> dict[str, int]:
        """The parameters of the network that a vote has set, by name, within their bounds; one of 0 is set no more."""
        said = {event.args["name"]: int(event.args["value"]) for event in self.chain_events(name=PARAMETER_SET)}
        known = {f"0x{one.key.hex()}": one for one in PARAMETERS.values() if one.of_network}
        return {known[key].name: known[key].within(value) for key, value in said.items() if value and key in known}

    def cursor(self, name: str) -> ChainCursor | None:
        """How far the chain was followed under `name`, or None."""
        row = self._first(select(m.ChainCursorRow.__table__).where(m.ChainCursorRow.name == name))
        return None if row is None else ChainCursor(**row)

    def chain_events(self, *, name: str | None = None, from_block: int = 0) -> list[ChainEvent]:
        """The events that are in the ledger now, in the order of the chain."""
        wanted = select(m.ChainEventRow.__table__).where(m.ChainEventRow.applied == 1)
        if name is not None:
            wanted = wanted.where(m.ChainEventRow.name == name)
        order = (m.ChainEventRow.block, m.ChainEventRow.log_index)
        rows = self._mappings(wanted.where(m.ChainEventRow.block >= from_block).order_by(*order))
        return [as_event(row) for row in rows]

    def address_of(self, user: str) -> Address | None:
        """The address that `user` was linked to, or None."""
        found = self._scalar(select(m.UserRow.address).where(m.UserRow.id == user))
        return None if found is None else Address(found)

    def user_of(self, address: Address | str) -> str | None:
        """The user that `address` was linked to, or None."""
        found: str | None = self._scalar(select(m.UserRow.id).where(m.UserRow.address == address))
        return found

    # How the questions are put.

    def _rows(self, wanted: Select[*tuple[Any, ...]]) -> Iterator[Any]:
        # Who asks may stop before the end, and the server's cursor is closed then.
        with self._database.reading() as connection, _streamed(connection, wanted) as result:
            yield from result

    def _mappings(self, wanted: Select[*tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
        with self._database.reading() as connection, _streamed(connection, wanted) as result:
            for row in result.mappings():
                yield dict(row)

    def _first(self, wanted: Select[*tuple[Any, ...]]) -> dict[str, Any] | None:
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
        return None if row is None else dict(row)

    def _scalar(self, wanted: Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None) -> Any:
        with self._database.reading() as connection:
            return connection.scalar(wanted, values)

    def _holds(self, *wanted: ColumnElement[bool]) -> list[Hold]:
        query = select(m.HoldRow.__table__).where(*wanted).order_by(m.HoldRow.created_at, m.HoldRow.id)
        return [holds.as_hold(row) for row in self._mappings(query)]

    def _entries(self, wanted: ColumnElement[bool]) -> Iterator[Entry]:
        debit, credit, t = aliased(m.AccountRow), aliased(m.AccountRow), m.TransferRow
        columns = (t.seq, t.id, debit.name, credit.name, t.amount_wei, t.kind, t.reference, t.at, t.payload)
        query = (
            select(*columns, t.digest, t.hash)
            .join(debit, debit.id == t.debit_id)
            .join(credit, credit.id == t.credit_id)
            .where(wanted)
            .order_by(t.seq)
        )
        return (Entry(*row) for row in self._rows(query))


def _streamed(connection: Connection, wanted: Select[*tuple[Any, ...]]) -> CursorResult[Any]:
    return connection.execution_options(yield_per=_STREAM).execute(wanted)


def _usage_filters(filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    for name, value in filters.items():
        if value is None:
            continue
        if name == "since":
            wanted.append(m.UsageRow.at >= value)
        elif name == "until":
            wanted.append(m.UsageRow.at < value)
        elif name == "unsettled":
            wanted.append(m.UsageRow.epoch.is_(None) if value else m.UsageRow.epoch.is_not(None))
        elif name == "user":
            wanted.append(m.UsageRow.user_id == value)
        elif name in ("model", "deployment", "worker", "owner", "resource", "request_id", "hold_id", "epoch"):
            wanted.append(getattr(m.UsageRow, name) == value)
        else:
            raise InvalidRequest(f"usage cannot be filtered by {name!r}")
    return wanted


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86_400, UTC).date().isoformat()
