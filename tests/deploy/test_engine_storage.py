"""What engines keep is one host's own: another's end, and a new start of the machine, leave it in order."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.engine_service import volatile
from rios.services.deployments.local_host import clear_up
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
