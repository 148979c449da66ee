"""A template that outlives its program: met by the next one of the same user and edition, and by nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rios.dmoe import warm
from rios.dmoe.template import CHANNEL, Template
from tests.campaigns import ROOT
from tests.cluster.test_template import DEADLINE_S, end, process_of, started

NOBODY = 65534
PROGRAM = """
import os, sys
from rios.dmoe.template import CHANNEL, Template
from tests.cluster.test_template import end, started
import psutil
template = Template(dict(os.environ), warm_s=float(sys.argv[1]))
os.environ[CHANNEL] = str(template.fileno())
process, said = started("one")
print(psutil.Process(process.pid).ppid(), template._process is not None, flush=True)
end(process)
"""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # Not `tmp_path`: the path of a socket has 107 bytes at most, and that has the names of user, worker and test in it.
    with tempfile.TemporaryDirectory(prefix="rios-warm-") as folder:
        yield {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": folder}


def run(environment: dict[str, str], warm_s: float) -> tuple[int, bool]:
    """The template of a program that has ended, and whether that had started it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(warm_s)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
        cwd=ROOT,
    )
    pid, mine = done.stdout.split()
    return int(pid), mine == "True"


@pytest.fixture
def ended() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def test_the_next_program_finds_it_warm(environment: dict[str, str], ended: list[int]) -> None:
    first, mine = run(environment, 60)
    ended.append(first)
    assert mine
    begun = time.monotonic()
    assert run(environment, 60) == (first, False)
    took_s = time.monotonic() - begun
    assert psutil.Process(first).create_time() < time.time() - took_s
    other, mine = run({**environment, "TORCH_SHOW_CPP_STACKTRACES": "0"}, 60)
    ended.append(other)
    assert mine
    assert other != first


def test_it_ends_when_nobody_came(environment: dict[str, str], ended: list[int]) -> None:
    found, _ = run(environment, 0.5)
    ended.append(found)
    deadline = time.monotonic() + DEADLINE_S
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(found).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    # Its name is there still, and leads nowhere: the next program starts another.
    again, mine = run(environment, 0.5)
    ended.append(again)
    assert mine
    assert again != found


def test_a_client_sees_that_one_has_ended(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, ended: list[int]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", environment["XDG_RUNTIME_DIR"])
    first, second = (Template(environment, warm_s=60) for _ in range(2))
    process = process_of(first)
    ended.append(process.pid)
    assert second._process is None
    assert not second.ended
    process.kill()
    process.wait(DEADLINE_S)
    assert second.ended
    monkeypatch.setenv(CHANNEL, str(second.fileno()))
    alone, _ = started("alone")
    assert isinstance(alone, subprocess.Popen)  # a command of its own
    end(alone)
    first._channel.close()
    second._channel.close()


def test_a_folder_of_somebody_else_is_not_used(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "rios").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="this user alone"):
        warm.join(environment, lambda _: None, "torch")
    (tmp_path / "rios").rmdir()
    (tmp_path / "rios").symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        warm.join(environment, lambda _: None, "torch")
    template = Template(environment, warm_s=60)  # its own, then
    assert not template.ended
    template._channel.close()
    process_of(template).wait(DEADLINE_S)


@pytest.mark.needs("root")
def test_another_user_is_not_served(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(4)
        path.chmod(0o777)
        for place in (tmp_path, *tmp_path.parents):
            if place.stat().st_uid == os.geteuid() and place != Path("/"):
                place.chmod(place.stat().st_mode | 0o011)
        child = os.fork()
        if child == 0:
            os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as another:
                another.connect(str(path))
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert warm.accepted(listener) is None
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mine:
            mine.connect(str(path))
            channel = warm.accepted(listener)
            assert channel is not None
            channel.close()
