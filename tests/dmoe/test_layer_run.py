"""One layer's rows on their way: what is dropped, late or silent meanwhile does not show in the answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rios.dmoe.calls import Exec
from rios.dmoe.dispatch import Dispatcher
from rios.dmoe.experts import ExpertStore
from rios.dmoe.host import Host
from rios.dmoe.link import Link, State
from rios.dmoe.links import Links
from rios.dmoe.seam import StepContext
from rios.words.errors import ExpertsUnavailable
from tests import checkpoints, waiting
from tests.hosting import DEADLINE_S, Hosting, hosting

CPU = torch.device("cpu")
NAME = "model"
TOKENS = 12
EXPERTS = 6


class Gated(Host):
    """Answers when its gate is open."""

    gate: threading.Event

    def reply(self, call: Exec, output: Tensor) -> Tensor:
        assert self.gate.wait(DEADLINE_S)
        return output


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hosting, Hosting]]:
    """Two hosts with all experts each; the second has a gate."""
    path: Path = checkpoints.make("mixtral", tmp_path_factory.mktemp("mixtral"))
    Gated.gate = threading.Event()
    with hosting(name="h0", device=CPU) as first, hosting(name="h1", device=CPU, host_class=Gated) as second:
        for made in (first, second):
            made.deploy(path, name=NAME, trunk=False)
        yield first, second
        Gated.gate.set()


@contextlib.contextmanager
def asking(*hosts: Hosting, local: Any = None, **changes: float) -> Iterator[Dispatcher]:
    """A dispatcher linked to some hosts, each of which holds all experts."""
    first = hosts[0].host.deployments[NAME]
    counts = [layer.num_experts for layer in first.manifest.layers]
    settings = hosts[0].settings.model_copy(
        update={"experts_timeout_s": DEADLINE_S, "call_timeout_s": DEADLINE_S, **changes}
    )
    links = Links(NAME, counts, settings, machine=hosts[0].host.machine, area_bytes=1 << 20)
    links.route([made.peer for made in hosts], {})
    try:
        until(lambda: all(len(holders) == len(hosts) for row in links.table for holders in row), "not connected")
        yield Dispatcher(links, local, settings, name="here", num_experts=counts)
    finally:
        links.close()


until = partial(waiting.until, deadline_s=DEADLINE_S, pause_s=0.001)


def ask(dispatcher: Dispatcher) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn((TOKENS, 32), generator=draw)
    weights, index = torch.randn((TOKENS, EXPERTS), generator=draw).softmax(1).topk(2, 1)
    context = StepContext(np.zeros(TOKENS, dtype=np.int32), np.arange(TOKENS, dtype=np.int32))
    with torch.inference_mode():
        dispatcher.begin(1, None)
        return dispatcher(0, hidden, index, weights, context)


def begun(dispatcher: Dispatcher) -> tuple[threading.Thread, list[Tensor]]:
    """`ask` in a thread of its own, and where its answer will be."""
    answers: list[Tensor] = []
    thread = threading.Thread(target=lambda: answers.append(ask(dispatcher)))
    thread.start()
    return thread, answers


class Full(Host):
    """Never has memory for an answer."""

    def reply(self, call: Exec, output: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("a test says so")


class Slow(Host):
    """Takes longer than a call may."""

    takes_s = 0.6

    def reply(self, call: Exec, output: Tensor) -> Tensor:
        time.sleep(self.takes_s)
        return output


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("mixtral", tmp_path_factory.mktemp("mixtral"))


@pytest.mark.parametrize("holders", [1, 2])
def test_holders_that_always_refuse_are_not_asked_for_ever(checkpoint: Path, holders: int) -> None:
    with contextlib.ExitStack() as ends:
        hosts = [ends.enter_context(hosting(name=f"h{n}", host_class=Full, device=CPU)) for n in range(holders)]
        for one in hosts:
            one.deploy(checkpoint, name=NAME, trunk=False)
        with asking(*hosts, experts_timeout_s=1.0) as dispatcher:
            began = time.monotonic()
            with pytest.raises(ExpertsUnavailable, match=r"experts \[0.*h0 \((ready|busy): .*a test says so"):
                ask(dispatcher)
            assert 1.0 <= time.monotonic() - began < DEADLINE_S
            assert holders > 1 or dispatcher.counters.calls < 50, "not some thousand times a second"


def test_the_only_holder_gets_longer_when_it_was_given_up_in_vain(checkpoint: Path) -> None:
    with hosting(name="h0", host_class=Slow, device=CPU) as one:
        one.deploy(checkpoint, name=NAME, trunk=False)
        with asking(one, call_timeout_s=0.2) as dispatcher:
            assert ask(dispatcher).shape == (TOKENS, 32)
            assert dispatcher.counters.failures >= 1
            assert dispatcher.links.links[0].allowed_s == 0.0


class Forgetful:
    """A store that has dropped an expert since it was asked what it holds."""

    def __init__(self, store: ExpertStore) -> None:
        self._store = store
        self.refusals = 0

    def held(self, layer: int) -> tuple[int, ...]:
        return () if self.refusals else self._store.held(layer)

    def compute(self, *args: Any) -> Tensor:
        self.refusals += 1
        raise ExpertsUnavailable("layer 0: expert 1 is not held by this host")


def test_experts_dropped_here_meanwhile_are_asked_of_others(pair: tuple[Hosting, Hosting]) -> None:
    first, _ = pair
    store = first.host.deployments[NAME].store
    with asking(first) as dispatcher:
        expected = ask(dispatcher)
    forgetful = Forgetful(store)
    with asking(first, local=forgetful) as dispatcher:
        dispatcher.links.links[0].cost.slow = True  # so that all is wanted here
        assert torch.equal(ask(dispatcher), expected)
        assert forgetful.refusals == 1
        assert {dispatcher.hosts[reply.host] for reply in dispatcher.replies} == {"h0"}
        assert dispatcher.counters.failures == 0


def test_a_late_host_is_lost_at_the_deadline_of_its_call(pair: tuple[Hosting, Hosting]) -> None:
    """A call that another host answered first: its own host may still take as long as such calls usually take."""
    first, second = pair
    Gated.gate.clear()
    with asking(first, second) as dispatcher:
        one, other = dispatcher.links.links
        one.cost.slow = True  # nothing goes there first
        expected = ask(dispatcher)
        assert dispatcher.counters.hedges == 1
        assert other.abandoned
        assert other.state is State.BUSY
        other.busy_since -= 1000 * dispatcher.links.links[0]._settings.call_timeout_s
        other.deadline = time.perf_counter() + 1000
        assert torch.equal(ask(dispatcher), expected)
        assert _state(other) is State.BUSY, "a long call is not a frozen host"
        assert dispatcher.counters.failures == 0
        other.deadline = time.perf_counter()
        assert torch.equal(ask(dispatcher), expected)
        assert _state(other) is State.DOWN
        assert dispatcher.counters.failures == 1
        Gated.gate.set()
        until(lambda: _state(other) is State.READY, "it is not connected again")


def test_who_was_busy_is_asked_later(pair: tuple[Hosting, Hosting]) -> None:
    """A host that is frozen while the other holder computes its own part: not only its deadline ends the waiting."""
    first, second = pair
    Gated.gate.set()
    with asking(first) as dispatcher:
        expected = ask(dispatcher)
    Gated.gate.clear()
    with asking(first, second, call_timeout_s=2 * DEADLINE_S) as dispatcher:
        one, other = dispatcher.links.links
        one.state = State.BUSY  # as with another part of the layer
        thread, answers = begun(dispatcher)
        until(lambda: other.state is State.BUSY and time.perf_counter() - other.busy_since > 0.5, "it is not late")
        assert not answers
        one.state = State.READY
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "only the deadline ends the waiting"
        assert torch.equal(answers[0], expected)
        assert dispatcher.counters.hedges == 1
        assert other.abandoned
        Gated.gate.set()


def test_who_was_lost_is_asked_again_once_it_is_connected(pair: tuple[Hosting, Hosting]) -> None:
    """One of two hosts is frozen, the other had gone unnoticed and is back: for all groups, only that one is left."""
    first, second = pair
    Gated.gate.set()
    with asking(first) as dispatcher:
        expected = ask(dispatcher)
    Gated.gate.clear()
    with asking(first, second, call_timeout_s=2 * DEADLINE_S) as dispatcher:
        one, other = dispatcher.links.links
        _break(one)
        thread, answers = begun(dispatcher)
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "only the deadline of the other's call ends the waiting"
        assert torch.equal(answers[0], expected)
        assert dispatcher.counters.first_choices.keys() == {"h0", "h1"}
        assert {dispatcher.hosts[reply.host] for reply in dispatcher.replies} == {"h0"}
        assert other.abandoned
        Gated.gate.set()


class Counted(Host):
    """Gives so many answers as it is allowed."""

    allowed: dict[str, threading.Semaphore]

    def reply(self, call: Exec, output: Tensor) -> Tensor:
        assert self.allowed[self.name].acquire(timeout=DEADLINE_S)
        return output


@pytest.fixture
def counted(checkpoint: Path) -> Iterator[list[Hosting]]:
    """Three hosts with all experts each, which answer as often as they are allowed."""
    Counted.allowed = {f"h{n}": threading.Semaphore(0) for n in range(3)}
    with contextlib.ExitStack() as ends:
        made = [ends.enter_context(hosting(name=f"h{n}", host_class=Counted, device=CPU)) for n in range(3)]
        for one in made:
            one.deploy(checkpoint, name=NAME, trunk=False)
        yield made
        for semaphore in Counted.allowed.values():
            semaphore.release(1000)


def expected_of(hosts: list[Hosting]) -> Tensor:
    Counted.allowed["h0"].release()
    with asking(hosts[0]) as dispatcher:
        return ask(dispatcher)


def test_an_answer_that_came_too_late_for_a_part_is_asked_for_again(counted: list[Hosting]) -> None:
    """One host is frozen, one is slow, and the third was asked for the parts of both: the slow one was quicker."""
    expected = expected_of(counted)
    with asking(*counted, call_timeout_s=2 * DEADLINE_S) as dispatcher:
        spare, frozen, slow = dispatcher.links.links
        for link, experts in ((frozen, {0, 1, 4}), (slow, {2, 3, 5})):
            link.held = {**link.held, 0: frozenset(experts)}
        dispatcher.links._rebuild()
        spare.state = State.BUSY
        thread, answers = begun(dispatcher)
        until(lambda: frozen.state is slow.state is State.BUSY, "both are asked")
        time.sleep(0.5)
        spare.state = State.READY
        until(lambda: dispatcher.counters.hedges >= 1, "the third is asked for both")
        Counted.allowed["h2"].release()
        until(lambda: _state(slow) is State.READY, "the slow one's answer")
        Counted.allowed["h0"].release(2)
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "only the deadline of the frozen one's call ends the waiting"
        assert torch.equal(answers[0], expected)
        assert frozen.abandoned


def test_who_took_over_and_was_lost_is_asked_again(counted: list[Hosting]) -> None:
    expected = expected_of(counted)
    with asking(*counted[:2], call_timeout_s=2 * DEADLINE_S) as dispatcher:
        other, frozen = dispatcher.links.links
        thread, answers = begun(dispatcher)
        Counted.allowed["h0"].release()
        until(lambda: dispatcher.counters.hedges >= 1 and other.state is State.BUSY, "it took over")
        _break(other)
        until(lambda: dispatcher.counters.failures >= 1, "it is lost")
        Counted.allowed["h0"].release(3)
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "only the deadline of the frozen one's call ends the waiting"
        assert torch.equal(answers[0], expected)
        assert frozen.abandoned


def test_a_host_that_has_gone_is_seen_between_steps(pair: tuple[Hosting, Hosting]) -> None:
    first, _ = pair
    with asking(first) as dispatcher:
        (link,) = dispatcher.links.links
        before = link._connection
        dispatcher.look()
        assert link._connection is before
        _break(link)
        until(lambda: dispatcher.look() or link._connection is not before, "nobody has seen it")
        until(lambda: _state(link) is State.READY, "it is not connected again")
        assert ask(dispatcher).shape == (TOKENS, 32)
        assert dispatcher.counters.failures == 0


def test_a_trunk_that_stands_by_looks(checkpoint: Path, pair: tuple[Hosting, Hosting]) -> None:
    """It has asked nobody, and is to ask those who are there when it takes over."""
    first, _ = pair
    with hosting(name="h2", device=CPU) as made:
        made.deploy(checkpoint, name=NAME)
        service = made.host.deployments[NAME].trunk
        assert service is not None
        links = service.links
        links.route([first.peer], {})
        until(lambda: _states(links) == [State.READY], "not connected")
        before = links.links[0]._connection
        _break(links.links[0])
        until(lambda: links.links[0]._connection not in (None, before), "it is not connected again")


def _break(link: Link) -> None:
    """As if the host had ended: nobody has looked yet."""
    assert link._connection is not None
    link._connection.sock.shutdown(socket.SHUT_RDWR)


def _state(link: Link) -> State:
    return link.state


def _states(links: Links) -> list[State]:
    return [link.state for link in links.links]


def test_a_late_answer_is_thrown_away(pair: tuple[Hosting, Hosting]) -> None:
    first, second = pair
    Gated.gate.clear()
    with asking(first, second) as dispatcher:
        one, other = dispatcher.links.links
        one.cost.slow = True
        expected = ask(dispatcher)
        assert other.abandoned
        Gated.gate.set()
        until(lambda: torch.equal(ask(dispatcher), expected) and not other.abandoned, "its answer never came")
        assert other.state is State.READY
        assert dispatcher.counters.failures == 0


def test_experts_that_a_host_has_dropped_are_asked_of_others(pair: tuple[Hosting, Hosting]) -> None:
    """The trunk was not told: the host says so, and the connection stays."""
    first, second = pair
    Gated.gate.set()
    with asking(first, second) as dispatcher:
        one, other = dispatcher.links.links
        one.cost.slow = True
        expected = ask(dispatcher)
        second.control.call("drop", deployment=NAME, layer=0, experts=[0, 1, 2])

        def told() -> bool:
            one.cost.slow, other.cost.slow = True, False  # whatever a busy machine makes of them
            assert torch.equal(ask(dispatcher), expected)
            return other.held[0] == {3, 4, 5}

        try:
            until(told, "it does not say what it lacks")
            assert other.state is not State.DOWN
            assert dispatcher.counters.failures >= 1
        finally:
            second.control.call("load", deployment=NAME, layer=0, experts=[0, 1, 2])
