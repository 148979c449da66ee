"""A machine whose kernel neither limits nor meters takes no strangers' applications, unless its operator lets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.protocol import Capabilities, Isolation
from rios.deploy.spec import App
from rios.services.deployments.local_host import LocalHost
from rios.words.config import Settings
from rios.words.errors import InvalidRequest


class Unmetered:
    """A runtime as bubblewrap is without root."""

    name = "bubblewrap"

    def __init__(self, *, metered: bool) -> None:
        self._metered = metered

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="bubblewrap", isolation=Isolation.PROCESS, why_not="", images=False, cpu="none", memory="process",
            pids="none", port=True, egress=True, pause=False, metered=self._metered, seccomp=True,
        )  # fmt: skip


def host(place: Path, *, metered: bool, **more: Any) -> LocalHost:
    made: Any = Unmetered(metered=metered)
    promised: Any = {"bubblewrap": Isolation.PROCESS}
    return LocalHost("far", place, lambda _: {made: Isolation.PROCESS}, promised, network_id="net", **more)


@pytest.mark.parametrize(("metered", "unmetered"), [(True, False), (False, False), (False, True)])
def test_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metered: bool, unmetered: bool) -> None:
    monkeypatch.setattr("rios.deploy.runtimes.cgroup.version", lambda: 2 if metered else 0)
    one = host(tmp_path, metered=metered, unmetered=unmetered)
    app = App.model_validate({"name": "x", "command": ["x"]})
    assert one.offer().cordoned is not (metered or unmetered)
    if metered or unmetered:
        assert one.runtime_for(app).name == "bubblewrap"
        return
    with pytest.raises(InvalidRequest, match=r"meters nothing here: .* RIOS_APPS_UNMETERED=1"):
        one.runtime_for(app)


def test_ones_own_machine_takes_what_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.deploy.runtimes.cgroup.version", lambda: 0)
    assert not host(tmp_path, metered=False).offer().cordoned
    assert not Settings().apps_unmetered
