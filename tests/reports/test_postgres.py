"""Reports on PostgreSQL, with two schedulers on one database and a real mail server: each made once and told once."""

from __future__ import annotations

import email
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from rios.billing.ledger.ledger import Ledger
from rios.services.mail import sender_of
from rios.services.reports.own import UserReports
from rios.services.reports.values import RunState, Wish
from rios.words.errors import NotFound
from tests.billing.clock import DAY_US, Clock
from tests.gateway.services import free_port
from tests.reports.conftest import NOW, Make
from tests.reports.ledgers import live
from tests.storage.databases import drop_database, new_tables


class Post:
    """Takes mail."""

    def __init__(self) -> None:
        self.taken: list[Message] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.taken.append(email.message_from_bytes(envelope.content))
        return "250 taken"


@pytest.fixture
def post() -> Iterator[tuple[Post, str]]:
    """A mail server, and its URL."""
    taker = Post()
    port = free_port()
    server = Controller(taker, hostname="127.0.0.1", port=port)
    server.start()
    yield taker, f"smtp://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def ledgers(tmp_path: Path, clock: Clock) -> Iterator[tuple[Ledger, Ledger]]:
    """Two ledgers of two processes on one PostgreSQL, with a week of history."""
    url = new_tables("postgres", tmp_path)
    clock.now_us = NOW
    with Ledger.open(url, clock=clock) as one, Ledger.open(url, clock=clock) as other:
        live(one, since="2026-11-25", days=3, per_day=2)
        clock.now_us = NOW
        yield one, other
        assert one.totals().sound
    drop_database(url)


def test_two_schedulers_make_each_once_and_tell_it_once(
    make: Make, ledgers: tuple[Ledger, Ledger], clock: Clock, post: tuple[Post, str]
) -> None:
    taker, url = post
    both = [make(on=one, send=sender_of(url), sender="rios@lab.example") for one in ledgers]
    wish = Wish(name="cost", cron="0 6 * * *", emails=("ops@lab.example",))
    found, _ = both[0].schedule(wish, owner="local")
    assert [one.id for one in both[1].store.schedules()] == [found.id]
    clock.now_us = NOW + 3 * DAY_US
    makers = [threading.Thread(target=lambda one=one: [0 for _ in range(3) if one.step()]) for one in both]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    for one in both:
        while one.step():
            continue
    made = both[1].store.made()
    assert [(one.state, one.attempts) for one in made] == 3 * [(RunState.OK, 1)]
    assert {one.label for one in made} == {"2026-11-28", "2026-11-29", "2026-11-30"}
    for one in both:
        while one.deliverer.deliver():
            continue
    assert len(taker.taken) == len({one["Message-ID"] for one in taker.taken}) == 3
    assert {one["To"] for one in taker.taken} == {"ops@lab.example"}


def test_what_is_a_users_is_that_users(make: Make, ledgers: tuple[Ledger, Ledger]) -> None:
    reports = make(on=ledgers[0])
    ann, bob = (UserReports(lambda: reports, user=name, everybodys=False) for name in ("user-01", "user-02"))
    whole = UserReports(lambda: reports, user="local", everybodys=True)
    mine = ann.run("cost", "2026-11-26")
    assert (mine.owner, mine.subject, mine.state) == ("user-01", "user-01", "ok")
    assert [one.id for one in whole.list()] == [one.id for one in ann.list()] == [mine.id]
    assert bob.list() == bob.history() == ()
    assert ann.rerun(mine.id).attempts == 2
    assert ann.file(mine.id, "ipynb")
    with pytest.raises(NotFound):
        bob.rerun(mine.id)
    other = whole.run("cost", "2026-11-26", subject="user-01")
    assert other.id == mine.id, "the same report, whoever asks"
    for_ann = whole.run("cost", "2026-11-25", subject="user-01")
    assert for_ann.id in [one.id for one in ann.list()], "what is about a user's own costs may be read"
    with pytest.raises(NotFound):
        ann.again(for_ann.id)  # who asked for it pays for it


def test_who_cannot_pay_for_a_report_is_told_so(make: Make, ledgers: tuple[Ledger, Ledger]) -> None:
    reports = make(on=ledgers[0])
    found = UserReports(lambda: reports, user="poor", everybodys=False).run("cost", "2026-11-26")
    assert (found.state, found.cost_wei) == ("failed", 0)
    assert found.error.startswith("InsufficientBalance")
