"""A deployment that has had many replicas: all that happened is told, and logs are asked for where there may be any."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.deploy.lifecycle import State
from rios.deploy.runtimes.protocol import LogLine
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.service import Deployments
from rios.services.deployments.values import NewReplica, Step
from tests.deployments.simulated_hosts import SimulatedHost, SimulatedHosts
from tests.deployments.test_metering import SECOND, Month

MANY, LOGGED, EVENTS = 12, 5, 1_500


def _readers() -> set[threading.Thread]:
    """Who follows logs in this process; of other tests' some may still do."""
    return {one for one in threading.enumerate() if one.name == "rios-logs"}


class WithLogs(SimulatedHost):
    """A host that keeps the log of each replica: its id."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: list[str] = []
        self.others = _readers()
        self.most = 0

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        self.asked.append(replica_id)
        self.most = max(self.most, len(_readers() - self.others))
        return iter((LogLine(time.time(), "stdout", replica_id),))


class Old(Month):
    """A deployment with a long history, and the host that it had."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.host = WithLogs("host-0")
        self.hosts = SimulatedHosts([self.host])
        self.deploy = Deployments(lambda: self, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)  # type: ignore[arg-type,return-value]
        self.app = self.deploy.create(name="old", command=["x"])
        for number in range(MANY):
            self.at += SECOND
            new = NewReplica(self.app._app(), f"r{number:03}", "host-0", "chosen")
            self.store.write(new=[new], at=self.at, lease=self.lease)
            one = self.replica(self.app, new.replica_id)
            steps = [Step(one, State.STARTING, "it runs", changes={"started_at": self.at})]
            self.store.write(steps, at=self.at, lease=self.lease)
            if number < MANY - 2:  # two of them live
                for state, ended_at in ((State.STOPPING, 0), (State.STOPPED, self.at)):
                    one = self.replica(self.app, new.replica_id)
                    self.store.write(
                        [Step(one, state, "enough", changes={"ended_at": ended_at})], at=self.at, lease=self.lease
                    )


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    found = Old(tmp_path_factory.mktemp("old"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rios.services.deployments.store._LOGGED_MAX", LOGGED)
        yield found
    found.ledger.close()


def test_logs_are_asked_for_where_there_may_be_any(old: Old) -> None:
    last = [f"r{number:03}" for number in range(MANY - 2 - LOGGED, MANY)]
    assert old.app.logs() == last
    assert sorted(old.host.asked) == last
    old.host.asked.clear()
    lines = old.app.logs(follow=True)
    assert sorted(next(lines) for _ in last) == last
    assert sorted(old.host.asked) == last
    assert old.host.most <= len(last)
    lines.close()


def test_the_newest_events_are_told_too(old: Old) -> None:
    app = old.app._app()
    old.store.write(notes=[(app, "note", str(number)) for number in range(EVENTS)], at=old.at, lease=old.lease)
    told = old.app.events
    assert [one.cause for one in told if one.kind == "note"] == [str(number) for number in range(EVENTS)]
    assert [one.seq for one in told] == sorted({one.seq for one in told})
