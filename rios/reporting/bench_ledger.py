"""What the ledger costs, measured against the drivers themselves on the same database.

Each function takes URLs of empty databases, so the notebook and the tests can give it SQLite files or a PostgreSQL. The
writer and what it is compared with take turns in one run, round by round, so that a busy machine slows both.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rios.billing.ledger import Ledger, Transfer
from rios.storage import migrate
from rios.storage.bulk import BALANCES, BALANCES_POSTGRES, INSERT, INSERT_POSTGRES
from rios.storage.engine import Database

_WEI = 10**15


@dataclass(frozen=True, slots=True)
class Speed:
    """Postings per second, each the median of the rounds."""

    writer: float
    other: float

    @property
    def ratio(self) -> float:
        """How many times faster the writer is."""
        return self.writer / self.other


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One pass over all entries."""

    entries: int
    seconds: float
    peak_bytes: int
    """What Python allocated at most."""
    sound: bool


def against_driver(
    ledger_url: str, driver_url: str, *, batch: int = 1_000, batches: int = 10, rounds: int = 8, accounts: int = 1_000
) -> Speed:
    """Durable postings by the writer, and the same rows in the same batches by the driver's own executemany.

    The first half of as many rounds again warms up: a file that has just begun to grow is not what a ledger lives in.
    """
    with Ledger.open(ledger_url) as ledger, _driver(driver_url) as driver:
        _fill(ledger, accounts)
        done, ours, theirs = 0, list[float](), list[float]()
        for number in range(rounds + rounds // 2):
            work = [
                [_transfer(number * batches + place, index, accounts) for index in range(batch)]
                for place in range(batches)
            ]
            ours.append(_timed(ledger.post, [(transfers,) for transfers in work]))
            rows = list(_rows(ledger, done, batch))
            done = rows[-1][0][-1][0]
            theirs.append(_timed(driver.write, rows))
    count = batch * batches
    return Speed(*(count / statistics.median(times[-rounds:]) for times in (ours, theirs)))


def hot_account(
    ledger_url: str, naive_url: str, *, clients: int = 8, postings: int = 4_000, naive_postings: int = 400
) -> Speed:
    """Postings that all credit one account, from `clients` at once: by the writer, and in a transaction for each.

    The naive transaction reads both balances, inserts the row, and updates both.
    """
    with Ledger.open(ledger_url) as ledger:
        _fill(ledger, clients)

        def post(client: int) -> None:
            answers = [ledger.submit([_hot(client, number)]) for number in range(postings // clients)]
            for answer in answers:
                answer.result(60)

        ours = _together(post, clients)
    with Ledger.open(naive_url) as ledger:
        _fill(ledger, clients)
        ledger.post([_hot(client, 0) for client in range(clients)])

    def naive(client: int) -> None:
        with _driver(naive_url) as driver:
            for number in range(1, naive_postings // clients + 1):
                driver.post(_hot(client, number))

    theirs = _together(naive, clients)
    done = clients * (naive_postings // clients)
    return Speed(clients * (postings // clients) / ours, done / theirs)


def reconcile(url: str, *, entries: int, accounts: int = 1_000, trace: bool = True) -> Reconciled:
    """Go over `entries` postings, which are made first: seconds, memory, and whether they are sound.

    trace: measure memory too, which makes it several times slower; ask for the two in turn.
    """
    with Ledger.open(url) as ledger:
        have = ledger.head()[0]
        if not have:
            _fill(ledger, accounts)
        step = 4_000
        for place in range(0, entries - ledger.head()[0], step):
            ledger.post([_transfer(place, index, accounts) for index in range(min(step, entries - ledger.head()[0]))])
        if trace:
            tracemalloc.start()
        began = time.perf_counter()
        found = ledger.totals()
        seconds = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1] if trace else 0
        if trace:
            tracemalloc.stop()
    return Reconciled(found.entries, seconds, peak, found.sound)


def _user(number: int) -> str:
    return f"user:u{number}:available"


def _fill(ledger: Ledger, accounts: int) -> None:
    ledger.post(
        Transfer(id=f"fill-{n}", debit="treasury", credit=_user(n), amount_wei=10**30, kind="trial")
        for n in range(accounts)
    )


def _transfer(batch: int, index: int, accounts: int) -> Transfer:
    return Transfer(
        id=f"bench-{batch}-{index}",
        debit=_user(index % accounts),
        credit=_user((index * 7 + 1 + (index * 7 + 1 == index)) % accounts),
        amount_wei=_WEI + index,
        kind="usage",
        reference=f"u-{batch:016x}{index:016x}",
    )


def _hot(client: int, number: int) -> Transfer:
    return Transfer(
        id=f"hot-{client}-{number}",
        debit=_user(client),
        credit="platform:revenue",
        amount_wei=_WEI,
        kind="usage",
        reference=f"u-{client:016x}{number:016x}",
    )


def _timed(run: Callable[..., Any], arguments: Iterable[tuple[Any, ...]] = ((),)) -> float:
    # As `timeit` does: the many prepared rows would be gone over again and again.
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        for each in arguments:
            run(*each)
        return time.perf_counter() - began
    finally:
        gc.enable()


def _together(run: Callable[[int], None], clients: int) -> float:
    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]

    def all_of_them() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _timed(all_of_them)


def _rows(ledger: Ledger, after: int, batch: int) -> Iterator[tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]:
    """The rows that the ledger wrote after entry `after`, by batches: entries, and balances of the accounts in them."""
    with ledger.database.reading() as connection:
        numbers = {name: number for number, name in connection.exec_driver_sql("SELECT id, name FROM accounts")}
    page: list[tuple[Any, ...]] = []
    entries = [entry for entry in ledger.entries(after=after) if not entry.id.startswith("fill-")]
    for entry in entries:
        page.append(
            (
                entry.seq,
                entry.id,
                numbers[entry.debit],
                numbers[entry.credit],
                str(entry.amount_wei),
                entry.kind,
                entry.reference,
                entry.at,
                entry.document,
                entry.digest,
                entry.hash,
            )
        )
        if len(page) == batch:
            touched = sorted({number for row in page for number in row[2:4]})
            yield page, [(str(10**30), "0", number) for number in touched]
            page = []


class _Driver:
    """A database by its driver alone, with the ledger's tables and settings."""

    def __init__(self, database: Database) -> None:
        self._sqlite = database.is_sqlite
        self._connection: Any = database.engine.raw_connection()
        self._known = False

    def close(self) -> None:
        self._connection.close()

    def write(self, entries: Sequence[tuple[Any, ...]], balances: Sequence[tuple[Any, ...]]) -> None:
        """One batch, one commit."""
        cursor = self._begin()
        if not self._known:
            accounts = [(row[-1], f"user:u{row[-1]}:available", "available", "0", str(10**30)) for row in balances]
            mark = "?" if self._sqlite else "%s"
            cursor.executemany(f"INSERT INTO accounts VALUES ({', '.join([mark] * 5)})", accounts)  # noqa: S608
            self._known = True
        cursor.executemany(INSERT if self._sqlite else INSERT_POSTGRES, entries)
        cursor.executemany(BALANCES if self._sqlite else BALANCES_POSTGRES, balances)
        self._commit(cursor)

    def post(self, transfer: Transfer) -> None:
        """One transfer as a transaction of its own."""
        mark = "?" if self._sqlite else "%s"
        lock = "" if self._sqlite else " FOR UPDATE"
        cursor = self._begin()
        found = {}
        for name in (transfer.debit, transfer.credit):
            cursor.execute(f"SELECT id, balance_wei, floor_wei FROM accounts WHERE name = {mark}{lock}", (name,))  # noqa: S608
            found[name] = cursor.fetchone()
        debit, credit = found[transfer.debit], found[transfer.credit]
        cursor.execute("SELECT seq, hash FROM transfers ORDER BY seq DESC LIMIT 1")
        seq, _ = cursor.fetchone()
        row = (seq + 1, transfer.id, debit[0], credit[0], str(transfer.amount_wei), transfer.kind, transfer.reference)
        cursor.execute(INSERT if self._sqlite else INSERT_POSTGRES, (*row, 0, None, transfer.digest, transfer.digest))
        update = BALANCES if self._sqlite else BALANCES_POSTGRES
        for account, amount in ((debit, -transfer.amount_wei), (credit, transfer.amount_wei)):
            cursor.execute(update, (str(int(account[1]) + amount), str(account[2]), account[0]))
        self._commit(cursor)

    def _begin(self) -> Any:
        cursor = self._connection.cursor()
        if self._sqlite:
            cursor.execute("BEGIN IMMEDIATE")
        return cursor

    def _commit(self, cursor: Any) -> None:
        if self._sqlite:
            cursor.execute("COMMIT")
        else:
            self._connection.commit()
        cursor.close()


@contextmanager
def _driver(url: str) -> Iterator[_Driver]:
    database = Database(url, timeout_s=60)
    migrate.upgrade(database)
    driver = _Driver(database)
    try:
        yield driver
    finally:
        driver.close()
        database.close()
