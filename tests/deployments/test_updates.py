"""Rolling updates of containers under load, every second one to an image that is broken in one way or another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.services.deployments.store import ROLLED_BACK
from rios.words.errors import DeploymentFailed
from tests.campaigns import Campaign
from tests.deploy.images import PYTHON, make_image, make_rootfs
from tests.deployments.stage import Stage, get
from tests.deployments.test_traffic import load
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.needs(what) for what in ("podman", "runc", "catatonit", "root", "busybox")]
WAIT_S = 90.0
SERVER = """
import os, socket, threading
SAYS = os.environ["SAYS"]
def answer(one):
    with one, one.makefile("rb") as asked:
        length = 0
        while line := asked.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        asked.read(length)
        status = b"500 Broken" if SAYS == "ill" else b"200 OK"
        head = b"HTTP/1.1 %s\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % (status, len(SAYS))
        one.sendall(head + SAYS.encode())
listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])), backlog=128)
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""
"""Says which one it is; of few modules, for an image of few files."""
SERVES = (PYTHON, "-c", SERVER)
BROKEN = {"exits": ("/bin/sh", "-c", "exit 1"), "silent": ("/bin/sleep", "600"), "ill": SERVES}
"""Images that end, do not listen, or answer their probe with an error; beside them one that is nowhere to be had."""
WAYS = (*BROKEN, "nowhere")
GOOD = ("one", "two", "three")
HEALTH = {"http": "/", "interval": 0.5}
"""With a deadline that a busy machine meets; what is broken is given less time to show it."""


def tag(name: str) -> str:
    return f"localhost/updates/{name}:1"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A network whose engine has the images."""
    with tempfile.TemporaryDirectory(prefix="rios-updates-") as directory:
        place = Path(directory)
        place.chmod(0o711)
        rootfs = make_rootfs(place / "rootfs.tar")
        with Stage(home=place / "home") as found:
            host: Any = found.platform.hosts.now()["localhost"]
            runtime = next(one for one in host._runtimes if one.name == "runc")
            for name in (*GOOD, *BROKEN):
                command, env = BROKEN.get(name, SERVES), (f"SAYS={name}",)
                archive = make_image(place / f"{name}.tar", tag(name), command=command, env=env, rootfs=rootfs)
                runtime.prepare_archive(archive)
                archive.unlink()
            yield found


def updated_under_load(stage: Stage, turn: int) -> dict[str, Any]:
    """A deployment is updated four times, every second time to a broken image, while it is asked all the time."""
    app = stage.deploy.create(
        name=f"updated-{turn}", image=tag(GOOD[0]), port=8000, replicas=2, runtime="runc", grace=3,
        resources={"cpu": 0.5, "memory": "64MiB"}, health=HEALTH,
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    took_s = []
    with load(f"{app.url}/", 2) as safe, load(f"{app.url}/", 2, data=b"x") as unsafe:
        until(lambda: safe.good() and unsafe.good(), "the first answers", deadline_s=WAIT_S)
        for n in range(2):
            began = time.monotonic()
            good = app.update(image=tag(GOOD[n + 1]), health=HEALTH)
            until(lambda good=good: app._app().settled_revision == good and app.status == "ready", deadline_s=WAIT_S)
            took_s.append(time.monotonic() - began)
            way = WAYS[(2 * turn + n) % len(WAYS)]
            began = time.monotonic()
            broken = app.update(image=tag(way), health={**HEALTH, "deadline": 8})
            with pytest.raises(DeploymentFailed, match=f"is at revision {good} again: revision {broken} "):
                app.wait(timeout=2 * WAIT_S * PATIENCE)
            assert app.revision == good
            app.wait(timeout=WAIT_S)
            took_s.append(time.monotonic() - began)
            until(lambda: len(app.replicas) == 2, "nothing of it is left", deadline_s=WAIT_S)
            assert get(app.url) == (200, GOOD[n + 1])
            asked = safe.good(), unsafe.good()
            until(lambda asked=asked: safe.good() > asked[0] and unsafe.good() > asked[1], deadline_s=WAIT_S)
    assert safe.failed() + unsafe.failed() == 0, f"{safe.answers} {unsafe.answers}"
    assert {said for _, said in safe.answers + unsafe.answers} == set(GOOD), "no broken one was asked"
    back = sum(event.kind == ROLLED_BACK for event in app.events)
    app.delete(timeout=WAIT_S)
    return {
        "updates": 4, "broken": 2, "rolled_back": back, "requests": safe.good() + unsafe.good(),
        "failed": safe.failed() + unsafe.failed(), "took_s": took_s,
    }  # fmt: skip


def test_updates_under_load(stage: Stage) -> None:
    assert updated_under_load(stage, 0)["rolled_back"] == 2


@pytest.mark.long
def test_twenty_updates(stage: Stage, campaign_record: Campaign) -> None:
    found = [
        campaign_record.once(f"turn {turn}", lambda turn=turn: updated_under_load(stage, turn)) for turn in range(5)
    ]
    counted = {
        what: sum(one[what] for one in found) for what in ("updates", "broken", "rolled_back", "requests", "failed")
    }
    assert counted["updates"] == 20
    assert counted["broken"] == counted["rolled_back"] == 10
    assert counted["failed"] == 0
    longest_s = max(max(one["took_s"]) for one in found)
    campaign_record.conclude(**counted, longest_s=round(longest_s, 1))
