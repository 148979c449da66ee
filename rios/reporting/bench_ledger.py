"""What the ledger costs, measured against the drivers themselves on the same database.

Each function takes URLs of empty databases, so the notebook and the tests can give it SQLite files or a PostgreSQL. The
writer and what it is compared with run in turn, pair by pair, so that a busy machine slows both.

Run as a module, `python -m rios.reporting.bench_ledger URL` goes over all entries once and says how long it took and
what memory the process had at most, as JSON.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rios.billing.ledger import Ledger, Transfer
from rios.reporting.bench import Interval, in_turn, ratio
from rios.storage import migrate
from rios.storage.bulk import BALANCES, BALANCES_POSTGRES, INSERT, INSERT_POSTGRES
from rios.storage.engine import Database
from rios.words.errors import RiosError

_WEI = 10**15
_RECONCILE_S = 300.0


@dataclass(frozen=True, slots=True)
class Speeds:
    """Postings per second of each pair."""

    writer: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def ratio(self) -> Interval:
        """How many times faster the writer is: the median over the pairs."""
        return ratio(self.writer, self.other)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One pass over all entries, in a process of its own."""

    entries: int
    seconds: float
    peak_bytes: int
    """The most memory that the process had, interpreter and libraries included."""
    sound: bool


def against_driver(
    ledger_url: str, driver_url: str, *, batch: int = 1_000, batches: int = 5, pairs: int = 20, accounts: int = 1_000
) -> Speeds:
    """Durable postings by the writer, and the same rows in the same batches by the driver's own executemany.

    Half as many pairs again warm up: a file that has just begun to grow is not what a ledger lives in. The driver is
    one round behind, so that it has its rows whoever begins.
    """
    with Ledger.open(ledger_url) as ledger, _driver(driver_url) as driver:
        _fill(ledger, accounts)
        number, done, count = 0, ledger.head()[0], batch * batches
        rows: list[tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]] = []

        def ours() -> float:
            nonlocal number
            work = [
                [_transfer(number * batches + place, index, accounts) for index in range(batch)]
                for place in range(batches)
            ]
            number += 1
            return count / _timed(ledger.post, [(transfers,) for transfers in work])

        def theirs() -> float:
            nonlocal done
            rows.extend(_rows(ledger, done, batch))
            done = rows[-1][0][-1][0]
            now, rows[:] = rows[:batches], rows[batches:]
            return count / _timed(driver.write, [(entries, balances) for entries, balances in now])

        ours()
        found = in_turn([ours, theirs], pairs=pairs, warm_up=pairs // 2)
    return Speeds(*map(tuple, found))


def hot_account(
    ledger_url: str,
    naive_url: str,
    *,
    clients: int = 8,
    postings: int = 2_000,
    naive_postings: int = 80,
    pairs: int = 20,
) -> Speeds:
    """Postings that all credit one account, from `clients` at once: by the writer, and in a transaction for each.

    The naive transaction reads both balances, inserts the row, and updates both.
    """
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(ledger_url))
        _fill(ledger, clients)
        with Ledger.open(naive_url) as naive_ledger:
            _fill(naive_ledger, clients)
            naive_ledger.post([_hot(client, 0) for client in range(clients)])
        drivers = [stack.enter_context(_driver(naive_url)) for _ in range(clients)]
        posted = [0] * clients
        naively = [1] * clients

        def post(client: int) -> None:
            first = posted[client]
            posted[client] += postings // clients
            answers = [ledger.submit([_hot(client, number)]) for number in range(first, posted[client])]
            for answer in answers:
                answer.result(60)

        def naive(client: int) -> None:
            first = naively[client]
            naively[client] += naive_postings // clients
            for number in range(first, naively[client]):
                drivers[client].post(_hot(client, number))

        def ours() -> float:
            return clients * (postings // clients) / _together(post, clients)

        def theirs() -> float:
            return clients * (naive_postings // clients) / _together(naive, clients)

        found = in_turn([ours, theirs], pairs=pairs, warm_up=2)
    return Speeds(*map(tuple, found))


def fill(url: str, *, entries: int, accounts: int = 1_000, step: int = 4_000) -> None:
    """Make postings until the ledger has `entries` of them."""
    with Ledger.open(url) as ledger:
        if not ledger.head()[0]:
            _fill(ledger, min(accounts, entries))
        place = have = ledger.head()[0]
        while have < entries:
            ledger.post([_transfer(place, index, accounts) for index in range(min(step, entries - have))])
            place = have = ledger.head()[0]


def reconcile(url: str) -> Reconciled:
    """Go over all entries in a process of its own. Raises RiosError with its last words."""
    command = [sys.executable, "-m", __spec__.name, url]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_RECONCILE_S)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or str(error)
        raise RiosError(f"the ledger in {url} was not reconciled: {said!s:.2000}") from error
    return Reconciled(**json.loads(done.stdout))


def reconcile_here(url: str) -> Reconciled:
    """Go over all entries in this process."""
    with Ledger.open(url) as ledger:
        began = time.perf_counter()
        found = ledger.totals()
        took = time.perf_counter() - began
    # Not `getrusage`, whose maximum a process inherits from whoever started it.
    status = Path("/proc/self/status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    return Reconciled(found.entries, took, peak_kib * 1024, found.sound)


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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(reconcile_here(sys.argv[1]))) + "\n")
