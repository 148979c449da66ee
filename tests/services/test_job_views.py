"""What gateways tell each other of their generations, so that the list of each has those of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select

from rios.billing.ledger import Ledger
from rios.dmoe.params import SamplingParams
from rios.services.job_records import JobRecords, Progress
from rios.services.job_views import KEPT_S, JobViews
from rios.services.jobs import Jobs, JobView
from rios.storage.gateway_models import JobViewRow
from rios.words.errors import Elsewhere, LedgerUnavailable, NotFound
from tests.billing.clock import SECOND_US, Clock
from tests.billing.ledger.work import charge, hold
from tests.storage.databases import KINDS, drop_database, new_tables


@dataclass
class Running:
    """A generation, as far as `Jobs` looks at it."""

    request_id: str
    status: str = "queued"
    token_ids: tuple[int, ...] = ()
    prompt: tuple[int, ...] = (1, 2)
    params: SamplingParams = field(default_factory=lambda: SamplingParams(max_new_tokens=9))
    tokens_per_s: float | None = None
    accounted: bool = False
    error: Exception | None = None
    cancels: int = 0

    def cancel(self) -> None:
        self.cancels += 1

    def goes_on(self, tokens: int) -> None:
        self.status, self.token_ids = "running", tuple(range(tokens))

    def ends(self, tokens: int) -> None:
        self.goes_on(tokens)
        self.status, self.accounted = "done", True


class Gateway:
    """One of a network, without doors and workers."""

    def __init__(self, ledger: Ledger, name: str, moment: list[float]) -> None:
        self.jobs = Jobs()
        self.views = JobViews(ledger, self.jobs, gateway=name, url=f"https://{name}.test", clock=lambda: moment[0])

    def begins(self, name: str, owner: str = "ann", asked: list[str] | None = None) -> Running:
        """asked: takes the name each time that it is asked what the job costs."""
        job: Any = Running(name)

        def cost(view: JobView) -> tuple[int, bool]:
            if asked is not None:
                asked.append(view.id)
            return 7, view.posted

        self.jobs.add(
            job, owner=owner, model="demo", decode=str, again=lambda: job, cost=cost,
            hosts=lambda: ("h1",),
        )  # fmt: skip
        found: Running = job
        return found

    def of(self, owner: str) -> dict[str, JobView]:
        return {view.id: view for view in self.jobs.all(owner)}


@dataclass
class Network:
    """Two gateways, and their clocks."""

    one: Gateway
    other: Gateway
    clock: Clock
    moment: list[float]
    ledger: Ledger

    def look(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            for gateway in (self.one, self.other):
                gateway.views.look()

    def passes(self, seconds: float) -> None:
        self.moment[0] += seconds
        self.clock.now_us += int(seconds * SECOND_US)

    def without_the_first(self, seconds: int) -> None:
        """It is dead, and the other looks every second."""
        for _ in range(seconds):
            self.passes(1)
            self.other.views.look()

    def rows(self) -> int:
        with self.ledger.database.reading() as connection:
            return connection.scalar(select(func.count()).select_from(JobViewRow)) or 0


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    clock, moment = Clock(), [1000.0]
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, clock=clock) as ledger:
        yield Network(Gateway(ledger, "a", moment), Gateway(ledger, "b", moment), clock, moment, ledger)
    drop_database(url)


def test_each_lists_the_jobs_of_all(net: Network) -> None:
    net.ledger.grant_trial("ann", 100)
    hold(net.ledger, 50)  # of the request r1
    job = net.one.begins("r1")
    net.other.begins("theirs")
    net.one.begins("hers", owner="eve")
    net.look(2)
    assert set(net.one.of("ann")) == set(net.other.of("ann")) == {"r1", "theirs"}
    assert set(net.other.of("eve")) == {"hers"}
    with pytest.raises(NotFound):
        net.other.jobs.view("r1", "eve")
    net.ledger.settle("h1", [charge(20)])
    job.ends(9)
    net.look()
    assert net.other.of("ann")["r1"] == net.one.of("ann")["r1"]
    found = net.other.of("ann")["r1"]
    assert (found.state, found.tokens, found.posted, found.cost_wei, found.hosts) == ("done", 9, True, 20, ("h1",))


def test_nobody_finds_out_what_a_job_costs_by_now_unless_somebody_looks(net: Network) -> None:
    asked: list[str] = []
    job = net.one.begins("job", asked=asked)
    for tokens in range(1, 5):
        job.goes_on(tokens)
        net.look()
    assert asked == []
    net.other.jobs.peek(0, "ann")
    net.look(2)
    assert asked == ["job"]
    assert net.other.of("ann")["job"].cost_wei == 7
    job.ends(5)
    net.look()
    assert asked == ["job"], "what ended is asked for in one question for all"


def test_what_began_and_ended_between_two_looks_is_told(net: Network) -> None:
    net.one.begins("job").ends(3)
    net.look()
    assert net.other.of("ann")["job"].tokens == 3
    told = net.other.jobs.peek(0)[0]
    net.look(2)
    assert net.other.jobs.peek(0)[0] == told, "once"


def test_a_job_advances_while_somebody_looks(net: Network) -> None:
    job = net.one.begins("job")
    net.look()
    job.goes_on(2)
    net.look(2)
    assert net.other.jobs._entries["job"].view.tokens == 0, "nobody looked, and nothing was written"
    assert set(net.other.of("eve")) == set()
    net.look(2)
    assert net.other.jobs._entries["job"].view.tokens == 0, "only another looked"
    version, _ = net.other.jobs.peek(0, "ann")
    net.look(2)
    assert net.other.jobs.changed(version, 0.0, "ann")[1][0].tokens == 2
    job.goes_on(4)
    net.look(2)
    changed = net.other.jobs.peek(version, "ann")[1]
    assert [(one.id, one.tokens, one.state) for one in changed] == [("job", 4, "running")]


def test_any_gateway_cancels_and_none_has_anothers_text(net: Network) -> None:
    job = net.one.begins("job")
    net.look()
    with pytest.raises(Elsewhere, match=r"job job is one of a at https://a\.test"):
        net.other.jobs.text("job")
    for verb in (net.other.jobs.params, net.other.jobs.prompt, net.other.jobs.retry):
        with pytest.raises(Elsewhere):
            verb("job")
    net.other.jobs.cancel("job")
    assert job.cancels == 0
    net.look()
    assert job.cancels == 1
    job.status, job.accounted = "cancelled", True
    net.look()
    assert net.other.of("ann")["job"].state == "cancelled"
    before = job.cancels
    net.other.jobs.cancel("job")
    net.look()
    assert job.cancels == before, "what has ended is left alone"


def test_a_version_of_another_gateway_begins_anew(net: Network) -> None:
    net.one.begins("job")
    net.look()
    version, _ = net.one.jobs.peek(0, "ann")
    assert net.one.jobs.peek(version, "ann")[1] == []
    assert [one.id for one in net.other.jobs.peek(version, "ann")[1]] == ["job"]
    assert version < 2**53, "browsers count so far"


def test_a_job_whose_gateway_died_is_lost(net: Network) -> None:
    net.ledger.grant_trial("ann", 100)
    hold(net.ledger, 50)  # of the request r1
    net.ledger.settle("h1", [charge(20)], final=False)
    job = net.one.begins("r1")
    job.goes_on(2)
    net.look()
    net.without_the_first(5)
    assert net.other.of("ann")["r1"].live, "its lease lasts still"
    net.without_the_first(4)
    found = net.other.of("ann")["r1"]
    assert (found.state, found.live, found.cost_wei, found.posted) == ("lost", False, 20, False)
    assert "a at https://a.test, which ran it, has ended" in found.error
    assert found.ended_at == pytest.approx(net.clock.now_us / SECOND_US, abs=3)
    # The one that was only slow says so, and is believed again.
    job.goes_on(3)
    net.look(2)
    assert net.other.of("ann")["r1"].live
    job.ends(4)
    net.look()
    assert net.other.of("ann")["r1"].tokens == 4


def test_a_recorded_job_is_lost_after_its_record(net: Network) -> None:
    """Its money is given back first: the list shows what it costs then. One that ended in its record has ended."""
    net.ledger.grant_trial("ann", 100)
    hold(net.ledger, 50)
    net.ledger.settle("h1", [charge(20)], final=False)
    first, second = (
        JobRecords(net.ledger, key=bytes(32), gateway=name, kept_s=60, clock=lambda: net.moment[0]) for name in "ab"
    )
    for name in ("r1", "ended"):
        first.begin(name, "ann", "demo")
        net.one.begins(name).goes_on(1)
    net.look()
    first.write("ended", "ann", "demo", Progress(state="done", tokens=5, ended=True))
    net.without_the_first(9)
    assert net.other.of("ann")["r1"].live, "its record goes on"
    assert (net.other.of("ann")["ended"].state, net.other.of("ann")["ended"].tokens) == ("done", 5)
    second.sweep()
    net.passes(7)
    second.sweep()
    net.other.views.look()
    found = net.other.of("ann")["r1"]
    assert (found.state, found.cost_wei) == ("lost", 0)
    assert "refunded" in found.error


def test_who_comes_late_hears_of_all_in_few_questions(net: Network) -> None:
    for number in range(30):
        net.one.begins(f"job-{number}").ends(number % 9)
    net.look()
    late = Gateway(net.ledger, "c", net.moment)
    asked: list[str] = []

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "job_views" in statement:
            asked.append(statement)

    event.listen(net.ledger.database.engine, "before_cursor_execute", count)
    late.views.look()
    first, asked[:] = len(asked), []
    net.one.begins("one more").ends(1)
    net.look()
    asked.clear()
    late.views.look()
    event.remove(net.ledger.database.engine, "before_cursor_execute", count)
    assert first == len(asked) == 2, "what is new, and who has died: as many for one as for thirty"
    assert late.of("ann") == net.one.of("ann")


def test_a_database_that_was_away_loses_nothing(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    job = net.one.begins("job")
    net.look()

    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(net.ledger, "transact", away)
        net.passes(30)
        job.ends(5)
        net.one.begins("while it was away")
        with pytest.raises(LedgerUnavailable):
            net.one.views.look()
        with pytest.raises(LedgerUnavailable):
            net.other.views.look()  # to which the first one seems dead
    net.other.views.look()
    assert net.other.of("ann")["job"].state == "queued", "it was not there for a lease"
    net.look()
    found = net.other.of("ann")
    assert (found["job"].state, found["while it was away"].state) == ("done", "queued")


def test_what_ended_a_day_ago_is_forgotten_and_no_number_comes_twice(net: Network) -> None:
    for name in ("one", "two"):
        net.one.begins(name).ends(1)
    net.look()
    net.passes(KEPT_S + 11)
    net.look()
    assert net.rows() == 1, "the last one keeps its number"
    net.one.begins("three")
    net.look()
    assert "three" in net.other.of("ann")
    late = Gateway(net.ledger, "c", net.moment)
    net.passes(11)
    net.look()
    late.views.look()
    assert set(late.of("ann")) == {"three"}
