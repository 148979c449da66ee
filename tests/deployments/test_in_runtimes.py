"""The same application in every runtime of this machine: served, metered, ended without anything left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import runtime_parameters
from tests.deploy.images import PYTHON, make_rootfs
from tests.deployments.stage import Stage, get
from tests.waiting import until

WAIT_S = 120.0
SERVER = """
import os, socket
listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
print("serves", flush=True)
while True:
    one, _ = listener.accept()
    asked = one.recv(65536).split(b" ")
    if len(asked) > 1:
        said = b"hello " + asked[1]
        one.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(said) + said)
    one.close()
"""
"""A server of few modules, for an image of few files."""


@pytest.fixture(scope="module")
def rootfs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rios-image-") as directory:
        yield make_rootfs(Path(directory) / "rootfs.tar")


@pytest.mark.parametrize("name", runtime_parameters())
def test_it_is_served_metered_and_ended(stage: Stage, rootfs: Path, name: str) -> None:
    app = stage.deploy.create(
        name=f"in-{name}", rootfs=str(rootfs), command=[PYTHON, "-c", SERVER], port=8000, runtime=name,
        resources={"cpu": 1, "memory": "128MiB"}, grace=3,
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    assert [event.state for event in app.events if event.replica and event.kind == "state"] == [
        "scheduled",
        "pulling",
        "starting",
        "ready",
    ]
    assert get(f"{app.url}/x") == (200, "hello /x")
    until(lambda: "serves" in app.logs(), "its line", deadline_s=WAIT_S)
    assert app.metrics()[0]["cpu_seconds"] > 0
    replica = app.replicas[0].id
    app.delete(timeout=WAIT_S)
    assert int(app.cost) > 0
    assert {one.resource for one in stage.ledger.usage(request_id=replica)} == {"cpu", "memory"}
    assert replica not in stage.instances()


def test_a_minimum_isolation_is_kept(stage: Stage) -> None:
    from rios.words.errors import DeploymentFailed

    app = stage.deploy.create(
        name="strong", command=["sleep", "9"], schedule={"isolation": "kernel"}, restart="never",
        resources={"cpu": 0.1, "memory": "64MiB"},
    )  # fmt: skip
    try:
        with pytest.raises(DeploymentFailed, match=r"no runtime of localhost can run strong|isolates"):
            app.wait(timeout=10)
    except TimeoutError:
        assert "isolates" in app.reason, "where no runtime is that strong, no host is"
    app.delete()
