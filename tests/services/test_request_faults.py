"""What went wrong on the way of requests is written beside the ledger, and no request waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rios.billing.ledger.ledger import Ledger
from rios.services import faults as module
from rios.services.faults import Faults
from rios.storage.report_models import RequestFaultRow
from rios.words.errors import LedgerUnavailable
from rios.words.events import Ended, Fault, UsageEvents


class Noted:
    """Stands for who tries again: keeps what it is to try."""

    def __init__(self) -> None:
        self.attempts: list[Callable[[], bool]] = []

    def add(self, attempt: Callable[[], bool]) -> None:
        if attempt not in self.attempts:
            self.attempts.append(attempt)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as found:
        yield found


def ended(request_id: str, *faults: Fault) -> Ended:
    return Ended(
        request_id=request_id, model="demo", trunk="a", tokens_in=1, tokens_out=1, outcome="done",
        events=UsageEvents.of(()), faults=faults,
    )  # fmt: skip


LOST = Fault(kind="trunk lost", about="host-a", count=2)
STALL = Fault(kind="stalled", about="", count=1, longest_us=3_000_000)


def rows(ledger: Ledger) -> list[tuple[Any, ...]]:
    row = RequestFaultRow
    wanted = select(row.request_id, row.kind, row.about, row.user_id, row.count, row.longest_us)
    with ledger.database.reading() as connection:
        return [tuple(one) for one in connection.execute(wanted.order_by(row.request_id, row.kind))]


def test_they_are_written_together_and_once(ledger: Ledger) -> None:
    again = Noted()
    faults = Faults(lambda: ledger, again)  # type: ignore[arg-type]
    faults.add(ended("r0"), "ann")
    assert again.attempts == [], "nothing went wrong"
    faults.add(ended("r1", LOST, STALL), "ann")
    faults.add(ended("r2", STALL), "ben")
    (attempt,) = again.attempts
    assert rows(ledger) == [], "nobody waits for them"
    assert attempt()
    wanted = [
        ("r1", "stalled", "", "ann", 1, 3_000_000), ("r1", "trunk lost", "host-a", "ann", 2, 0),
        ("r2", "stalled", "", "ben", 1, 3_000_000),
    ]  # fmt: skip
    assert rows(ledger) == wanted
    faults.add(ended("r2", STALL), "ben")  # as after an attempt of which it was not known whether it was done
    assert attempt()
    assert rows(ledger) == wanted


def test_a_ledger_that_does_not_answer_keeps_some_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    again, away = Noted(), [True]

    def opened() -> Ledger:
        if away[0]:
            raise LedgerUnavailable("the database does not answer")
        return ledger

    faults = Faults(opened, again)  # type: ignore[arg-type]
    faults.add(ended("r1", LOST), "ann")
    assert "are not kept" in caplog.text
    away[0] = False
    for number in range(3):
        faults.add(ended(f"r{number}", LOST), "ann")
    away[0] = True
    assert not again.attempts[0]()
    faults.close()
    assert "way of 2 requests is not written" in caplog.text
    away[0] = False
    faults.close()
    assert [row[0] for row in rows(ledger)] == ["r0", "r1"]
