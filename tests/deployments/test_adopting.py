"""What ran before a process began is adopted when its engine can be asked, also where that is later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.protocol import Capabilities, Isolation, Status
from rios.services.deployments.hosts import NETWORK
from rios.services.deployments.local_host import LocalHost
from rios.words.errors import SandboxFailed, UnsupportedRuntime
from tests.waiting import until


class Engine:
    """A runtime whose service may be down."""

    name = "runc"

    def __init__(self, *names: str) -> None:
        self.why_not, self.refuses, self.adopted = "", 0, 0
        self.there = {name: Status(instance=name, state="running", labels={NETWORK: "net"}) for name in names}

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="runc", isolation=Isolation.CONTAINER, why_not=self.why_not, images=True, cpu="cgroup",
            memory="cgroup", pids="cgroup", port=True, egress=True, pause=True, metered=True, seccomp=True,
        )  # fmt: skip

    def instances(self, labels: Any = None) -> list[Status]:
        return list(self.there.values())

    def adopt(self) -> list[Status]:
        if self.refuses:
            self.refuses -= 1
            raise SandboxFailed("its service went away")
        self.adopted += 1
        return self.instances()

    def status(self, instance: str) -> Status:
        return self.there[instance]

    def logs(self, instance: str) -> list[Any]:
        return []

    def remove(self, instance: str) -> None:
        if self.why_not:
            raise UnsupportedRuntime(self.why_not)
        self.there.pop(instance, None)


@pytest.mark.parametrize("refuses", [0, 1])
def test_an_engine_that_was_down_at_first_has_what_it_runs_adopted_later(tmp_path: Path, refuses: int) -> None:
    down, up, idle = Engine("lost"), Engine("found"), Engine()
    down.why_not, down.refuses = "its service does not come up", refuses
    made: Any = {down: Isolation.CONTAINER, up: Isolation.CONTAINER, idle: Isolation.CONTAINER}
    host = LocalHost("h", tmp_path, lambda _: made, {"runc": Isolation.CONTAINER}, network_id="net")
    for _ in range(3):
        assert [one.instance for one in host.instances()] == ["lost", "found"]
    assert (down.adopted, up.adopted, idle.adopted) == (0, 1, 0)
    with pytest.raises(UnsupportedRuntime, match="does not come up"):
        host.clear("lost")
    down.why_not = ""
    until(lambda: (host.instances(), down.adopted)[1], deadline_s=30)
    for _ in range(3):
        host.instances()
    host.clear("lost")
    assert [one.instance for one in host.instances()] == ["found"]
    assert (down.adopted, up.adopted, idle.adopted) == (1, 1, 0), "once each"
