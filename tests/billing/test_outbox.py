"""Messages are delivered at least once, by one at a time, and again when that failed."""

from __future__ import annotations

import threading

import pytest

from rios.billing.ledger import Ledger
from rios.billing.ledger.batch import Batch
from rios.billing.outbox import LEASE_US, RETRY_MAX_US, RETRY_US, Dispatcher, Message, messages
from rios.words.errors import LedgerUnavailable
from tests.billing.clock import DAY_US, Clock


def send(ledger: Ledger, key: str, *, topic: str = "news") -> bool:
    return ledger.transact(lambda batch: batch.send(topic, key, {"n": key, "wei": str(10**30)}, at=ledger.now()))


class Handler:
    """Remembers what it was given, and fails as often as it is told to."""

    def __init__(self, *, fails: int = 0) -> None:
        self.fails = fails
        self.got: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.got.append(message)
        if len(self.got) <= self.fails:
            raise ConnectionError("the receiver is away")

    @property
    def keys(self) -> list[str]:
        return [message.key for message in self.got]


def test_each_message_is_delivered_once(ledger: Ledger, clock: Clock) -> None:
    assert [send(ledger, key) for key in ("a", "b", "a")] == [True, True, False]
    handler = Handler()
    dispatcher = Dispatcher(ledger, {"news": handler})
    assert dispatcher.run_once() == 2
    assert dispatcher.run_once() == 0
    assert handler.keys == ["a", "b"]
    first = handler.got[0]
    assert (first.topic, first.payload, first.attempts, first.created_at) == (
        "news",
        {"n": "a", "wei": str(10**30)},
        1,
        clock.now_us,
    )
    assert send(ledger, "a") is False
    assert [message.delivered_at for message in messages(ledger)] == [clock.now_us, clock.now_us]
    assert list(messages(ledger, delivered=False)) == []


def test_what_was_rolled_back_is_not_sent(ledger: Ledger) -> None:
    def run(batch: Batch) -> None:
        batch.send("news", "a", {}, at=0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.transact(run)
    assert list(messages(ledger)) == []


def test_a_failed_delivery_is_tried_again_later_and_holds_up_nobody(ledger: Ledger, clock: Clock) -> None:
    send(ledger, "a")
    send(ledger, "b", topic="other")
    handler, other = Handler(fails=3), Handler()
    dispatcher = Dispatcher(ledger, {"news": handler, "other": other})
    assert dispatcher.run_once() == 1
    assert other.keys == ["b"]
    waiting = next(messages(ledger, delivered=False))
    assert (waiting.key, waiting.attempts, waiting.error) == ("a", 1, "ConnectionError: the receiver is away")
    for pause in (RETRY_US, 2 * RETRY_US, 4 * RETRY_US):
        clock.now_us += pause - 1
        dispatcher.run_once()
        before = len(handler.got)
        clock.now_us += 1
        dispatcher.run_once()
        assert len(handler.got) == before + 1
    done = next(messages(ledger, topic="news"))
    assert (done.attempts, done.error, done.delivered_at) == (4, None, clock.now_us)


def test_the_pause_has_an_end(ledger: Ledger, clock: Clock) -> None:
    send(ledger, "a")
    handler = Handler(fails=40)
    dispatcher = Dispatcher(ledger, {"news": handler})
    for _ in range(41):
        dispatcher.run_once()
        clock.now_us += RETRY_MAX_US
    assert len(handler.got) == 41
    assert list(messages(ledger, delivered=False)) == []


def test_messages_without_a_handler_wait_for_one(ledger: Ledger) -> None:
    send(ledger, "a")
    assert Dispatcher(ledger, {}).run_once() == Dispatcher(ledger, {"other": Handler()}).run_once() == 0
    assert Dispatcher(ledger, {"news": Handler()}).run_once() == 1


def test_one_delivers_at_a_time_and_another_takes_over_from_a_dead_one(url: str, clock: Clock) -> None:
    with Ledger.open(url, timeout_s=20, clock=clock) as ledger, Ledger.open(url, timeout_s=20, clock=clock) as second:
        send(ledger, "a")
        taken = Dispatcher(ledger, {"news": Handler()})._take(clock.now_us)  # and then it dies
        assert [message.key for message in taken] == ["a"]
        handler = Handler()
        other = Dispatcher(second, {"news": handler})
        assert other.run_once() == 0
        clock.now_us += LEASE_US
        assert other.run_once() == 1
        assert handler.got[0].attempts == 2


def test_a_clock_that_was_set_back_leaves_nothing_behind(ledger: Ledger, clock: Clock) -> None:
    clock.now_us += 10 * DAY_US
    send(ledger, "a")
    clock.now_us -= 10 * DAY_US
    assert Dispatcher(ledger, {"news": Handler()}).run_once() == 1


def test_several_dispatchers_deliver_everything_once(ledger: Ledger) -> None:
    for number in range(40):
        send(ledger, f"m{number}")
    handlers = [Handler() for _ in range(4)]
    threads = [threading.Thread(target=Dispatcher(ledger, {"news": handler}).run_once) for handler in handlers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for handler in handlers for key in handler.keys) == sorted(f"m{number}" for number in range(40))


def test_a_thread_delivers_until_it_is_closed(ledger: Ledger) -> None:
    got, before = threading.Event(), set(threading.enumerate())  # networks of other tests may have theirs
    dispatcher = Dispatcher(ledger, {"news": lambda _message: got.set()})
    dispatcher.start(interval_s=0.01)
    dispatcher.start(interval_s=0.01)
    send(ledger, "a")
    assert got.wait(30)
    dispatcher.close()
    assert not {"rios-outbox", "rios-sender"} & {thread.name for thread in set(threading.enumerate()) - before}


def test_the_thread_survives_a_database_that_is_away(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    got = threading.Event()
    dispatcher = Dispatcher(ledger, {"news": lambda _message: got.set()})
    take, failed = dispatcher._take, threading.Event()

    def away_once(now: int) -> list[Message]:
        if not failed.is_set():
            failed.set()
            raise LedgerUnavailable("the database is away")
        return take(now)

    monkeypatch.setattr(dispatcher, "_take", away_once)
    send(ledger, "a")
    dispatcher.start(interval_s=0.01)
    assert got.wait(30)
    dispatcher.close()
    assert failed.is_set()
