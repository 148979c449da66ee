"""The template: supervisors forked of one process that has imported torch, each as if it had been started alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rios.dmoe import template as module
from rios.dmoe.template import CHANNEL, Serving, Template, start_supervisor
from tests.campaigns import ROOT

DEADLINE_S = 120.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    made = Template(ENVIRONMENT)
    yield made
    made._channel.close()
    process_of(made).wait(DEADLINE_S)


def process_of(template: Template) -> subprocess.Popen[bytes]:
    """The process that this one started."""
    assert template._process is not None
    return template._process


def started(name: str, **orders: Any) -> tuple[Serving, dict[str, Any]]:
    """A supervisor, and what it says of its host."""
    process = start_supervisor()
    assert process.stdin is not None
    assert process.stdout is not None
    said = {"name": name, "key": "key", "bind": "127.0.0.1", "memory_bytes": 1 << 28, **orders}
    process.stdin.write(json.dumps(said).encode() + b"\n")
    process.stdin.flush()
    return process, json.loads(process.stdout.readline())


def end(process: Serving) -> None:
    assert process.stdin is not None
    process.stdin.write(b"stop\n")
    process.stdin.flush()
    process.wait()
    close(process)


def close(process: Serving) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_each_supervisor_is_as_if_it_had_been_started_alone(
    template: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CHANNEL, str(template.fileno()))
    serving = []
    for timeout_s in (7, 8):
        folder = tmp_path / str(timeout_s)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("RIOS_CALL_TIMEOUT_S", str(timeout_s))
        monkeypatch.setenv("TELL", str(folder / "said"))
        process, said = started(str(timeout_s), host_class="tests.cluster.telling:Telling")
        serving.append((process, said, folder))
    assert serving[0][1]["port"] != serving[1][1]["port"]
    for process, said, folder in serving:
        until_exists(folder / "said")
        told = json.loads((folder / "said").read_text())
        assert told == {"call_timeout_s": float(folder.name), "folder": str(folder), "sid": process.pid}
        supervisor = psutil.Process(process.pid)
        assert supervisor.ppid() == process_of(template).pid
        assert [child.pid for child in supervisor.children()] == [said["pid"]]
        open_there = {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir()}
        mine = [one.fileno() for one in (process.stdin, process.stdout) if one]
        assert [open_there[0], open_there[1]] == [str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in mine]
        assert sum(what.startswith("socket:") for what in open_there.values()) == 1  # at which its host listens
    (a, _, _), (b, said_b, _) = serving
    end(a)
    assert psutil.pid_exists(b.pid)
    end(b)
    assert not psutil.pid_exists(said_b["pid"])


def until_exists(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_is_killed_ends_its_wait(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHANNEL, str(template.fileno()))
    process, said = started("killed")
    os.kill(process.pid, 9)
    process.wait()
    close(process)
    deadline = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(said["pid"]):  # it dies with its supervisor
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_template_that_answers_it_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Template(ENVIRONMENT)
    process_of(gone).kill()
    process_of(gone).wait(DEADLINE_S)
    monkeypatch.setenv(CHANNEL, str(gone.fileno()))
    process, said = started("alone")
    assert isinstance(process, subprocess.Popen)
    assert psutil.Process(said["pid"]).ppid() == process.pid
    end(process)
    gone._channel.close()


def test_it_is_shared_and_started_anew_where_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Template, "_shared", None)
    first = Template.shared(ENVIRONMENT)
    assert Template.shared(ENVIRONMENT) is first
    process_of(first).kill()
    process_of(first).wait(DEADLINE_S)
    second = Template.shared(ENVIRONMENT)
    assert second is not first
    assert first.fileno() == -1  # closed
    process_of(second).kill()
    second._channel.close()
    process_of(second).wait(DEADLINE_S)


def test_it_ends_with_the_program_also_where_that_has_forked(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from rios.dmoe.template import Template\n"
        "template = Template(os.environ)\n"
        "child = os.fork()\n"
        "if child == 0:\n    time.sleep(1000)\n"
        "print(template._process.pid, child, flush=True)\n"
        "time.sleep(1000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=ENVIRONMENT, cwd=tmp_path)
    with process:
        assert process.stdout is not None
        template, child = (psutil.Process(int(pid)) for pid in process.stdout.readline().split())
        process.kill()
    try:
        template.wait(DEADLINE_S)
        assert child.is_running()
    finally:
        child.kill()


def test_it_ends_when_it_had_no_child_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from rios.dmoe import supervisor, template\n"
        "template._IDLE_S, template._LOOK_S = 0.5, 0.1\n"
        "supervisor.heavy_imports = lambda: None\n"
        "supervisor.main = lambda: input()\n"
        "template.main()\n"
    )
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine:
        with theirs:
            process = subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno(), env=ENVIRONMENT)
        monkeypatch.setenv(CHANNEL, str(mine.fileno()))
        child = start_supervisor()
        time.sleep(1.0)
        assert process.poll() is None
        end(child)
        assert process.wait(DEADLINE_S) == 0
    assert module._IDLE_S > 1
