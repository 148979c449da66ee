"""Records of jobs: written by one gateway, read by others, and ended honestly when their gateway has died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from rios.billing.ledger import Ledger
from rios.gateway.kept_jobs import Jobs
from rios.services.job_records import JobRecords, Progress
from rios.storage.gateway_models import JobRow
from rios.words.errors import Cancelled, GatewayLost, InvalidRequest, LedgerUnavailable, NotFound
from tests.billing.clock import SECOND_US, Clock
from tests.billing.ledger.work import charge, hold
from tests.storage.databases import KINDS, drop_database, new_tables

KEY = bytes(range(32))
PIECES = [{"text": "shibbo", "token_ids": [1, 2], "logprobs": []}, {"text": "leth", "token_ids": [3], "logprobs": []}]
RESULT = {
    "text": "shibboleth", "token_ids": [1, 2, 3], "finish_reason": "length", "usage": {"completion_tokens": 3},
    "timing": {"total_s": 0.5}, "logprobs": None,
}  # fmt: skip
HALF = Progress(state="running", tokens=2, pieces=PIECES[:1])
WHOLE = Progress(state="done", tokens=3, pieces=PIECES, result=RESULT, ended=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, clock=clock) as found:
        yield found
    drop_database(url)


def records(ledger: Ledger, name: str, key: bytes = KEY) -> JobRecords:
    return JobRecords(ledger, key=key, gateway=name, kept_s=60)


def _row(ledger: Ledger) -> dict[str, Any]:
    with ledger.database.reading() as connection:
        return dict(connection.execute(select(JobRow.__table__)).mappings().one())


def test_what_one_writes_another_reads(ledger: Ledger) -> None:
    mine, other = records(ledger, "a"), records(ledger, "b")
    mine.begin("job", "ann", "demo")
    found = other.get("ann", "job")
    assert (found.state, found.model, found.tokens, found.ended, found.pieces) == ("queued", "demo", 0, False, [])
    mine.write("job", "ann", "demo", HALF)
    assert list(other.get("ann", "job").pieces) == PIECES[:1]
    mine.write("job", "ann", "demo", WHOLE)
    found = other.get("ann", "job")
    assert (found.state, found.tokens, found.ended, list(found.pieces)) == ("done", 3, True, PIECES)
    assert found.result == RESULT
    mine.write("job", "ann", "demo", HALF)
    assert other.get("ann", "job").ended, "what has ended stays as it is"
    with pytest.raises(NotFound):
        other.get("eve", "job")
    assert mine.wishes().alive == frozenset()


def test_an_answer_is_not_in_clear_and_is_for_its_user_alone(ledger: Ledger) -> None:
    mine = records(ledger, "a")
    mine.begin("job", "ann", "demo")
    mine.write("job", "ann", "demo", WHOLE)
    row = _row(ledger)
    assert "shibbo" not in str(row)
    assert b"leth" not in bytes(row["sealed"])
    with pytest.raises(InvalidRequest, match="another key of secrets"):
        records(ledger, "b", key=b"x" * 32).get("ann", "job")
    moved = update(JobRow).values(user_id="eve")
    ledger.transact(lambda batch: batch.connection.execute(moved), alone=True)
    with pytest.raises(InvalidRequest, match="another key of secrets"):
        mine.get("eve", "job")


def test_another_gateway_follows_and_cancels(ledger: Ledger, clock: Clock) -> None:
    mine, other = records(ledger, "a"), records(ledger, "b")
    mine.begin("job", "ann", "demo")
    found = mine.wishes()
    assert (found.alive, found.followed, found.cancelled) == ({"job"}, frozenset(), frozenset())
    other.follow("job")
    other.cancel("job")
    found = mine.wishes()
    assert (found.followed, found.cancelled) == ({"job"}, {"job"})
    clock.now_us += 6 * SECOND_US
    assert mine.wishes().followed == frozenset(), "who followed it has gone"
    mine.write("job", "ann", "demo", Progress(state="cancelled", tokens=1, error=Cancelled("by her"), ended=True))
    error = other.get("ann", "job").error
    assert isinstance(error, Cancelled)
    assert str(error) == "by her"


def test_a_job_whose_gateway_died_ends_as_lost_and_costs_nothing(ledger: Ledger, clock: Clock) -> None:
    moment = [0.0]
    ledger.grant_trial("ann", 100)
    hold(ledger, 50)  # of the request r1
    ledger.settle("h1", [charge(20)], final=False)
    dead, other, late = (
        JobRecords(ledger, key=KEY, gateway=name, kept_s=60, clock=lambda: moment[0]) for name in "abc"
    )
    dead.begin("r1", "ann", "demo")
    dead.write("r1", "ann", "demo", HALF)
    other.sweep()
    moment[0] += 10
    other.sweep()
    assert not other.get("ann", "r1").ended, "its lease lasts still"
    clock.now_us += 7 * SECOND_US
    late.sweep()
    assert not other.get("ann", "r1").ended, "who has just come cannot know whether the database was away"
    other.sweep()
    found = other.get("ann", "r1")
    assert (found.state, found.ended, found.tokens, list(found.pieces)) == ("lost", True, 2, PIECES[:1])
    assert found.money == {"released_wei": "30", "refunded_wei": "20", "cost_wei": "0"}
    assert isinstance(found.error, GatewayLost)
    assert "2 tokens" in str(found.error)
    balance = ledger.balance("ann")
    assert (balance.held_wei, balance.available_wei) == (0, 100)
    assert dead.wishes().alive == frozenset(), "the one that was only slow learns of it"
    moment[0] += 11
    clock.now_us += 61 * SECOND_US
    other.sweep()
    with pytest.raises(NotFound):
        other.get("ann", "r1")


class Away:
    """The list of generations, which is looked at before the records, of a database that does not answer."""

    def look(self) -> None:
        raise LedgerUnavailable("away")


def test_whoever_could_not_ask_takes_nobody_for_dead_at_once(ledger: Ledger, clock: Clock) -> None:
    """While the database was away those who live could not say so, whichever question it was that failed."""
    moment = [0.0]
    lives, other = (JobRecords(ledger, key=KEY, gateway=name, kept_s=60, clock=lambda: moment[0]) for name in "ab")
    lives.begin("r1", "ann", "demo")
    other.sweep()
    moment[0] += 30
    clock.now_us += 30 * SECOND_US
    gateway = Jobs(9, 60.0, other, Away())  # type: ignore[arg-type]
    gateway._look()
    other.sweep()
    assert not other.get("ann", "r1").ended
    moment[0] += 2
    lives.wishes()
    moment[0] += 5
    other.sweep()
    assert not other.get("ann", "r1").ended, "it lives, and could say so"
    moment[0] += 10
    clock.now_us += 10 * SECOND_US
    other.sweep()
    assert other.get("ann", "r1").ended
