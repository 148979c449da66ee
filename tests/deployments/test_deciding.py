"""What is decided for one deployment, played against replicas that start, fail and end at any moment."""

from __future__ import annotations

import dataclasses
import random

import pytest

from rios.deploy.deciding import FAILURES_MAX, SECOND, UPDATE_FAILURES_MAX, Seen, Wanted, backoff_us, decide
from rios.deploy.lifecycle import LIVING, State, Wish, check_step

S = State
PLAIN = Wanted(
    wish=Wish.RUN, state=S.REQUESTED, paid=True, revision=1, round=0, replicas=3, settled_revision=None,
    good_revision=None, reached=0, failures=0, retry_at=0, since=0, surge=1, unavailable=0, strategy="rolling",
    deadline_us=300 * SECOND, restarts="always",
)  # fmt: skip


class Play:
    """Replicas as hosts would have them, and a deployment that follows its decisions."""

    def __init__(self, app: Wanted, seed: int) -> None:
        self.app = app
        self.random = random.Random(seed)
        self.replicas: dict[str, Seen] = {}
        self.made = 0
        self.now = 0
        self.broken: set[int] = set()

    def ready(self, revision: int | None = None) -> int:
        return sum(r.state is S.READY and revision in (None, r.revision) for r in self.replicas.values())

    def living(self) -> int:
        return sum(one.state in LIVING for one in self.replicas.values())

    def step(self) -> None:
        self.now += SECOND
        self._hosts()
        found = decide(self.app, list(self.replicas.values()), now=self.now)
        if found.back_to is not None:
            self.app = dataclasses.replace(self.app, revision=found.back_to, failures=0, retry_at=0, since=self.now)
            return
        for name, _ in found.end:
            self.replicas[name] = dataclasses.replace(self.replicas[name], state=S.STOPPING)
        for _ in range(found.begin):
            self.made += 1
            name = f"r{self.made}"
            new = Seen(
                id=name, revision=self.app.revision, round=self.app.round, state=S.SCHEDULED, created_at=self.now
            )
            self.replicas[name] = new
        if found.state is not self.app.state:
            check_step("deployment", "it", self.app.state, found.state)
        self.app = dataclasses.replace(
            self.app, state=found.state, settled_revision=found.settled_revision, good_revision=found.good_revision,
            reached=found.reached,
        )  # fmt: skip

    def _hosts(self) -> None:
        for name, one in list(self.replicas.items()):
            if one.state is S.STOPPING:
                if self.random.random() < 0.5:
                    del self.replicas[name]
            elif one.state is not S.READY and self.random.random() < 0.6:
                if one.revision in self.broken:
                    self.fail(name)
                else:
                    self.replicas[name] = dataclasses.replace(one, state=S.READY, ready_at=self.now)

    def fail(self, name: str) -> None:
        one = self.replicas[name]
        self.replicas[name] = dataclasses.replace(one, state=S.STOPPING)
        if one.revision == self.app.revision:
            failures = self.app.failures + 1
            retry = self.now + backoff_us(failures)
            self.app = dataclasses.replace(self.app, failures=failures, retry_at=retry)

    def settle(self, state: State = S.READY, *, steps: int = 400) -> None:
        for _ in range(steps):
            self.step()
            if self.app.state is state and all(one.state in LIVING for one in self.replicas.values()):
                return
        raise AssertionError(f"{self.app.state}, not {state}, after {steps} s: {self.replicas}")


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (2, 2), (5, 0)])
def test_a_rolling_update_stays_within_its_bounds(seed: int, surge: int, unavailable: int) -> None:
    play = Play(dataclasses.replace(PLAIN, surge=surge, unavailable=unavailable), seed)
    play.settle()
    assert play.ready() == 3
    play.app = dataclasses.replace(play.app, revision=2, since=play.now)
    while play.app.state is not S.READY or play.app.settled_revision != 2:
        before = play.ready()
        play.step()
        assert play.living() <= 3 + surge
        # What is taken away by decision leaves enough; nothing fails in this play.
        assert play.ready() >= min(before, 3 - unavailable)
        assert play.now < 300 * SECOND
    assert play.ready(2) == 3
    assert play.app.good_revision == 2


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("strategy", ["rolling", "blue-green", "canary"])
def test_a_broken_revision_is_left_and_the_good_one_never_stops(seed: int, strategy: str) -> None:
    play = Play(dataclasses.replace(PLAIN, strategy=strategy), seed)
    play.settle()
    play.broken = {2}
    play.app = dataclasses.replace(play.app, revision=2, since=play.now)
    for _ in range(100):
        play.step()
        assert play.ready(1) == 3
        if play.app.revision == 1:
            break
    play.settle()
    assert (play.app.revision, play.ready(1)) == (1, 3)


def test_an_update_that_takes_too_long_goes_back() -> None:
    app = dataclasses.replace(PLAIN, revision=2, good_revision=1, settled_revision=1, state=S.UPDATING)
    assert decide(app, [], now=300 * SECOND).back_to is None
    assert decide(app, [], now=301 * SECOND).back_to == 1
    assert decide(dataclasses.replace(app, failures=UPDATE_FAILURES_MAX), [], now=SECOND).back_to == 1
    job = dataclasses.replace(app, state=S.FAILED, failures=1, restarts="never")
    found = decide(job, [], now=301 * SECOND)
    assert (found.state, found.back_to) == (S.FAILED, None), "what is not tried any more is not gone back from"


def test_one_that_never_starts_is_given_up_and_backs_off_before() -> None:
    play = Play(PLAIN, 1)
    play.broken = {1}
    play.settle(S.FAILED)
    assert play.app.failures >= FAILURES_MAX
    made = play.made
    for _ in range(20):
        play.step()
    assert (play.made, play.living()) == (made, 0)
    waits = [backoff_us(n) / SECOND for n in range(1, 12)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == 60


def test_a_deployment_that_was_ready_is_tried_for_ever() -> None:
    play = Play(PLAIN, 2)
    play.settle()
    play.broken = {1}
    for name in list(play.replicas):
        play.fail(name)
    for _ in range(100):
        play.step()
    assert play.app.state is S.DEGRADED
    play.broken = set()
    play.settle()


@pytest.mark.parametrize("seed", range(10))
def test_scaling_pausing_and_deleting_come_to_what_is_wanted(seed: int) -> None:
    play = Play(PLAIN, seed)
    play.settle()
    for wanted in (5, 1, 0, 2):
        oldest = min(play.replicas.values(), key=lambda one: one.created_at, default=None)
        play.app = dataclasses.replace(play.app, replicas=wanted, reached=min(play.app.reached, wanted))
        for _ in range(60):
            play.step()
        assert (play.app.state, play.ready(), play.living()) == (S.READY, wanted, wanted)
        if wanted and oldest is not None:
            assert min(one.created_at for one in play.replicas.values()) == oldest.created_at, "the oldest stays"
    play.app = dataclasses.replace(play.app, wish=Wish.PAUSE, state=S.PAUSED)
    play.settle(S.PAUSED)
    assert not play.replicas
    play.app = dataclasses.replace(play.app, wish=Wish.DELETE, state=S.STOPPING)
    play.settle(S.STOPPED)


@pytest.mark.parametrize("seed", range(5))
def test_what_no_replica_has_tried_is_not_good_and_is_left_when_it_is_woken(seed: int) -> None:
    play = Play(PLAIN, seed)
    play.settle()
    play.broken = {2}
    play.app = dataclasses.replace(play.app, replicas=0, reached=0)
    play.settle()
    play.app = dataclasses.replace(play.app, revision=2, since=play.now, state=S.UPDATING)
    for _ in range(400):
        play.step()
    app = play.app
    assert (app.state, app.revision, app.settled_revision, app.good_revision) == (S.READY, 2, 1, 1)
    play.app = dataclasses.replace(app, replicas=1, since=play.now)
    began = play.now
    while play.app.revision == 2:
        play.step()
    assert play.app.failures == 0
    while not play.ready(1):
        play.step()
    assert play.now - began < 30 * SECOND
    assert (play.app.state, play.app.good_revision) == (S.READY, 1)
    play.broken = set()
    play.app = dataclasses.replace(play.app, replicas=0, reached=0, revision=3, since=play.now, state=S.UPDATING)
    play.settle()
    play.app = dataclasses.replace(play.app, replicas=1, since=play.now)
    play.step()
    play.settle()
    assert (play.ready(3), play.app.settled_revision, play.app.good_revision) == (1, 3, 3)
    play.app = dataclasses.replace(play.app, replicas=0, reached=0, settled_revision=None, state=S.REQUESTED)
    play.settle()
    assert play.app.settled_revision == 3, "it was ready once"


def test_what_was_never_tried_is_given_up_when_it_is_woken() -> None:
    play = Play(dataclasses.replace(PLAIN, replicas=0), 1)
    play.broken = {1}
    play.settle()
    assert (play.app.settled_revision, play.app.good_revision) == (None, None)
    play.app = dataclasses.replace(play.app, replicas=1)
    play.settle(S.FAILED)
    assert play.app.failures >= FAILURES_MAX


def test_out_of_money_ends_replicas_and_keeps_the_rest() -> None:
    play = Play(PLAIN, 4)
    play.settle()
    play.app = dataclasses.replace(play.app, paid=False)
    play.settle(S.PAUSED)
    assert not play.replicas
    assert play.app.wish is Wish.RUN


def test_a_canary_proves_itself_alone_first() -> None:
    play = Play(dataclasses.replace(PLAIN, strategy="canary"), 5)
    play.settle()
    play.app = dataclasses.replace(play.app, revision=2, since=play.now)
    begun = play.now
    while play.ready(2) < 2:
        play.step()
        assert play.ready(1) >= 2 or play.ready(2) >= 2
    assert play.now - begun >= 30 * SECOND
    play.settle()
    assert play.ready(2) == 3


def test_a_restart_replaces_step_by_step() -> None:
    play = Play(PLAIN, 6)
    play.settle()
    before = set(play.replicas)
    play.app = dataclasses.replace(play.app, round=1)
    play.step()
    assert play.app.state is S.UPDATING
    while play.app.state is not S.READY:
        play.step()
        assert play.ready() >= 3
    assert not before & {name for name, one in play.replicas.items() if one.state in LIVING}
