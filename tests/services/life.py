"""A process that lives a history with all that a network has for money, and tells of each step that it has done.

Whatever it is told to do it does by the verbs that a user, a host and an operator have. It brings no money code of its
own: only deadlines are shorter here, and where rios waits for a node, blocks are mined meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import select

from rios.billing.chain import sender as sender_module
from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.events import follow
from rios.billing.ledger.values import HoldState
from rios.services import network_chain
from rios.services.books import LOCAL_USER, TRIAL_WEI
from rios.services.charging import Charging
from rios.services.purse import Purse
from rios.services.tab import Asked
from rios.storage.models import AccountRow, ChainIntentRow
from rios.words.config import settings
from rios.words.errors import (
    ChainUnavailable,
    InsufficientBalance,
    InvalidAmount,
    InvalidRequest,
    LedgerConflict,
    LedgerUnavailable,
    TransactionFailed,
)
from tests.services import histories
from tests.services.histories import GUEST, GUEST_ADDRESS, OWNERS, REORG_MAX, WORK, Step, charges_of, parts_of
from tests.waiting import stop

IMPATIENT_S = 0.2
SAVED = "saved"
DAY_S = 24 * 3600
REFUSED = (InsufficientBalance, InvalidAmount, InvalidRequest)


def ask(url: str, method: str, *parameters: Any) -> Any:
    """What a node answers; AssertionError where it refuses, OSError where it is down."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        answer = json.load(reply)
    assert "error" not in answer, answer
    return answer["result"]


class Waiting:
    """In place of `time` where rios waits for a node: the node gets blocks instead."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, url: str | None) -> None:
        self.url = url

    def sleep(self, _seconds: float) -> None:
        """Some blocks later."""
        if self.url is not None:
            with contextlib.suppress(OSError):
                ask(self.url, "anvil_mine", "0x4")


def reorganise(url: str, first: int, rng: Random, *, back: bool) -> int:
    """Take up to 12 of the blocks from `first` on away; how many.

    back: their transactions come again, in the same order; else it is the sender who has to bring some of them back.
    """
    head = int(ask(url, "eth_blockNumber"), 16)
    depth = min(1 + rng.randrange(REORG_MAX), head - first)
    if depth < 1:
        return 0
    blocks = [ask(url, "eth_getBlockByNumber", hex(number), False) for number in range(head - depth + 1, head + 1)]
    hashes = [tx for block in blocks for tx in block["transactions"]]
    raws = [ask(url, "eth_getRawTransactionByHash", tx) for tx in hashes]
    kept = raws if back else raws[: rng.randrange(len(raws) + 1)]
    places = sorted(rng.randrange(depth) for _ in kept)
    ask(url, "anvil_reorg", depth, [[raw, place] for raw, place in zip(kept, places, strict=True)])
    return depth


class Life:
    """One process of a history."""

    def __init__(self, case: dict[str, Any], arm: Callable[[int], None]) -> None:
        """arm: is told of each step that begins."""
        self.case = case
        self.seed: int = case["seed"]
        self.home = Path(case["home"])
        self.url: str | None = case["url"]
        self.confirmations: int = case["confirmations"]
        self._arm = arm
        self._waiting = Waiting(self.url)
        for module in (network_chain, sender_module):
            module.time = self._waiting  # type: ignore[attr-defined]
        self._jumped_s = 0
        self._tabs: dict[int, Any] = {}
        arm(-1)
        options = settings().model_copy(
            update={"home": self.home, "chain": self.url, "chain_confirmations": self.confirmations}
        )
        # What a network does beside this, now and then, is done between two steps: a history is what its seed says.
        self.purse = Purse(options, background=False)
        self.ledger = self.purse.books.ledger
        self.ledger.link_address(GUEST, GUEST_ADDRESS)
        self.hosts = histories.hosts_of(self.purse.books.address)
        self.charging = {
            LOCAL_USER: self.purse.charging,
            GUEST: Charging(lambda: self.purse.books.ledger, user=GUEST),
        }
        self.place = -1
        if self.seed % 2:
            # Half of the histories have no trial credit to live on.
            self.ledger.hold(
                SAVED, LOCAL_USER, TRIAL_WEI, request_id=SAVED, terms=self.purse.charging.terms({}), expires_at=2**52
            )

    @property
    def chain(self) -> Any:
        """The chain with the contracts."""
        return self.purse.settlement.chain

    def play(self, place: int, step: Step) -> dict[str, Any]:
        """Make a step, with its fault before it is made again without; what the process may rely on afterwards."""
        self.place = place
        self._arm(place)
        did: dict[str, Any] = {"step": place, "verb": step["verb"], "posted": [], "notes": [], "refused": ""}
        fault = step.get("fault")
        if fault:
            with {"down": self._down, "locked": self._locked}[fault]():
                try:
                    self._make(step, did)
                except (ChainUnavailable, LedgerUnavailable, TransactionFailed) as error:
                    did["fault"] = type(error).__name__
            did["posted"], did["notes"] = [], []
        self._make(step, did)
        for charging in self.charging.values():
            charging.post_late()
        self.purse.follower.look()
        self.purse.alerts.deliver()
        return did

    def _make(self, step: Step, did: dict[str, Any]) -> None:
        for last in (False, False, True):
            try:
                getattr(self, f"_{step['verb']}")(step, did)
            except REFUSED as error:
                did["refused"] = type(error).__name__
            except ChainUnavailable as error:
                # Of some blocks that came by a reorganisation anvil has no state: others are the final ones soon.
                if last or "has no state of block" not in str(error):
                    raise
                self._waiting.sleep(0)
                continue
            return

    def _user(self, step: Step) -> str:
        return GUEST if step["one"] % 4 == 0 else LOCAL_USER

    # Use.

    def _open(self, step: Step, did: dict[str, Any]) -> None:
        prompt, limit = histories.request_of(self.seed, self.place)
        charging = self.charging[self._user(step)]
        asked = Asked(histories.name_of(self.place), prompt, limit)
        try:
            (self._tabs[self.place],) = charging.open([asked], WORK, lambda: self.hosts)
        except LedgerConflict:
            # Killed after its hold, and the clock has jumped meanwhile, or after it was closed with nothing received:
            # it is asked for again too late.
            held = self.ledger.hold_of(f"hold-{asked.request_id}")
            assert held is not None
            assert held.state in (HoldState.EXPIRED, HoldState.RELEASED)
            did["refused"] = str(held.state)

    def _close(self, step: Step, did: dict[str, Any]) -> None:
        if self._tabs:
            place = list(self._tabs)[step["one"] % len(self._tabs)]
            self._tabs.pop(place).close(histories.ended_of(self.seed, place))()
            did["posted"].append(place)

    def _request(self, step: Step, did: dict[str, Any]) -> None:
        self._open(step, did)
        if did["refused"]:
            return
        self._tabs.pop(self.place).close(histories.ended_of(self.seed, self.place))()
        did["posted"].append(self.place)

    def _stream(self, step: Step, did: dict[str, Any]) -> None:
        """Holds in steps, a pause, and a price that is posted in parts."""
        user, name = self._user(step), f"hold-{histories.name_of(self.place)}"
        parts = parts_of(charges_of(self.seed, self.place, self.purse.books.address))
        terms = self.purse.charging.terms(self.hosts)
        costs = [sum(charge.amount_wei for charge in part) for part in parts] or [0]
        self.ledger.hold(name, user, costs[0], request_id=histories.name_of(self.place), terms=terms)
        if not self.ledger.hold_of(name).is_live:  # type: ignore[union-attr]
            did["posted"].append(self.place)
            return
        try:
            for number, part in enumerate(parts):
                if number:
                    self.ledger.extend(name, number, costs[number])
                self.ledger.pause(name)
                self.ledger.resume(name)
                self.ledger.settle(name, part, final=False)
        except InsufficientBalance:
            did["part"] = self.place
            raise
        finally:
            self.ledger.settle(name, (), final=True)
        did["posted"].append(self.place)

    def _release(self, step: Step, did: dict[str, Any]) -> None:
        live = [hold for hold in self.ledger.holds() if hold.is_live and hold.id != SAVED]
        if live:
            hold = live[step["one"] % len(live)]
            self.ledger.release(hold.id)
            self._tabs = {place: tab for place, tab in self._tabs.items() if tab.hold_id != hold.id}

    def _expire(self, step: Step, did: dict[str, Any]) -> None:
        self.ledger.expire(self.ledger.now() + 2 * DAY_S * 10**6)
        self._tabs.clear()

    def _refund(self, step: Step, did: dict[str, Any]) -> None:
        usage = [one for one in self.ledger.usage() if one.refunded_wei < one.amount_wei]
        note_id = f"n{self.place}"
        known = [note for note in self.ledger.credit_notes() if note.id == note_id]
        if usage and not known:
            one = usage[step["one"] % len(usage)]
            part = None if step["one"] % 2 else 1 + step["amount"] % (one.amount_wei - one.refunded_wei)
            known = [self.ledger.refund(one.usage_id, "wrong model", amount_wei=part, note_id=note_id)]
        did["notes"] += [[note.id, str(note.amount_wei)] for note in known]

    # Money that comes and goes.

    def _deposit(self, step: Step, did: dict[str, Any]) -> None:
        self.purse.wallet.deposit(step["amount"])

    def _gift(self, step: Step, did: dict[str, Any]) -> None:
        """A deposit for somebody else."""
        chain, key = self.chain, f"gift:{self.place}"
        chain.as_wallet(f"{key}:approve", "RosToken", "approve", chain.addresses.escrow, step["amount"])
        chain.as_wallet(key, "RiosEscrow", "depositFor", GUEST_ADDRESS, step["amount"])
        chain.confirm()
        self.purse.settlement.sync()

    def _withdraw(self, step: Step, did: dict[str, Any]) -> None:
        amount = 1 + step["amount"] % max(self.purse.wallet.deposited, 1)
        self.purse.wallet.withdraw(amount)

    def _later(self, step: Step, did: dict[str, Any]) -> None:
        """The escrow's delay is over."""
        asked, _ = self.chain.read("RiosEscrow", "pendingWithdrawal", self.purse.books.address)
        if not asked:
            did["refused"] = "nothing asked for"
            return
        if self.url is not None:
            ask(self.url, "evm_increaseTime", 3_700)
            ask(self.url, "anvil_mine", "0x1")
        self.purse.wallet.finish_withdrawal()

    def _settle(self, step: Step, did: dict[str, Any]) -> None:
        first = self.purse.billing.settle()
        assert self.purse.billing.settle() == first, "settled twice, the same"

    def _claim(self, step: Step, did: dict[str, Any]) -> None:
        owners = self._owners()
        self.purse.settlement.claim(owners[step["one"] % len(owners)])

    def _payout(self, step: Step, did: dict[str, Any]) -> None:
        """The operator pays all who are due something, some of them or all at once."""
        self.purse.settlement.pay_out(step["amount"] if step["one"] % 2 else 1)

    def _owners(self) -> list[Any]:
        return [*OWNERS, self.purse.books.address, self.chain.platform]

    # What goes wrong.

    def _again(self, step: Step, did: dict[str, Any]) -> None:
        """Messages that came come again: events of the chain, prices, notes, trial credit."""
        chain, ledger = self.chain, self.ledger
        self.purse.settlement.sync()
        head = ledger.head()
        batch = follow(
            chain._chain, chain.addresses, None, confirmations=self.confirmations, finalized_tag=self.url is None
        )
        assert batch is not None
        assert ledger.apply_chain(batch.events) == 0
        for hold in ledger.holds(state=HoldState.POSTED):
            charges = charges_of(self.seed, int(hold.request_id[1:]), self.purse.books.address)
            known = tuple(one for one in charges if ledger.usage_of(one.record.usage_id))
            deployment = WORK.model if known and ledger.usage_of(known[0].record.usage_id).deployment else ""  # type: ignore[union-attr]
            assert ledger.settle(hold.id, known, deployment=deployment).new == 0
        for note in ledger.credit_notes():
            assert ledger.refund(note.usage_id, note.reason, amount_wei=note.amount_wei, note_id=note.id) == note
        ledger.grant_trial(LOCAL_USER, TRIAL_WEI)
        assert ledger.head() == head, "what came twice counts once"

    def _early(self, step: Step, did: dict[str, Any]) -> None:
        """Messages that come before what they are about are refused, and change nothing."""
        head = self.ledger.head()
        for too_early in (
            lambda: self.ledger.settle("hold-r999", charges_of(self.seed, 999, self.purse.books.address)),
            lambda: self.ledger.refund("u-none", "too early"),
            lambda: self.ledger.mark_epoch(999, self.ledger.epochs()[-1].state if self.ledger.epochs() else "final"),  # type: ignore[arg-type]
        ):
            try:
                too_early()
            except (InvalidRequest, LedgerConflict):
                continue
            raise AssertionError("it was taken")
        assert self.ledger.head() == head

    def _jump(self, step: Step, did: dict[str, Any]) -> None:
        """This machine's clock is set, to somewhere within two years before and after."""
        self._jumped_s = step["one"] % (1460 * DAY_S) - 730 * DAY_S
        real, real_ns, by = _REAL_TIME, _REAL_TIME_NS, self._jumped_s
        time.time = lambda: real() + by
        time.time_ns = lambda: real_ns() + by * 10**9

    def _reorg(self, step: Step, did: dict[str, Any]) -> None:
        if self.url is not None:
            rng = Random(step["one"])
            did["blocks"] = reorganise(self.url, self.case["first_block"], rng, back=self.confirmations < REORG_MAX)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Another process writes into the ledger's database and does not come to an end."""
        database = self.ledger.database
        holder = sqlite3.connect(self.home / "ledger.sqlite", timeout=20, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        before = database.timeout_s
        self._patience(database, IMPATIENT_S)
        try:
            with self._impatient_senders():
                yield
        finally:
            holder.execute("ROLLBACK")
            holder.close()
            self._patience(database, before)

    @staticmethod
    def _patience(database: Any, seconds: float) -> None:
        database.timeout_s = seconds
        for connected in (database._keeping(), database.engine.connect()):
            with connected as connection:
                connection.connection.driver_connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    @contextlib.contextmanager
    def _down(self) -> Iterator[None]:
        """The chain does not answer: its file is locked, its node is frozen, or nothing listens where it was."""
        chain = self.chain._chain
        with self._impatient_senders():
            if isinstance(chain, EmbeddedChain):
                holder = sqlite3.connect(self.home / "chain.sqlite", timeout=20, isolation_level=None)
                holder.execute("BEGIN IMMEDIATE")
                chain._store._file.execute(f"PRAGMA busy_timeout = {int(IMPATIENT_S * 1000)}")  # type: ignore[union-attr]
                try:
                    yield
                finally:
                    holder.execute("ROLLBACK")
                    holder.close()
                    chain._store._file.execute("PRAGMA busy_timeout = 10000")  # type: ignore[union-attr]
                return
            before = chain._timeout_s, chain._url
            frozen = self.place % 2
            if frozen:
                stop(self.case["node"])
                chain._timeout_s = IMPATIENT_S
            else:
                chain._url, chain._provider = "http://127.0.0.1:9", None
            self._waiting.url = None
            try:
                yield
            finally:
                if frozen:
                    os.kill(self.case["node"], signal.SIGCONT)
                (chain._timeout_s, chain._url), chain._provider = before, None
                self._waiting.url = self.url
                chain._breaker.succeeded()  # as the first answer does, within a second

    @contextlib.contextmanager
    def _impatient_senders(self) -> Iterator[None]:
        senders = self.chain._operator, self.chain._wallet
        before = senders[0]._timeout_s
        for one in senders:
            one._timeout_s = 2 * IMPATIENT_S
        try:
            yield
        finally:
            for one in senders:
                one._timeout_s = before

    # The end.

    def finish(self, last: int) -> dict[str, Any]:
        """Go on as any day: release what was forgotten, settle, pay everybody, reconcile. Then tell all."""
        self.place = last
        self._arm(last)
        purse, ledger, chain = self.purse, self.ledger, self.chain
        self._mine()
        chain._wallet.pump()
        if ledger.hold_of(SAVED):
            ledger.release(SAVED)
        ledger.expire(ledger.now() + 5 * 365 * DAY_S * 10**6)
        purse.billing.settle()
        owners = self._owners()
        if self.seed % 3:
            purse.settlement.pay_out(1)
        else:
            for owner in owners:
                purse.settlement.claim(owner)
        settled = purse.billing.settle()
        assert not purse.settlement.pay_out(1).paid
        self._mine()
        left = [*chain._wallet.pump(), *chain._operator.pump()]
        found = purse.billing.reconcile()
        usage = list(ledger.usage())
        links: list[Any] = []
        if usage and self.seed % 4 == 0:
            links = [link.state for link in purse.billing.prove(usage[-1].usage_id).links]
        with ledger.database.reading() as connection:
            accounts = connection.execute(select(AccountRow.name, AccountRow.balance_wei, AccountRow.floor_wei)).all()
            intents = connection.execute(select(ChainIntentRow.key, ChainIntentRow.state)).all()
        events = list(itertools.chain.from_iterable(self._all_events()))
        users = list(self.charging)
        tokens = [*owners, "escrow", "settlement"]
        return {
            "reconciled": [[check.what, check.difference_wei] for check in found.checks],
            "broken": [*found.broken, *(f"{one.key} is {one.state}" for one in left)],
            "root": None if settled is None else settled.root,
            "total": str(0 if settled is None else settled.total_wei),
            "links": links,
            "accounts": [[name, str(wei), None if floor is None else str(floor)] for name, wei, floor in accounts],
            "balances": {user: self._balance(user) for user in users},
            "usage": [[one.usage_id, one.user_id, str(one.amount_wei), str(one.worker_wei)] for one in usage],
            "notes": [[note.id, note.user_id, str(note.amount_wei), note.usage_id] for note in ledger.credit_notes()],
            "epochs": [[epoch.number, str(epoch.state)] for epoch in ledger.epochs()],
            "leaves": {} if settled is None else {a: str(w) for a, w in ledger.leaves(settled.epoch).items()},
            "intents": [[key, state] for key, state in intents],
            "events": [[event.name, {key: str(value) for key, value in event.args.items()}] for event in events],
            "tokens": {str(who): str(chain.tokens_of(who)) for who in tokens},
            "supply": str(chain.read("RosToken", "totalSupply")),
            "wallet": purse.books.address,
            "platform": chain.platform,
        }

    def _all_events(self) -> Iterator[Any]:
        """All that the contracts ever said, read from the chain and not from the ledger."""
        cursor = None
        while True:
            batch = follow(
                self.chain._chain, self.chain.addresses, cursor, confirmations=0, finalized_tag=self.url is None
            )
            if batch is None:
                return
            yield batch.events
            cursor = batch.cursor

    def _balance(self, user: str) -> str:
        found = self.ledger.balance(user)
        return str(found.wei + found.withdrawing_wei - found.overdrawn_wei)

    def _mine(self) -> None:
        if self.url is not None:
            ask(self.url, "anvil_mine", hex(REORG_MAX + 1))


_REAL_TIME, _REAL_TIME_NS = time.time, time.time_ns
