"""Templates: what is forked of one process that has imported torch, or Dask, is as if it had been started alone."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

import rios
from rios import demo
from rios.dmoe import examined
from rios.dmoe import template as module
from rios.dmoe.template import CHANNEL, Running, Serving, Template, start_supervisor
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


def test_what_a_fork_found_is_read_from_any_descriptor(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Template.read_checkpoint

    def high(template: Template, path: str, dtype: str | None) -> Serving:
        process = read(template, path, dtype)
        assert isinstance(process, module._Forked)
        assert process.stdout is not None
        low, process.stdout = process.stdout, os.fdopen(above_1023(process.stdout.fileno()), "rb")
        low.close()
        return process

    monkeypatch.setattr(Template, "read_checkpoint", high)
    assert examined._by(template, demo.path(), "float32", DEADLINE_S).dtype == "float32"


def until_exists(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def above_1023(descriptor: int) -> int:
    """Another of the same, which `select.select` does not take."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(allowed, 2048), most))
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 1024)


def test_one_that_is_killed_ends_its_wait(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHANNEL, str(template.fileno()))
    process, said = started("killed")
    assert isinstance(process, module._Forked)
    low, process._process = process._process, above_1023(process._process)
    os.close(low)
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
    monkeypatch.setattr(Template, "_shared", {})
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
        monkeypatch.setenv(CHANNEL, str(mine.fileno()))
        with theirs, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(start_supervisor)  # before it waits for anybody
            assert module._readable(theirs.fileno(), DEADLINE_S)
            process = subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno(), env=ENVIRONMENT)
            child = asked.result(DEADLINE_S)
        time.sleep(1.0)
        assert process.poll() is None
        end(child)
        assert process.wait(DEADLINE_S) == 0
    assert module._IDLE_S > 1


TELLS = """
import atexit, json, os, sys, dask
print(json.dumps({
    "name": __name__, "argv": sys.argv, "places": sys.path[:3], "folder": os.getcwd(), "word": os.environ["WORD"],
    "channel": os.readlink(f"/proc/self/fd/{os.environ['RIOS_TEMPLATE']}"), "sid": os.getsid(0),
    "protocol": dask.config.get("distributed.comm.default-scheme"), "imported": "torch" in sys.modules,
}), flush=True)
atexit.register(lambda: print("tidied", flush=True))
print(sys.stdin.readline(), file=sys.stderr, flush=True)
sys.exit(3)
"""


@pytest.fixture(scope="module")
def dask() -> Iterator[Template]:
    made = Template(ENVIRONMENT, libraries="dask")
    yield made
    made._channel.close()
    process_of(made).wait(DEADLINE_S)


def command(
    dask: Template, template: Template, folder: Path, *, timeout_s: float = DEADLINE_S, **variables: str
) -> tuple[Running, int, IO[str]]:
    """The module `tells`, where its orders are written, and what it says."""
    read, orders = os.pipe()
    said = (folder / "said").open("w+")
    streams = [read, said.fileno(), said.fileno()]
    environment = ENVIRONMENT | {"WORD": folder.name} | variables
    arguments = ["--port", "0"]
    try:
        running = dask.run(
            "tells", arguments, environment=environment, streams=streams, serving=template, timeout_s=timeout_s
        )
    except OSError:
        os.close(orders)
        said.close()
        raise
    finally:
        os.close(read)
    return running, orders, said


def test_a_command_is_as_if_it_had_been_started_alone(
    dask: Template, template: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tells.py").write_text(TELLS)
        monkeypatch.chdir(folder)
        places = os.pathsep.join([str(tmp_path / "more"), str(ROOT)])
        found.append(command(dask, template, folder, DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME=name, PYTHONPATH=places))
    for (running, orders, said), name in zip(found, ("one", "two"), strict=True):
        folder = tmp_path / name
        until_exists(folder / "said")
        assert json.loads((folder / "said").read_text()) == {
            "name": "__main__",
            "argv": [str(folder / "tells.py"), "--port", "0"],
            "places": [str(folder), str(tmp_path / "more"), str(ROOT)],
            "folder": str(folder),
            "word": name,
            "channel": str(Path(f"/proc/self/fd/{template.fileno()}").readlink()),
            "sid": running.pid,
            "protocol": name,
            "imported": False,
        }
        assert running.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.05)
        os.write(orders, b"go\n")
        os.close(orders)
        running.wait(DEADLINE_S)
        assert running.poll() is not None
        assert (folder / "said").read_text().splitlines()[1:] == ["go", "", "tidied"]
        said.close()
        deadline = time.monotonic() + DEADLINE_S
        while psutil.pid_exists(running.pid):  # nobody leaves it a zombie
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_was_asked_for_in_vain_is_not_carried_out_later(
    dask: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    monkeypatch.chdir(tmp_path)
    template = psutil.Process(process_of(dask).pid)
    template.suspend()
    try:
        for number in range(8):  # more than its socket takes; that has a deadline too
            folder = tmp_path / str(number)
            folder.mkdir()
            with pytest.raises((TimeoutError, BlockingIOError)):
                command(dask, dask, folder, timeout_s=0.05, MUCH="x" * 100_000)
    finally:
        template.resume()
    last = tmp_path / "last"
    last.mkdir()
    running, orders, said = command(dask, dask, last)
    until_exists(last / "said")
    assert [child.pid for child in template.children()] == [running.pid]
    assert not any((tmp_path / str(number) / "said").read_text() for number in range(8))
    os.close(orders)
    running.wait(DEADLINE_S)
    said.close()


@pytest.mark.parametrize("way", ["closed", "shut down"])
def test_nothing_is_forked_for_who_has_gone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it is forked"))
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine:
        if way == "closed":
            mine.close()
        else:
            mine.shutdown(socket.SHUT_RDWR)  # a fork of whoever asked has it still
        assert module._fork({}, [theirs.detach()], []) is None


def test_what_nobody_waits_for_any_more_ends_before_it_begins(
    dask: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever asked gives up at the moment of the answer: they get it, and say nothing."""
    (tmp_path / "tells.py").write_text(TELLS)
    environment = ENVIRONMENT | {"WORD": "none"}
    order = {"environment": environment, "folder": str(tmp_path), "module": "tells", "arguments": []}
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs, (tmp_path / "said").open("wb") as said, Path(os.devnull).open() as nothing:
        streams = [nothing.fileno(), said.fileno(), said.fileno(), dask.fileno()]
        socket.send_fds(dask._channel, [json.dumps(order).encode()], [*streams, theirs.fileno()])
        theirs.close()
        _, (process,), _, _ = socket.recv_fds(mine, 64, 1)
        assert not module._readable(process, 0.3), "it waits"
        mine.close()
        assert module._readable(process, DEADLINE_S)
        os.close(process)
    assert (tmp_path / "said").read_bytes() == b""


def test_a_network_whose_template_has_gone_starts_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Template(ENVIRONMENT, libraries="dask")
    process_of(gone).kill()
    process_of(gone).wait(DEADLINE_S)
    known = Template.shared

    def shared(environment: dict[str, str], *, libraries: str = "torch", warm_s: float = 0.0) -> Template:
        return gone if libraries == "dask" else known(environment, warm_s=warm_s)

    monkeypatch.setattr(Template, "shared", shared)
    with rios.local(workers=1, threads=1) as net:
        net.wait_for_workers(1)
        assert [type(process) for process in net.cluster.processes.values()] == [subprocess.Popen, subprocess.Popen]
        serving = psutil.Process(net.workers[0].pid).parent()
        assert serving is not None
        assert "rios.dmoe.template" in serving.cmdline()  # it was given the one with torch
    gone._channel.close()
