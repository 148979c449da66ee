"""Where requests go when a trunk is lost: nobody is forgotten, whoever notices first; no token comes twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from rios.dmoe.generator import Generator
from rios.dmoe.job import Job
from rios.dmoe.params import SamplingParams
from rios.dmoe.peer import Peer
from rios.dmoe.tokenizer import Tokenizing
from rios.words.config import Settings
from rios.words.errors import HostLost, NetworkClosed, RiosError, TrunkLost
from tests.waiting import until

PEERS = [Peer(name, ("127.0.0.1", 1), "key", "machine") for name in "abc"]
PARAMS = SamplingParams(max_new_tokens=4)


class Session:
    """What a generator sees of a connection to a trunk."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.alive = True
        self.breaks = False
        self.sent: list[tuple[int, list[int]]] = []
        self.cancelled: list[int] = []

    def submit(self, jobs: Sequence[Job], eos: list[int]) -> None:
        begun = [(job.handle, said[0]) for job in jobs if (said := job.begin(self)) is not None]
        if self.breaks:
            raise HostLost("sending a SUBMIT frame failed")
        self.sent.extend(begun)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job.handle)

    def close(self) -> None:
        self.alive = False


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    opened: list[Session] = []

    def open_(self: Generator, peer: Peer) -> Session:
        opened.append(Session(peer))
        return opened[-1]

    monkeypatch.setattr(Generator, "_open", open_)
    return opened


def make(peers: list[Peer] = PEERS, **settings: Any) -> Generator:
    return Generator(
        "deployment",
        Settings(**settings),
        trunks=lambda: peers,
        want_trunk=lambda: None,
        tokenizing=Tokenizing(None),
        eos=[],
        sinks=[],
    )


def begun(opened: list[Session]) -> Generator:
    """A generator with a trunk and a stand-by."""
    generator = make()
    generator.start()
    until(lambda: generator._standby is not None, "a stand-by", deadline_s=10.0)
    assert len(opened) == 2
    return generator


def test_nobody_waits_for_a_stand_by_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk is lost while the only other host is frozen: who submits goes on with the next trunk at once."""
    frozen, thawed = threading.Event(), threading.Event()
    opened: list[Session] = []

    def open_(self: Generator, peer: Peer) -> Session:
        if peer is PEERS[1]:
            frozen.set()
            if not thawed.wait(60.0):
                raise HostLost("nobody has thawed it")
        opened.append(Session(peer))
        return opened[-1]

    monkeypatch.setattr(Generator, "_open", open_)
    generator = make(PEERS[:2])
    generator.start()
    assert frozen.wait(60.0)
    generator.refresh()  # as whoever looks after the hosts does all the time: one attempt at a time
    job = generator.submit([1], PARAMS)
    opened[0].alive = False
    generator._lost(opened[0], "killed")
    assert [session.peer for session in opened] == [PEERS[0], PEERS[0]]
    assert opened[1].sent == [(job.handle, [1])]
    thawed.set()
    until(lambda: generator._standby is not None, "the stand-by, once it answers", deadline_s=10.0)
    generator.close()


class Frozen:
    """Hosts that accept a connection and say nothing, until told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *peers: Peer) -> None:
        self.opened: list[Session] = []
        self.reached, self.thawed = threading.Event(), threading.Event()

        def open_(generator: Generator, peer: Peer) -> Session:
            if peer in peers:
                self.reached.set()
                if not self.thawed.wait(60.0):
                    raise HostLost("nobody has thawed it")
            self.opened.append(Session(peer))
            return self.opened[-1]

        monkeypatch.setattr(Generator, "_open", open_)


class Asking:
    """A request that is submitted in a thread, and what came of it."""

    def __init__(self, generator: Generator, prompt: int) -> None:
        self.job: Job | None = None
        self.error: RiosError | None = None
        self._thread = threading.Thread(target=self._ask, args=(generator, prompt), daemon=True)
        self._thread.start()

    def _ask(self, generator: Generator, prompt: int) -> None:
        try:
            self.job = generator.submit([prompt], PARAMS)
        except RiosError as error:
            self.error = error

    def ended(self) -> bool:
        self._thread.join(60.0)
        return not self._thread.is_alive()


def test_each_request_waits_for_a_frozen_trunk_by_a_deadline_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """None waits behind another one's connection, and each is told whom it was for."""
    frozen = Frozen(monkeypatch, PEERS[0])
    generator = make(PEERS[:1], trunk_timeout_s=0.2)
    asking = [Asking(generator, prompt) for prompt in range(3)]
    assert all(one.ended() for one in asking), "somebody waits for the connection of somebody else"
    for one in asking:
        assert isinstance(one.error, TrunkLost)
        assert "no answer so far from a" in str(one.error)
    assert not generator.jobs
    frozen.thawed.set()
    generator.close()


def test_all_go_on_with_another_trunk_while_one_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks after the hosts has found another: it takes requests that wait, and those that come."""
    frozen = Frozen(monkeypatch, PEERS[0])
    peers = PEERS[:1]
    generator = make(peers)
    generator._trunks = lambda: peers
    first = Asking(generator, 1)
    assert frozen.reached.wait(60.0)
    peers = PEERS[1:2]
    generator.refresh()
    assert first.ended(), "it waits for the frozen one"
    second = generator.submit([2], PARAMS)
    assert first.job is not None
    (session,) = frozen.opened
    assert session.peer is PEERS[1]
    assert session.sent == [(first.job.handle, [1]), (second.handle, [2])]
    assert not frozen.thawed.is_set()
    frozen.thawed.set()
    until(lambda: not generator._connecting, "the end of the attempt", deadline_s=10.0)
    assert generator._active is session
    generator.close()


def test_who_gives_up_leaves_those_alone_who_still_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a lost trunk fail with whoever gives up; one whose caller came later has a deadline of its own."""
    frozen = Frozen(monkeypatch, PEERS[0])
    generator = make(PEERS[:1], trunk_timeout_s=0.5)
    early = Asking(generator, 1)
    assert frozen.reached.wait(60.0)
    generator._settings = Settings(trunk_timeout_s=60.0)
    late = Asking(generator, 2)
    until(lambda: len(generator.jobs) == 2 or early.error is not None, "both wait", deadline_s=10.0)
    assert early.ended()
    assert isinstance(early.error, TrunkLost)
    frozen.thawed.set()
    assert late.ended()
    assert late.job is not None, late.error
    assert late.job.server is frozen.opened[0]
    assert frozen.opened[0].sent == [(late.job.handle, [2])]
    generator.close()


def test_a_stand_by_that_cannot_be_had_at_first_is_had_later(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = 2

    def open_(self: Generator, peer: Peer) -> Session:
        nonlocal refusals
        if peer is PEERS[1] and refusals:
            refusals -= 1
            raise HostLost("it is being started")
        return Session(peer)

    monkeypatch.setattr(Generator, "_open", open_)
    generator = make(PEERS[:2])
    generator.start()

    def there() -> bool:
        generator.refresh()
        return generator._standby is not None

    until(there, "the stand-by of a later attempt", deadline_s=10.0)
    assert refusals == 0
    generator.close()


def test_both_are_had_again_though_nobody_asks(opened: list[Session]) -> None:
    """All hosts were frozen for a while: the next request waits for no connection, and its loss costs none."""
    generator = begun(opened)
    for session in list(opened):
        session.alive = False
        generator._lost(session, "frozen")

    def there() -> bool:
        generator.refresh()
        return generator.active is not None and generator._standby is not None

    until(there, "a trunk and a stand-by", deadline_s=10.0)
    active, standby = generator._active, generator._standby
    assert active is not None
    assert standby is not None
    assert active.peer != standby.peer
    active.alive = False  # type: ignore[misc]
    until(there, "a stand-by that takes over while nobody asks, and another one", deadline_s=10.0)
    assert generator._active is standby
    generator.close()


def test_a_request_that_notices_the_loss_first_takes_the_others_along(opened: list[Session]) -> None:
    """The reading thread marks its session dead, then waits for the lock that a submit has just taken."""
    generator = begun(opened)
    first, standby = opened
    old = generator.submit([1], PARAMS)
    old.take(first, tokens=[7])
    first.alive = False
    new = generator.submit([2], PARAMS)
    generator._lost(first, "silent")
    assert sorted(standby.sent) == [(old.handle, [1, 7]), (new.handle, [2])]
    assert (old.replays, new.replays, generator.replays) == (1, 0, 1)


def test_the_reader_that_notices_takes_all_along(opened: list[Session]) -> None:
    generator = make()
    jobs = [generator.submit([1 + place], PARAMS) for place in range(3)]
    opened[0].alive = False
    generator._lost(opened[0], "silent")
    assert [handle for handle, _ in opened[1].sent] == [job.handle for job in jobs]
    generator._lost(opened[1], "only a late word of one that nobody uses")
    assert [job.replays for job in jobs] == [1, 1, 1]


def test_a_trunk_that_breaks_while_it_is_sent_a_request(opened: list[Session]) -> None:
    generator = begun(opened)
    old = generator.submit([1], PARAMS)
    opened[0].breaks = opened[1].breaks = True
    new = generator.submit([2], PARAMS)
    assert [session.alive for session in opened] == [False, False, True]
    assert sorted(opened[2].sent) == [(old.handle, [1]), (new.handle, [2])]


def test_what_the_lost_trunk_still_says_is_not_heard(opened: list[Session]) -> None:
    """Its reader may be inside a frame while somebody else takes the request over."""
    generator = begun(opened)
    job = generator.submit([1], PARAMS)
    first, second = opened
    job.take(first, tokens=[5])
    first.alive = False
    generator._lost(first, "silent")
    assert second.sent == [(job.handle, [1, 5])]
    assert not job.take(first, tokens=[6], finish="length")
    assert job.status == "running"
    job.take(second, tokens=[6])
    assert job.take(second, tokens=[7], finish="length")
    assert job.result(0).token_ids == (5, 6, 7)


def test_without_any_trunk_requests_fail_by_the_deadline(opened: list[Session]) -> None:
    peers = PEERS[:1]
    generator = make(peers, trunk_timeout_s=0.05)
    old = generator.submit([1], PARAMS)
    opened[0].alive = False
    peers = []
    generator._trunks = lambda: peers
    with pytest.raises(TrunkLost, match="no trunk within"):
        generator.submit([2], PARAMS)
    with pytest.raises(TrunkLost, match="no trunk within"):
        old.result(0)
    assert not generator.jobs


def test_closing_ends_what_is_open_and_what_comes_late(opened: list[Session]) -> None:
    generator = make()
    job = generator.submit([1], PARAMS)
    generator.close()
    assert job.status == "cancelled"
    with pytest.raises(NetworkClosed):
        generator.submit([2], PARAMS)
    assert not any(session.alive for session in opened)


def test_many_threads_and_many_losses_forget_nobody(opened: list[Session]) -> None:
    generator = make()
    jobs: list[Job] = []

    def submit() -> None:
        jobs.extend(generator.submit([1], PARAMS) for _ in range(50))

    def lose() -> None:
        for _ in range(50):
            session = generator._active
            if session is not None:
                session.alive = False
                generator._lost(session, "silent")

    threads = [threading.Thread(target=work) for work in (submit, submit, lose)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    generator.submit([2], PARAMS)
    active = generator._active
    assert len(jobs) == 100
    assert all(job.server is active for job in jobs)
