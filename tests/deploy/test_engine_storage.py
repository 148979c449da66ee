"""What engines keep is one host's own: another's end, and a new start of the machine, leave it in order."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from docker.errors import APIError

from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.engine_containers import Containers, container_name, inspected
from rios.deploy.runtimes.engine_exec import run_inside
from rios.deploy.runtimes.engine_service import RUNC, EngineService, volatile
from rios.deploy.runtimes.protocol import Isolation
from rios.services.deployments.hosts import Ended
from rios.services.deployments.local_host import LocalHost
from rios.services.deployments.machine import clear_up
from rios.words.errors import DeadlineExceeded, InvalidRequest, SandboxFailed
from tests.deploy.conftest import NEEDS, Bench, make_runtime
from tests.deploy.images import make_rootfs

pytestmark = [pytest.mark.needs(what) for what in (*NEEDS["runc"], "root", "busybox")]


@pytest.fixture
def other() -> Iterator[Bench]:
    """A host of its own on this machine."""
    directory = Path(tempfile.mkdtemp(prefix="rios-other-"))
    directory.chmod(0o711)
    runtime = make_runtime("runc", directory)
    archive = make_rootfs(directory / "rootfs.tar", python=False)
    bench = Bench("runc", runtime, runtime.prepare_archive(archive), directory)
    yield bench
    runtime.close()
    clear_up(directory)
    assert not directory.exists()
    assert not volatile(directory / "engine").exists()


IMPROPER = "can only create exec sessions on running containers: container state improper"


def test_a_sandbox_that_was_taken_for_ended_is_asked_about_again(other: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    status = other.start("sleep", "600")
    really, refused = APIClient.exec_create, [1, 2]

    def create(client: APIClient, *args: Any, **more: Any) -> Any:
        if refused:
            refused.pop()
            raise APIError("500 Server Error", explanation=IMPROPER)
        return really(client, *args, **more)

    monkeypatch.setattr(APIClient, "exec_create", create)
    assert other.runtime.exec(status.instance, ("echo", "there")).stdout == b"there\n"
    assert not refused
    other.runtime.remove(status.instance)


def test_a_command_in_what_ended_meanwhile_says_so(other: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    status = other.start("sleep", "600")

    def create(client: APIClient, *args: Any, **more: Any) -> Any:
        other.runtime.kill(status.instance)
        raise APIError("500 Server Error", explanation=IMPROPER)

    monkeypatch.setattr(APIClient, "exec_create", create)
    with pytest.raises(InvalidRequest, match="exited"):
        other.runtime.exec(status.instance, ("true",))
    other.runtime.remove(status.instance)


def test_a_command_that_begins_late_is_killed_when_it_has_begun(other: Bench) -> None:
    """Where a busy machine has not begun it by its deadline, there is nothing to kill at first."""
    status = other.start("sleep", "600")
    client = other.runtime._client()  # type: ignore[attr-defined]
    tried: list[str] = []

    def kill(container: str, name: str) -> None:
        tried.append(name)
        if len(tried) >= 3:
            for pid in other.processes(status.instance):
                with contextlib.suppress(OSError):
                    if b"54321" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)

    with pytest.raises(DeadlineExceeded, match="killed"):
        run_inside(
            client,
            container_name(status.instance),
            ("sleep", "54321"),
            user=10001,
            env={},
            timeout_s=0.5,
            kill_inside=kill,
        )
    assert tried == ["sleep"] * max(3, len(tried)), "until it has ended"
    assert b"54321" not in other.runtime.exec(status.instance, ("ps",)).stdout
    other.runtime.remove(status.instance)


class Ending:
    """A client whose container ends while podman reads about it, so many times."""

    def __init__(self, times: int, said: str) -> None:
        self._left, self._said = times, said

    def inspect_container(self, name: str) -> dict[str, Any]:
        self._left -= 1
        if self._left >= 0:
            raise APIError("500 Server Error", explanation=self._said)
        return {"Id": name}


def test_a_container_that_ends_while_it_is_asked_about_is_asked_about_again() -> None:
    gone: Any = Ending(2, "read /proc/23855/cgroup: no such process")
    assert inspected(gone, "one") == {"Id": "one"}
    other: Any = Ending(1, "no space left on device")
    with pytest.raises(APIError, match="no space left"):
        inspected(other, "one")


@pytest.mark.parametrize("bench", ["runc"], indirect=True)
def test_the_end_of_another_host_is_none_of_its_business(bench: Bench, other: Bench) -> None:
    """Each podman of a machine shares locks and what it knows of running containers, unless it is told not to."""
    here = bench.start("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
    there = other.start("sleep", "100")
    other.runtime.close()
    clear_up(other.directory)
    assert not Cgroup(there.instance).exists
    assert bench.runtime.status(here.instance).state == "running"
    ended = bench.runtime.stop(here.instance)
    assert (ended.state, ended.exit_code) == ("exited", 7)


def test_what_ran_before_the_machine_started_anew_has_ended_in_a_way_nobody_saw(other: Bench) -> None:
    status = other.start("sleep", "100")
    other.runtime.close()
    Cgroup(status.instance).kill()
    # What a new start of the machine empties, and what it unmounts by itself.
    shutil.rmtree(volatile(other.directory / "engine"))
    again = make_runtime("runc", other.directory)
    found = {one.instance: one for one in again.adopt()}[status.instance]
    assert (found.state, found.exit_code) == ("exited", None)
    assert again.kill(status.instance).exit_code != 128 + signal.SIGKILL, "nothing was there to kill"
    again.remove(status.instance)
    again.close()


def _host(bench: Bench) -> LocalHost:
    runtime = bench.runtime
    return LocalHost("h", bench.directory, lambda _: {runtime: Isolation.CONTAINER}, {"runc": Isolation.CONTAINER},
                     network_id="net")  # fmt: skip


def test_what_its_engine_never_began_ends(other: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine ends when no more is there than the record, and cannot be asked either when that is taken away."""

    def gone(*_: Any) -> None:
        raise SandboxFailed("the engine does not answer")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Containers, "remove", gone)
        with pytest.raises(SandboxFailed, match="does not answer"):
            other.start("sleep", "600")
    (left,) = other.runtime.instances()
    assert left.state == "created"
    host = _host(other)
    assert host.end(left.instance, grace_s=1.0) == Ended(status=left, metrics=None)
    host.clear(left.instance)
    assert not other.runtime.instances()


def test_what_ran_before_the_machine_started_anew_ends(other: Bench) -> None:
    """Its control group is gone, and with it what the kernel had counted."""
    status = other.start("sleep", "600")
    other.runtime.kill(status.instance)
    Cgroup(status.instance).remove()
    host = _host(other)
    found = host.end(status.instance, grace_s=1.0)
    assert found.status is not None
    assert (found.status.state, found.metrics) == ("exited", None)
    host.clear(status.instance)
    assert not other.runtime.instances()


def test_a_container_whose_making_was_cut_off_is_taken_away(other: Bench) -> None:
    """Podman describes no container at all while it knows of one that has no file system."""
    lasts, half = other.start("sleep", "100"), other.start("sleep", "100")
    engine: Any = other.runtime
    (number,) = [one["Id"] for one in engine._containers.listed() if half.instance in one["Names"][0]]
    other.runtime.kill(half.instance)
    other.runtime.close()
    made = other.directory / "engine" / "root" / "overlay-containers" / "containers.json"
    entries = json.loads(made.read_text())
    made.write_text(json.dumps([one for one in entries if one["id"] != number]))
    again: Any = make_runtime("runc", other.directory)
    with pytest.raises(APIError, match="container not known"):
        again._client().containers(all=True)
    assert len(again._containers.listed()) == 1
    assert lasts.instance in again._containers.listed()[0]["Names"][0]
    assert {one.instance for one in again.adopt() if one.state == "running"} == {lasts.instance}
    again.remove(half.instance)
    again.remove(lasts.instance)
    again.close()


def test_a_service_that_does_not_listen_yet_leaves_nothing_open() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as bound:
        service = EngineService(RUNC, Path(directory))
        service._client = service._made(1.0)
        bound.bind(str(service._socket))
        assert not service._answers()
        service.close()
        gc.collect()  # a socket that was left open is said here, and a warning fails
