"""A volume grows by a rolling update, while the replica that is to be replaced writes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rios.words.errors import DeploymentFailed
from tests.deploy.test_volumes import may_grow_in_use
from tests.deployments.stage import RESOURCES, Stage
from tests.waiting import until

pytestmark = [pytest.mark.needs("bwrap"), pytest.mark.needs("root")]
WAIT_S = 90.0
WRITES = "while :; do head -c 8192 /dev/urandom > /data/block; wc -c /data/block >> /data/sums; sync; sleep 0.1; done"
FILL = "head -c 20000000 /dev/zero > /data/big; wc -c < /data/big; rm /data/big"


def _volumes(size: str) -> dict[str, Any]:
    return {"/data": {"size": size, "keep": False}}


def _room(app: Any) -> int:
    return int(app.exec(["sh", "-c", FILL]).stdout)


def test_a_volume_grows_while_it_is_written_in(tmp_path: Path) -> None:
    with Stage(home=tmp_path / "home") as stage:
        app = stage.deploy.create(
            name="grows", command=["sh", "-c", WRITES], runtime="bubblewrap", volumes=_volumes("8MiB"), grace=1,
            resources=RESOURCES,
        )  # fmt: skip
        app.wait(timeout=WAIT_S)
        app.exec(["sh", "-c", "head -c 2000000 /dev/urandom > /data/kept; sha256sum /data/kept > /data/sum; sync"])
        assert _room(app) < 8_000_000
        app.update(volumes=_volumes("32MiB"))
        if not may_grow_in_use():
            with pytest.raises(DeploymentFailed, match="is in use, and this host cannot grow it meanwhile"):
                app.wait(timeout=WAIT_S)
            app.wait(timeout=WAIT_S)
            assert app.revision == 1
            assert _room(app) < 8_000_000
            app.pause()
            until(lambda: not app.replicas, deadline_s=WAIT_S)
            app.update(volumes=_volumes("32MiB"))
            app.resume()
        app.wait(timeout=WAIT_S)
        until(lambda: [one.revision for one in app.replicas] == [app.revision], deadline_s=WAIT_S)
        assert _room(app) == 20_000_000
        assert app.exec(["sha256sum", "-c", "/data/sum"]).exit_code == 0
        app.restart()
        app.wait(timeout=WAIT_S)
        assert app.exec(["sha256sum", "-c", "/data/sum"]).exit_code == 0
        app.delete(timeout=WAIT_S)
