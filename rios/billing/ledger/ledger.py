"""The ledger: double entry, only ever added to, on SQLite or PostgreSQL, shared by threads and processes.

Every verb is one transaction, done when it returns, and repeatable: the same id with the same contents changes nothing,
with other contents it is a LedgerConflict. A verb ends by the ledger's deadline, with LedgerUnavailable where the
database does not answer; whether it was done is then unknown, so do the same again with the same id.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Self, TypeVar

from rios.billing.books import PriceBook
from rios.billing.budgets import BUDGET_ALERTS_BP, Period
from rios.billing.ledger import (
    chain,
    documents,
    epochs,
    holds,
    invoices,
    money,
    refunds,
    settling,
    spending,
    volumes,
    withdrawals,
)
from rios.billing.ledger.accounts import SPENDABLE, earned, owed
from rios.billing.ledger.batch import Batch
from rios.billing.ledger.chain import ChainCursor, ChainEvent
from rios.billing.ledger.entries import Transfer
from rios.billing.ledger.queries import Queries
from rios.billing.ledger.values import CreditNote, Epoch, EpochState, Grant, Hold, HoldState, Invoice, Settled, Wanted
from rios.billing.ledger.withdrawals import Asked
from rios.billing.ledger.writer import Reads, Request, Writer
from rios.billing.pricing import Terms
from rios.billing.rating import Charge
from rios.storage import migrate
from rios.storage.engine import Database
from rios.storage.models import HoldRow, HoldStepRow, UsageRow, UserRow, VolumeRow
from rios.words.errors import InvalidRequest, LedgerUnavailable
from rios.words.ids import Address
from rios.words.keccak import Hash, keccak256

T = TypeVar("T")
DEFAULT_TIMEOUT_S = 10.0
# A verb waits a little longer than the writer tries, so that it hears why it failed.
_SLACK_S = 2.0
_AT_MAX = 2**53
# An invoice is drawn anew when a refund of the user comes between.
_DRAWN_MAX = 10


def clock_us() -> int:
    """Microseconds of UTC since 1970."""
    return time.time_ns() // 1000


class Ledger(Queries):
    """An open ledger. Close it, or use it as a context manager."""

    def __init__(self, database: Database, *, clock: Callable[[], int]) -> None:
        """Use `Ledger.open`."""
        super().__init__(database)
        self._clock = clock
        self._writer = Writer(database, clock)

    @classmethod
    def open(
        cls, url: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S, clock: Callable[[], int] = clock_us
    ) -> Self:
        """Open the ledger at `url`: "sqlite:////path/to/ledger.sqlite", "postgresql://user@host/name", or None for a
        private one that is gone when it is closed.

        An empty database gets the tables, an older one is brought up to date. Raises LedgerUnavailable for a newer or
        foreign one, and where it does not answer within `timeout_s` seconds.

        clock: microseconds of UTC since 1970, for all that brings no time of its own. It may jump.
        """
        database = Database(url, timeout_s=timeout_s)
        try:
            migrate.upgrade(database)
        except BaseException:
            database.close()
            raise
        return cls(database, clock=clock)

    def __repr__(self) -> str:
        return f"<Ledger in {self._database.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is under way and close the database."""
        self._writer.close()
        self._database.close()

    @property
    def database(self) -> Database:
        """What it is kept in, for those who keep tables beside it."""
        return self._database

    def now(self) -> int:
        """The ledger's clock."""
        return self._clock()

    # Entries.

    def post(self, transfers: Iterable[Transfer]) -> int:
        """Post transfers, all or none; how many of them were new.

        Raises InsufficientBalance where an account would fall below its floor, and LedgerConflict for a known id with
        other contents.
        """
        return self._wait(self.submit(transfers))

    def submit(self, transfers: Iterable[Transfer]) -> Future[int]:
        """As `post`, without waiting: the answer comes by the future."""
        wanted = list(transfers)
        return self._submit(lambda batch: batch.post(wanted), weight=len(wanted), plain=True)

    def deposit(
        self,
        id: str,  # noqa: A002
        user: str,
        amount_wei: int,
        *,
        reference: str = "",
        at: int | None = None,
    ) -> None:
        """Credit a deposit that the escrow contract has; what the user has overdrawn is repaid first."""
        when = self._at(at)
        self._do(
            lambda batch: money.deposit(batch, id=id, user=user, amount_wei=amount_wei, reference=reference, at=when)
        )

    def grant_trial(self, user: str, amount_wei: int, *, id: str | None = None, at: int | None = None) -> None:  # noqa: A002
        """Give trial credit from the treasury; without an id, once for each user."""
        name, when = id or f"trial:{user}", self._at(at)
        self._do(lambda batch: money.grant(batch, id=name, user=user, amount_wei=amount_wei, at=when))

    # Holds.

    def hold(
        self,
        id: str,  # noqa: A002
        user: str,
        amount_wei: int,
        *,
        request_id: str,
        terms: Terms,
        at: int | None = None,
        expires_at: int | None = None,
    ) -> Hold:
        """Set the highest price of a request aside, trial credit first, and pin its terms: see `hold_all`."""
        wanted = Wanted(id, user, amount_wei, request_id=request_id, terms=terms)
        return self.hold_all([wanted], at=at, expires_at=expires_at)[0]

    def hold_all(self, wanted: Sequence[Wanted], *, at: int | None = None, expires_at: int | None = None) -> list[Hold]:
        """Set the highest prices of requests aside, all or none, trial credit first, and pin their terms.

        expires_at: when they may be released as forgotten; a day from `at` without.
        Raises InsufficientBalance and BudgetExceeded before anything is held.
        """
        when = self._at(at)
        accounts = [f"user:{user}:{kind}" for user in {one.user for one in wanted} for kind in SPENDABLE]

        def prepare(batch: Batch) -> None:
            batch.load_accounts(accounts)
            found, steps = batch.rows(HoldRow), batch.rows(HoldStepRow)
            found.load((one.id,) for one in wanted)
            steps.load((one.id, 0) for one in wanted if found.get(one.id) is not None)

        def run(batch: Batch) -> list[Hold]:
            return [holds.place(batch, one, at=when, expires_at=expires_at) for one in wanted]

        return self._do(run, prepare=prepare, weight=4 * len(wanted), plain=True)

    def extend(self, hold_id: str, step: int, amount_wei: int, *, at: int | None = None) -> Hold:
        """Set more aside for step `step` (from 1) of a stream; a paused hold goes on.

        Raises InsufficientBalance and BudgetExceeded: pause the stream then.
        """
        when = self._at(at)
        return self._do(lambda batch: holds.extend(batch, hold_id, step, amount_wei, at=when), plain=True)

    def pause(self, hold_id: str, *, at: int | None = None, grace_us: int = holds.GRACE_US) -> Hold:
        """The stream of a hold waits for money, one hour at most."""
        when = self._at(at)
        return self._do(lambda batch: holds.pause(batch, hold_id, grace_us=grace_us, at=when), plain=True)

    def resume(self, hold_id: str) -> Hold:
        """The stream of a paused hold goes on with what is left of it."""
        return self._do(lambda batch: holds.resume(batch, hold_id), plain=True)

    def release(self, hold_id: str, *, at: int | None = None) -> Hold:
        """Give back what is left of a hold."""
        when = self._at(at)
        return self._do(lambda batch: holds.release(batch, hold_id, at=when), plain=True)

    def settle(
        self,
        hold_id: str,
        charges: Sequence[Charge],
        *,
        deployment: str = "",
        final: bool = True,
        at: int | None = None,
    ) -> Settled:
        """Post rated usage against a hold: rows, entries, spending and alerts in one transaction.

        final: release the rest; False while a stream goes on. Raises InsufficientBalance where the charges exceed what
        is held, and LedgerConflict for a known usage id with other contents.
        """
        return self.begin_settle(hold_id, charges, deployment=deployment, final=final, at=at)()

    def begin_settle(
        self,
        hold_id: str,
        charges: Sequence[Charge],
        *,
        deployment: str = "",
        final: bool = True,
        at: int | None = None,
    ) -> Callable[[], Settled]:
        """As `settle`, without waiting: what is returned waits, and raises what that does.

        Who posts much at once begins all of it first: it becomes few transactions. Raises LedgerUnavailable.
        """
        when, rated = self._at(at), tuple(charges)
        accounts = [name for charge in rated for name in (earned(charge.record.owner), owed(charge.record.owner))]

        def prepare(batch: Batch) -> None:
            hold = batch.rows(HoldRow).get(hold_id)
            if hold is not None:
                batch.rows(UserRow).load([(hold["user_id"],)])
                batch.rows(VolumeRow).load([volumes.key_of(hold["user_id"], when)])
                accounts.extend(f"user:{hold['user_id']}:{kind}" for kind in SPENDABLE)
            batch.load_accounts(accounts)

        answer = self._submit(
            lambda batch: settling.settle(batch, hold_id, rated, deployment=deployment, final=final, at=when),
            reads=((HoldRow, [(hold_id,)]), (UsageRow, [(charge.record.usage_id,) for charge in rated])),
            prepare=prepare,
            weight=4 + 3 * len(rated),
            plain=True,
        )
        return lambda: self._wait(answer)

    def expire(self, at: int | None = None) -> list[Hold]:
        """Release the holds whose time, or hour of grace, is over: those of processes that died. See `overdue`."""
        when = self._at(at)

        def run(batch: Batch) -> list[Hold]:
            ids = holds.overdue_ids(batch, when)
            return [holds.release(batch, name, at=when, state=HoldState.EXPIRED) for name in ids]

        return self._do(run, alone=True)

    # Budgets, refunds, documents.

    def set_budget(
        self,
        user: str,
        limit_wei: int | None,
        *,
        period: Period | str,
        alerts_bp: Sequence[int] = BUDGET_ALERTS_BP,
        hard: bool = True,
        at: int | None = None,
    ) -> None:
        """Set what `user` may spend in each period; None takes the budget away. A soft one only alerts."""
        when, chosen = self._at(at), Period.parse(period)
        self._do(
            lambda batch: spending.set_budget(
                batch, user, limit_wei, period=chosen, alerts_bp=alerts_bp, hard=hard, at=when
            )
        )

    def refund(
        self,
        usage_id: str,
        reason: str,
        *,
        amount_wei: int | None = None,
        note_id: str | None = None,
        at: int | None = None,
    ) -> CreditNote:
        """Give the price of a usage record back, or a part of it; without an amount what is left of it.

        The same again is the same note; who wants to give the same part twice names each (`note_id`).
        """
        when = self._at(at)
        return self._do(
            lambda batch: refunds.refund(batch, usage_id, reason, amount_wei=amount_wei, note_id=note_id, at=when)
        )

    def invoice(self, user: str, period: str, *, since: int, until: int, at: int | None = None) -> Invoice:
        """The invoice of a user and a period ("2026-11") from `since` to `until`; the first one issued stays.

        While more may come to the period it is a draft, without a number.
        """
        when = self._at(at)
        for _ in range(_DRAWN_MAX):
            with self._database.reading() as connection:
                known = next((one for one in invoices.issued(connection, user) if one.period == period), None)
                found = known or invoices.draft(connection, user, period, since=since, until=until, at=when)
            if found.number is not None or not invoices.is_over(until, when):
                return found
            done = self._do(functools.partial(invoices.issue, drawn=found, at=when), alone=True)
            if done is not None:
                return done
        raise LedgerUnavailable(f"refunds of {user} kept coming while the invoice of {period} was made; try again")

    def publish_price_book(self, book: PriceBook) -> None:
        """Keep a price book that is in force from its moment on. Raises PriceBookError for a version given twice."""
        self._do(lambda batch: documents.publish(batch, book), alone=True)

    def grant_discount(self, given: Grant, *, at: int | None = None) -> None:
        """Let a discount of the price book hold for an account or an organisation.

        One for the same that begins at the same moment takes the place of the other, so `until` ends it early.
        """
        when = self._at(at)
        self._do(lambda batch: volumes.grant(batch, given, at=when))

    # Epochs and the chain.

    def close_epoch(self, platform: Address, *, keccak: Hash = keccak256, at: int | None = None) -> Epoch | None:
        """Close an epoch over all that was earned since the last; that one again where nothing was, None before any.

        platform: the address that may claim the platform's share. keccak: a faster Keccak-256 than the built-in one.
        """
        when = self._at(at)
        return self._do(lambda batch: epochs.close(batch, platform=platform, keccak=keccak, at=when), alone=True)

    def mark_epoch(self, number: int, state: EpochState, *, tx: str | None = None) -> Epoch:
        """Say what became of an epoch's root: being posted, posted by transaction `tx`, final, challenged."""
        return self._do(lambda batch: epochs.mark(batch, number, state, tx=tx))

    def link_address(self, user: str, address: str, *, at: int | None = None) -> None:
        """Say which user the deposits of an address belong to, also those that came before."""
        when = self._at(at)
        self._do(lambda batch: money.link(batch, user, address, at=when), alone=True)

    def apply_chain(
        self, events: Sequence[ChainEvent], cursor: ChainCursor | None = None, *, at: int | None = None
    ) -> int:
        """Post what final events of the chain say and move the cursor, in one transaction; how many were new."""
        chain.check_events(events)
        when, wanted = self._at(at), list(events)
        return self._do(lambda batch: chain.apply(batch, wanted, cursor, at=when), weight=4 * len(wanted))

    def revert_chain(self, from_block: int, cursor: ChainCursor, *, at: int | None = None) -> int:
        """A reorganisation took all blocks from `from_block` on away: reverse their events; how many there were."""
        when = self._at(at)
        return self._do(lambda batch: chain.revert(batch, from_block, cursor, at=when), alone=True)

    def set_aside(self, *, at: int | None = None) -> list[Asked]:
        """Keep what is free of what withdrawals that wait ask for from being spent; those withdrawals.

        They may have found less when they were asked for, as while a hold ran; the contract pays them nevertheless.
        """
        when = self._at(at)
        with self._database.reading() as connection:
            found, movable = withdrawals.waiting(connection)
        if not movable:  # as nearly always while one waits: who posts is not kept waiting for it
            return found
        return self._do(lambda batch: withdrawals.set_aside(batch, at=when), alone=True)

    # How verbs reach the writer.

    def transact(self, run: Callable[[Batch], T], *, alone: bool = False) -> T:
        """Run `run` in a transaction of the writer, for what is kept beside the ledger; its result."""
        return self._do(run, alone=alone)

    def _at(self, at: int | None) -> int:
        when = self._clock() if at is None else at
        if type(when) is not int or not 0 <= when < _AT_MAX:
            raise InvalidRequest(f"the moment {when!r} is no number of microseconds since 1970")
        return when

    def _submit(
        self,
        run: Callable[[Batch], T],
        *,
        reads: Reads = (),
        prepare: Callable[[Batch], None] | None = None,
        weight: int = 1,
        alone: bool = False,
        plain: bool = False,
    ) -> Future[T]:
        deadline = time.monotonic() + self._database.timeout_s
        request = Request(run, deadline, reads, prepare, weight, alone, plain)
        self._writer.submit(request)
        return request.answer

    def _do(
        self,
        run: Callable[[Batch], T],
        *,
        prepare: Callable[[Batch], None] | None = None,
        weight: int = 1,
        alone: bool = False,
        plain: bool = False,
    ) -> T:
        return self._wait(self._submit(run, prepare=prepare, weight=weight, alone=alone, plain=plain))

    def _wait(self, answer: Future[T]) -> T:
        try:
            return answer.result(self._database.timeout_s + _SLACK_S)
        except FutureTimeout as error:
            if answer.done():
                raise
            raise LedgerUnavailable(
                f"the ledger in {self._database.name} did not answer within {self._database.timeout_s:g} s; whether it "
                "was done is unknown: do the same again with the same id"
            ) from error
