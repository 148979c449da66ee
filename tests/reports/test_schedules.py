"""Schedules by a simulated clock: right runs, each once, whoever sleeps, dies, or does the same at the same time."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from rios.billing.ledger.ledger import Ledger
from rios.billing.outbox import messages
from rios.reporting.runner import Done, Job, Say
from rios.services.moments import moment_of
from rios.services.reports.own import UserReports
from rios.services.reports.reports import Reports
from rios.services.reports.values import Made, RunState, Wish
from rios.storage.report_models import ReportDueRow, ReportRunRow
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotAllowed, NotFound, QueueFull
from tests.billing.clock import DAY_US, HOUR_US, SECOND_US, Clock
from tests.reports.conftest import NOW, Make, quick
from tests.reports.ledgers import moment

BERLIN = Wish(name="cost", cron="0 6 * * *", zone="Europe/Berlin", emails=("ops@example.org",))


def go(clock: Clock, until: int, *reports: Reports, every: int = HOUR_US) -> None:
    """Let time pass, with every scheduler looking at it."""
    while clock.now_us < until:
        clock.now_us = min(clock.now_us + every, until)
        for one in reports:
            while one.step():
                continue


def labels(reports: Reports) -> list[str]:
    """The periods of all that was made well, in their order."""
    return [past.label for past in reversed(reports.store.history(limit=1000)) if past.state == RunState.OK]


def told(ledger: Ledger) -> list[str]:
    return [str(one.payload["due_at"]) for one in messages(ledger, topic="report.mail")]


def days(first: str, count: int) -> list[str]:
    return [f"{moment_of(moment(first) + number * DAY_US):%Y-%m-%d}" for number in range(count)]


def test_every_morning_has_a_report_of_the_day_before(make: Make, clock: Clock, ledger: Ledger) -> None:
    reports = make()
    found, _ = reports.schedule(BERLIN, owner="local")
    assert f"{moment_of(found.next_at):%m-%d %H:%M}" == "11-29 05:00"
    go(clock, NOW + 5 * DAY_US, reports)
    assert labels(reports) == days("2026-11-28", 5)
    assert len(told(ledger)) == len(set(told(ledger))) == 5


@pytest.mark.parametrize("change", ["2027-03-28", "2027-10-31"])
def test_a_change_of_clocks_loses_and_doubles_nothing(make: Make, clock: Clock, ledger: Ledger, change: str) -> None:
    clock.now_us = moment(change) - 2 * DAY_US + 12 * HOUR_US
    reports, other = make(), make()
    reports.schedule(BERLIN, owner="local")
    reports.schedule(Wish(name="cost", cron="30 2 * * *", zone="Europe/Berlin", period="last-week"), owner="local")
    go(clock, moment(change) + 2 * DAY_US + 12 * HOUR_US, reports, other, every=HOUR_US // 2)
    first = f"{moment_of(moment(change) - 2 * DAY_US):%Y-%m-%d}"
    assert [label for label in labels(reports) if "_" not in label] == days(first, 4)
    assert len(told(ledger)) == 4
    hours = {f"{moment_of(int(at)):%H:%M}" for at in told(ledger)}
    assert hours == {"04:00", "05:00"}, "six in Berlin, before and after"


@pytest.mark.parametrize(
    ("cron", "zone", "period", "since", "ticks", "wanted"),
    [
        ("30 1 * * *", "Europe/Berlin", "yesterday", "2026-10-23T12:00", 4, days("2026-10-22", 5)),
        ("30 1 * * *", "Europe/Berlin", "yesterday", "2026-03-27T12:00", 5, days("2026-03-27", 4)),
        ("0 19 * * *", "America/New_York", "yesterday", "2026-10-30T12:00", 3, days("2026-10-29", 4)),
        ("30 1 * * *", "Europe/Berlin", "last-month", "2026-10-23T12:00", 4, ["2026-09"]),
        ("30 1 1 * *", "Europe/Berlin", "last-month", "2026-09-30T12:00", 32, ["2026-08", "2026-09", "2026-10"]),
        ("0 * * * *", "Europe/Berlin", "yesterday", "2026-10-24T12:30", 2, days("2026-10-23", 3)),
    ],
)
@pytest.mark.parametrize("catch_up", [True, False])
def test_a_change_of_clocks_across_midnight_loses_and_doubles_nothing(
    make: Make,
    clock: Clock,
    cron: str,
    zone: str,
    period: str,
    since: str,
    ticks: int,
    wanted: list[str],
    catch_up: bool,
) -> None:
    """Where midnight of UTC is before the moment in winter, and after it in summer."""
    clock.now_us = moment(since)
    reports = make()
    reports.schedule(Wish(name="cost", cron=cron, zone=zone, period=period, catch_up=catch_up), owner="local")
    for _ in range(24 * ticks):
        clock.now_us += HOUR_US
        reports.store.tick(clock.now_us)
    with reports._ledger.database.reading() as connection:
        query = select(ReportRunRow.label).join(ReportDueRow, ReportDueRow.run_id == ReportRunRow.id)
        told = connection.scalars(query.order_by(ReportDueRow.due_at)).all()
    assert list(dict.fromkeys(told)) == wanted
    if period == "yesterday" and "*" not in cron.split()[1]:
        assert list(told) == wanted, "each is told once"


def test_no_schedule_stops_those_beside_it(make: Make, clock: Clock) -> None:
    """A day that begins when it is due has no past, a word may be of another version, a zone of another machine."""
    reports = make()
    for changes in ({}, {"period": "sometime"}, {"zone": "Nowhere/Never"}):
        found, _ = reports.schedule(Wish(name="cost", cron="0 0 * * *", period="today"), owner="local")
        if changes:
            reports.store.change_schedule(found.id, **changes)
    good, _ = reports.schedule(BERLIN, owner="local")
    go(clock, NOW + 3 * DAY_US, reports)
    assert sorted(labels(reports)) == days("2026-11-28", 3)
    assert reports.store.schedule(good.id).next_at > clock.now_us
    dated = {one.period: one.next_at for one in reports.store.schedules() if one.zone == "UTC"}
    assert dated == dict.fromkeys(("today", "sometime"), moment("2026-12-02"))


def test_a_leap_day_is_reported(make: Make, clock: Clock) -> None:
    clock.now_us = moment("2028-02-28T12:00")
    reports = make()
    reports.schedule(Wish(name="cost", cron="0 6 * * *"), owner="local")
    reports.schedule(Wish(name="cost", cron="0 7 1 * *", period="last-month"), owner="local")
    go(clock, moment("2028-03-01T12:00"), reports)
    assert labels(reports) == ["2028-02-28", "2028-02-29", "2028-02"]


def test_a_machine_that_slept_for_three_days_makes_up_for_them(make: Make, clock: Clock, ledger: Ledger) -> None:
    reports = make()
    reports.schedule(BERLIN, owner="local")
    go(clock, NOW + DAY_US, reports)
    go(clock, clock.now_us + 3 * DAY_US, reports, every=3 * DAY_US)
    assert labels(reports) == days("2026-11-28", 4)
    assert len(told(ledger)) == 4


def test_or_makes_the_last_alone(make: Make, clock: Clock) -> None:
    reports = make()
    reports.schedule(Wish(name="cost", cron="0 6 * * *", catch_up=False), owner="local")
    go(clock, NOW + 4 * DAY_US + HOUR_US, reports, every=4 * DAY_US + HOUR_US)
    assert labels(reports) == ["2026-12-01"]


def test_a_clock_that_is_set_back_makes_nothing_twice(make: Make, clock: Clock, ledger: Ledger) -> None:
    reports = make()
    reports.schedule(BERLIN, owner="local")
    go(clock, NOW + 2 * DAY_US, reports)
    clock.now_us -= 2 * DAY_US
    go(clock, NOW + 2 * DAY_US, reports)
    assert labels(reports) == days("2026-11-28", 2)
    assert len(told(ledger)) == 2


def test_many_schedulers_make_each_once(make: Make, clock: Clock, ledger: Ledger) -> None:
    """Four threads, each a scheduler with a holder of its own, over 12 due reports."""
    executed: list[str] = []
    lock = threading.Lock()

    def counted(job: Job, say: Say) -> Done:
        with lock:
            executed.append(job.title)
        return quick(job, say)

    schedulers = [make(execute=counted) for _ in range(4)]
    for user in ("", "local", "user-01"):
        schedulers[0].schedule(
            Wish(name="cost", cron="0 6 * * *", emails=("a@example.org",), subject=user), owner="local"
        )
    clock.now_us = NOW + 4 * DAY_US + HOUR_US
    failed: list[BaseException] = []

    def work(one: Reports) -> None:
        try:
            while one.step():
                continue
        except BaseException as error:  # noqa: BLE001  it is raised below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    while schedulers[0].step():  # what somebody had not yet put down when the others looked
        continue
    assert len(executed) == len(set(executed)) == 12
    history = schedulers[0].store.history(limit=100)
    assert [past.state for past in history] == [RunState.OK] * 12
    assert len(told(ledger)) == 12


def test_two_wishes_for_one_report_are_one_run_and_two_deliveries(make: Make, clock: Clock, ledger: Ledger) -> None:
    reports = make()
    reports.schedule(BERLIN, owner="local")
    reports.schedule(Wish(name="cost", cron="0 9 * * *", emails=("other@example.org",)), owner="local")
    go(clock, NOW + DAY_US + 4 * HOUR_US, reports)
    assert labels(reports) == ["2026-11-27", "2026-11-28"]  # the second wish is due today, too
    found = list(messages(ledger, topic="report.mail"))
    sent = sorted((moment_of(int(one.payload["due_at"])).day, str(one.payload["to"])) for one in found)
    assert sent == [(28, "other@example.org"), (29, "ops@example.org"), (29, "other@example.org")]


def test_who_has_lost_the_lease_ends_nothing(make: Make, clock: Clock, ledger: Ledger) -> None:
    """A process that hung while another one took its run over writes no history, no bill and no message."""
    second: list[Reports] = []

    def hangs(job: Job, say: Say) -> Done:
        clock.now_us += 3 * 60 * SECOND_US  # longer than the lease; its own thread for that hangs as well
        assert second[0].step()
        return quick(job, say)

    first = make(execute=hangs, lease_s=60.0)
    first.maker._lease_s = 10_000  # so that it says nothing; what it took, it took for a minute
    second.append(make(lease_s=60.0))
    first.schedule(BERLIN, owner="local")
    clock.now_us = NOW + DAY_US
    first.store.tick(clock.now_us)
    taken = first.store.take("first", lease_us=60 * SECOND_US)
    assert taken is not None
    assert not first.maker.make(taken, "first")
    history = first.store.history()
    assert [(past.attempt, past.state) for past in history] == [(2, RunState.OK)]
    assert len(told(ledger)) == 1
    assert sum(one.resource == "cpu" for one in ledger.usage(deployment="reports")) == 1
    assert ledger.balance("local").held_wei == 0


def test_who_waits_takes_over_what_nobody_makes_any_more(make: Make, clock: Clock) -> None:
    reports = make()
    own = UserReports(lambda: reports, user="local", everybodys=True)
    gone = reports.want("cost", owner="local")
    assert reports.store.take("killed", lease_us=60 * SECOND_US, run_id=gone.id) is not None
    with pytest.raises(DeadlineExceeded, match="is running"):
        own.run("cost", timeout=0.3)
    found: list[Made] = []
    waiting = threading.Thread(target=lambda: found.append(own.run("cost")))
    waiting.start()
    clock.now_us += 61 * SECOND_US
    waiting.join(60)
    assert [(one.id, one.state, one.attempts) for one in found] == [(gone.id, RunState.OK, 2)]


def test_what_is_begun_is_made_once_also_where_somebody_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What makes it has begun, and gets no further before who waits asks for the same."""
    reports = make()
    own = UserReports(lambda: reports, user="local", everybodys=True)
    first = own.run("cost")
    asked = threading.Event()
    monkeypatch.setattr(reports, "_sweep", lambda: asked.wait(30))
    own.again(first.id)
    reports.go_on(first.id)
    asked.set()
    for one in threading.enumerate():
        if one.name == "rios-report":
            one.join(30)
    assert [past.attempt for past in reports.store.history()] == [2, 1]
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_who_asks_for_what_is_to_be_tried_later_has_it_made_now(make: Make) -> None:
    def fails(job: Job, say: Say) -> Done:
        raise OSError("no room on the disk")

    reports = make(execute=fails)
    own = UserReports(lambda: reports, user="local", everybodys=True)
    assert own.run("cost").state == RunState.QUEUED
    reports.maker._execute = quick
    assert own.wait(own.want("cost").id, timeout=60).state == RunState.OK


def test_who_is_interrupted_leaves_nothing_to_wait_for(make: Make, ledger: Ledger) -> None:
    def interrupted(job: Job, say: Say) -> Done:
        raise KeyboardInterrupt

    own = [
        UserReports(lambda one=one: one, user="local", everybodys=True) for one in (make(execute=interrupted), make())
    ]  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt):
        own[0].run("cost")
    assert ledger.balance("local").held_wei == 0
    made = own[1].run("cost", timeout=30)
    assert (made.state, made.attempts) == (RunState.OK, 2)


def test_what_is_to_be_tried_later_is_not_tried_at_each_look(make: Make, clock: Clock) -> None:
    def fails(job: Job, say: Say) -> Done:
        raise OSError("no room on the disk")

    reports = make(execute=fails)
    own = UserReports(lambda: reports, user="local", everybodys=True)
    first = own.run("cost")
    assert (first.state, first.attempts) == (RunState.QUEUED, 1)
    with pytest.raises(DeadlineExceeded, match="is queued"):
        own.wait(first.id, timeout=0.5)
    assert own.get(first.id).attempts == 1
    reports.maker._execute = quick
    clock.now_us += 2 * 60 * SECOND_US
    assert own.wait(first.id, timeout=60).state == RunState.OK


def test_paused_is_not_made_up_for(make: Make, clock: Clock) -> None:
    reports = make()
    found, _ = reports.schedule(BERLIN, owner="local")
    reports.pause(found.id)
    go(clock, NOW + 2 * DAY_US, reports)
    assert labels(reports) == []
    reports.resume(found.id)
    go(clock, NOW + 3 * DAY_US, reports)
    assert labels(reports) == ["2026-11-30"]
    reports.delete(found.id)
    go(clock, NOW + 4 * DAY_US, reports)
    assert labels(reports) == ["2026-11-30"]
    with pytest.raises(NotFound, match="rios report list"):
        reports.pause(found.id)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(name="nothing", cron="0 6 * * *"), "no report 'nothing'"),
        (Wish(name="cost", cron="0 6 * *"), "no cron expression"),
        (Wish(name="cost", cron="0 6 * * *", zone="Nowhere"), "no time zone"),
        (Wish(name="cost", cron="0 6 * * *", period="2026-11"), "the same each time"),
        (Wish(name="cost", cron="0 6 * * *", emails=("nobody",)), "no e-mail address"),
        (Wish(name="cost", cron="0 6 * * *", webhooks=("http://127.0.0.1/x",)), "https"),
        (Wish(name="cost", cron="0 6 * * *", webhooks=("https://10.0.0.1/x",)), "not public"),
        (Wish(name="cost", cron="0 6 * * *", parameters={"data": "/etc/passwd"}), "no parameter 'data'"),
        (Wish(name="cost", cron="0 6 * * *", emails=tuple(f"a{n}@b.org" for n in range(21))), "at most 20"),
    ],
)
def test_what_could_never_be_made_is_refused(make: Make, wish: Wish, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        make().schedule(wish, owner="local")


def test_nobody_schedules_without_bound(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.services.reports.reports.SCHEDULES_MAX", 2)
    reports = make()
    for _ in range(2):
        reports.schedule(BERLIN, owner="local")
    with pytest.raises(QueueFull, match="at most 2 schedules"):
        reports.schedule(BERLIN, owner="local")


def test_rights_are_those_of_the_moment(make: Make, clock: Clock) -> None:
    """Whose right ends has no report made any more, though it was scheduled in time."""
    allowed = {"yes": True}

    def may(owner: str, subject: str) -> None:
        if not allowed["yes"]:
            raise NotAllowed(f"{owner} may not see the costs of {subject or 'everybody'}")

    reports = make(may=may)
    reports.schedule(BERLIN, owner="local")
    allowed["yes"] = False
    with pytest.raises(NotAllowed):
        reports.schedule(BERLIN, owner="local")
    go(clock, NOW + DAY_US, reports)
    past = reports.store.history()[0]
    assert (past.state, past.folder) == (RunState.FAILED, "")
    assert "may not see" in past.error
