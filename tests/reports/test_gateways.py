"""Several gateways, each with a folder of its own for reports: who has a file is who sends it."""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path

import pytest

from rios.billing.ledger.ledger import Ledger
from rios.billing.outbox import messages
from rios.services.reports import deliver
from rios.services.reports.deliver import ELSEWHERE_MAX, HOOK, MAIL
from rios.services.reports.own import UserReports
from rios.services.reports.reports import Reports
from rios.services.reports.values import RunState, Wish
from rios.words.errors import Elsewhere, NotFound
from tests.billing.clock import DAY_US, HOUR_US, Clock
from tests.reports.conftest import NOW, Make

WISH = Wish(name="cost", cron="0 6 * * *", emails=("ops@example.org",), webhooks=("https://hooks.example.org/x",))


class Both:
    """Two gateways of one ledger; the first has made a report, and neither has told of it."""

    def __init__(self, make: Make, clock: Clock, folders: tuple[Path, Path]) -> None:
        self.sent: tuple[list[EmailMessage], list[EmailMessage]] = ([], [])
        self.maker, self.other = (
            make(out=folder, send=sent.append) for folder, sent in zip(folders, self.sent, strict=True)
        )
        self.maker.schedule(WISH, owner="local")
        clock.now_us = NOW + DAY_US
        assert self.maker.step()
        (self.past,) = self.maker.store.history()
        assert self.past.state == RunState.OK


@pytest.fixture(autouse=True)
def _nobody_outside_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "post", lambda *_, **__: 200)


@pytest.fixture
def both(make: Make, clock: Clock, tmp_path: Path) -> Both:
    return Both(make, clock, (tmp_path / "one", tmp_path / "two"))


def own(reports: Reports) -> UserReports:
    return UserReports(lambda: reports, user="local", everybodys=True)


def test_the_one_that_has_the_files_gives_and_sends_them(both: Both, clock: Clock, ledger: Ledger) -> None:
    assert own(both.maker).file(both.past.run_id).startswith(b"<p>")
    with pytest.raises(NotFound, match="no pdf"):
        own(both.maker).file(both.past.run_id, "pdf")
    with pytest.raises(Elsewhere, match="RIOS_REPORTS"):
        own(both.other).file(both.past.run_id)
    both.other.deliverer.deliver()
    (mail,) = messages(ledger, topic=MAIL)
    assert (mail.delivered_at, both.sent[1]) == (None, [])
    assert "RIOS_REPORTS" in str(mail.error)
    assert "mail server" not in str(mail.error)
    clock.now_us += HOUR_US
    both.maker.deliverer.deliver()
    (letter,) = both.sent[0]
    assert [part.get_filename() for part in letter.iter_attachments()] == ["cost-2026-11-28.html"]
    (mail,) = messages(ledger, topic=MAIL)
    assert mail.delivered_at is not None


def test_without_that_one_it_is_told_without_files(both: Both, clock: Clock, ledger: Ledger) -> None:
    for _ in range(ELSEWHERE_MAX):
        assert not both.sent[1]
        both.other.deliverer.deliver()
        clock.now_us += HOUR_US
    (letter,) = both.sent[1]
    assert not list(letter.iter_attachments())
    text = letter.get_content()
    assert "cost report of 2026-11-28 is ok" in text
    assert "None of them is attached" in text
    (hook,) = messages(ledger, topic=HOOK)
    event = both.other.deliverer.event(hook)
    assert (event["type"], event["totals"]) == ("report.ok", {})
    assert event["files"] == {name: entry["sha256"] for name, entry in both.past.files.items()}


def test_who_ends_does_not_tell_without_files(both: Both, clock: Clock, ledger: Ledger) -> None:
    for _ in range(ELSEWHERE_MAX - 1):
        both.other.deliverer.deliver()
        clock.now_us += HOUR_US
    both.other.keeping.leave()
    both.other.deliverer.deliver()
    (mail,) = messages(ledger, topic=MAIL)
    assert (mail.attempts, mail.delivered_at, both.sent[1]) == (ELSEWHERE_MAX, None, [])
    clock.now_us += HOUR_US
    both.maker.deliverer.deliver()
    (letter,) = both.sent[0]
    assert len(list(letter.iter_attachments())) == 1


def test_of_one_folder_each_gives_and_sends_all(make: Make, clock: Clock, tmp_path: Path) -> None:
    both = Both(make, clock, (tmp_path / "one", tmp_path / "one"))
    assert own(both.other).file(both.past.run_id) == own(both.maker).file(both.past.run_id)
    both.other.deliverer.deliver()
    (letter,) = both.sent[1]
    assert len(list(letter.iter_attachments())) == 1
