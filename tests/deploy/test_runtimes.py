"""The contract of runtimes, kept by each: a process sandbox, containers by runc and by gVisor, Pods of a cluster.

What this machine's kernel has to hold, count or freeze is asked of those alone that it runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretBytes

from rios.deploy.runtimes import doors
from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.protocol import Allowed, Isolation, Limits, Mount
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound
from tests.deploy.conftest import (
    ELSEWHERE,
    HIDDEN,
    OUTSIDE,
    OWN,
    POLICY,
    Bench,
    assert_nothing_left,
    every_runtime,
    make_runtime,
)
from tests.deploy.echo import ECHO, asked
from tests.waiting import PATIENCE, until

PYTHON_S = ("/usr/local/bin/python3", "-S")
CALL = """
import socket, sys
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(b"x" * 1000)
            connection.shutdown(socket.SHUT_WR)
            got = b""
            while data := connection.recv(4096):
                got += data
            print(host, "answered", len(got))
    except OSError as error:
        print(host, "refused")
"""


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(4096):
            pass
        self.request.sendall(b"y" * 5000)


@pytest.fixture
def answering() -> Iterator[int]:
    """A server on this machine's loopback address, which answers with 5,000 bytes: its port."""
    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _said(bench: Bench, instance: str, text: str) -> None:
    until(lambda: text in bench.output(instance), f"{text!r} in the log", deadline_s=60)


def test_it_says_what_it_can_do(bench: Bench) -> None:
    able = bench.runtime.capabilities()
    assert able.usable
    assert (
        able.isolation
        == {"bubblewrap": Isolation.PROCESS, "runc": Isolation.CONTAINER, "gvisor": Isolation.KERNEL}[bench.name]
    )
    assert (able.cpu, able.memory, able.pids) == ("cgroup", "cgroup", "cgroup")
    assert able.port
    assert able.egress
    assert able.pause
    assert able.metered
    assert able.seccomp


@every_runtime
def test_a_command_runs_to_its_end(bench: Bench) -> None:
    labels = {"owner": "lab", "deployment": "d1"}
    status = bench.start("sh", "-c", "id; echo $GREETING; pwd; echo wrong >&2; exit 3",
                         env={"GREETING": "good morning"}, workdir="/tmp", labels=labels)  # fmt: skip
    assert status.started_at is not None
    status = bench.runtime.wait(status.instance, timeout_s=60)
    assert (status.state, status.exit_code, status.out_of_memory) == ("exited", 3, False)
    assert status.labels == labels
    assert status.finished_at is not None
    assert status.finished_at >= status.started_at - 1
    assert status.endpoint is None
    lines = list(bench.runtime.logs(status.instance))
    assert [line.text for line in lines if line.stream == "stderr"] == ["wrong"]
    out = [line.text for line in lines if line.stream == "stdout"]
    assert re.match(r"uid=10001\S* gid=10001\S*( groups=10001\S*)?$", out[0])
    assert out[1:] == ["good morning", "/tmp"]
    assert bench.runtime.instances(labels)[0].instance == status.instance
    assert not bench.runtime.instances({"owner": "somebody else"})


@every_runtime
def test_a_killed_command_says_so(bench: Bench) -> None:
    status, _ = bench.run("sh", "-c", "kill -9 $$")
    assert status.exit_code == 137


@every_runtime
def test_what_is_not_there_does_not_run(bench: Bench) -> None:
    assert bench.run("no-such-program")[0].exit_code == 127
    for call in (bench.runtime.status, bench.runtime.metrics, bench.runtime.logs, bench.runtime.kill):
        with pytest.raises(NotFound, match="nobody"):
            call("nobody")
    bench.runtime.remove("nobody")
    with pytest.raises(InvalidRequest, match="no id"):
        bench.runtime.status("../etc")


@every_runtime
def test_the_same_id_runs_once(bench: Bench) -> None:
    launch = bench.launch("sh", "-c", "echo once; sleep 60")
    first = bench.runtime.start(launch)
    _said(bench, launch.instance, "once")
    second = bench.runtime.start(launch)
    assert second.started_at == first.started_at
    assert bench.output(launch.instance) == "once"
    with pytest.raises(InvalidRequest, match="another launch"):
        bench.start("true", instance=launch.instance)
    bench.runtime.kill(launch.instance)
    assert bench.runtime.start(launch).state == "exited", "what has ended is not started again"


@every_runtime
def test_its_port_is_reached_through_its_endpoint(bench: Bench) -> None:
    status = bench.start("python3", "-S", "-c", ECHO, port=8000)
    assert status.endpoint is not None
    assert status.endpoint[0] == "127.0.0.1"
    assert asked(status.endpoint) == b"inside: hello\n"
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(asked(status.endpoint, b"many\n"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"inside: many\n"] * 20
    line = b"z" * 1_000_000 + b"\n"
    assert asked(status.endpoint, line) == b"inside: " + line
    bench.runtime.kill(status.instance)
    assert bench.runtime.status(status.instance).endpoint is None


def test_egress_goes_where_it_is_allowed_and_is_counted(bench: Bench, answering: int) -> None:
    port = str(answering)
    allowed = tuple(Allowed(host, answering) for host in (OUTSIDE, HIDDEN, OWN, "nowhere.invalid"))
    calls = [OUTSIDE, port, HIDDEN, port, OWN, port, "nowhere.invalid", port, OUTSIDE, "1", "other.example.org", port]
    status, said = bench.python(CALL, *calls, egress=allowed)
    refused = [f"{host} refused" for host in (HIDDEN, OWN, "nowhere.invalid", OUTSIDE, "other.example.org")]
    assert said.splitlines() == [f"{OUTSIDE} answered 5000", *refused]
    measured = bench.runtime.metrics(status.instance)
    assert (measured.egress_bytes, measured.ingress_bytes) == (1000, 5000)


def test_a_name_leads_to_a_socket_of_the_host_and_to_no_port(bench: Bench, answering: int) -> None:
    place = bench.directory / f"ways-{bench.name}"
    led = make_runtime(bench.name, bench.directory, replace(POLICY, ways={"gateway": place}))
    asks = (*PYTHON_S, "-c", CALL, "gateway", "80", "gateway", str(answering), "127.64.0.1", str(answering))
    shut = ["gateway refused", "gateway refused", "127.64.0.1 refused"]
    try:
        status = led.start(bench.launch("sleep", "60", egress=(Allowed("gateway", 80),)))

        def said() -> list[str]:
            return led.exec(status.instance, asks).stdout.decode().splitlines()

        assert said() == shut, "nobody answers"
        with _answering_at(place):
            assert said() == ["gateway answered 5000", *shut[1:]]
        assert said() == shut
        with _answering_at(place):  # another process of the network, later
            assert said() == ["gateway answered 5000", *shut[1:]]
        measured = led.metrics(status.instance)
        assert (measured.egress_bytes, measured.ingress_bytes) == (0, 0), "what stays on the host is nobody's traffic"
        plain = bench.start("sleep", "60", egress=(Allowed("gateway", 80),))
        with _answering_at(place):
            found = bench.runtime.exec(plain.instance, asks)
        assert found.stdout.decode().splitlines() == shut, "a host without such a way"
    finally:
        led.close()


@contextlib.contextmanager
def _answering_at(place: Path) -> Iterator[None]:
    listener, file = doors.bind(place)
    server = socketserver.ThreadingUnixStreamServer("", Answer, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        file.unlink()
        server.shutdown()
        thread.join()
        server.server_close()


@every_runtime
def test_secrets_are_files_in_memory(bench: Bench) -> None:
    value = "a-very-secret-value"
    status = bench.start(
        "sh", "-c", "cat /run/secrets/TOKEN | wc -c; ls -lnL /run/secrets; env; cat /run/rios/hello; sleep 60",
        secrets={"TOKEN": SecretBytes(value.encode())}, files={"hello": b"good morning\n"},
    )  # fmt: skip
    _said(bench, status.instance, "good morning")
    said = bench.output(status.instance)
    assert str(len(value)) in said
    # In a cluster they belong to the node's root, and the application reads them by its group.
    assert re.search(
        r"-r--r-----    1 \d+ +10001" if bench.name == ELSEWHERE else r"-r--------    1 10001    10001", said
    )
    assert value not in said
    kept = [path for path in bench.directory.rglob("*") if path.is_file() and status.instance in str(path)]
    assert bool(kept) == (bench.name != ELSEWHERE)
    assert not [path for path in kept if value.encode() in path.read_bytes()]
    assert value not in repr(bench.launch("true", secrets={"TOKEN": SecretBytes(value.encode())}))
    bench.runtime.put_secrets(status.instance, {"TOKEN": SecretBytes(b"new"), "SECOND": SecretBytes(b"2")})
    seen = bench.runtime.exec(status.instance, ("cat", "/run/secrets/TOKEN", "/run/secrets/SECOND"))
    assert seen.stdout == b"new2"
    assert bench.runtime.exec(status.instance, ("sh", "-c", "echo x > /run/secrets/TOKEN")).exit_code != 0


@every_runtime
def test_what_may_be_written(bench: Bench) -> None:
    volume, ours = bench.volume(f"volume-{bench.name}")
    (ours / "old").write_text("old\n")
    script = """
    for place in / /etc /bin /usr/local /run/rios /run/secrets /read /proc/sys; do
        touch=$place/new; (echo x > $touch) 2>/dev/null && echo "wrote $touch"
    done
    for place in /tmp /home /run /data /cache /dev/shm; do (echo x > $place/new) || echo "did not write $place"; done
    cat /data/old /read/old
    """
    mounts = (Mount(source=volume, path="/data"), Mount(source=volume, path="/read", read_only=True))
    _, said = bench.run("sh", "-c", script, scratch=("/cache",), mounts=mounts)
    assert said.split() == ["old", "old"]
    assert (ours / "new").read_text() == "x\n"


def test_memory_is_limited(bench: Bench) -> None:
    limits = Limits(memory_bytes=64 << 20, pids=64)
    status, said = bench.python(
        "x = bytearray(40 << 20); print(len(x), flush=True); y = bytearray(300 << 20); print('had it')", limits=limits
    )
    assert said == str(40 << 20)
    assert status.exit_code == 137
    assert status.out_of_memory
    assert bench.runtime.metrics(status.instance).memory_peak_bytes >= 40 << 20


def test_what_is_measured_is_what_the_kernel_counts(bench: Bench) -> None:
    work = "print(sum(n * n for n in range(4_000_000)), 'done', flush=True)\nimport time; time.sleep(60)"
    status = bench.start("python3", "-S", "-c", work)
    _said(bench, status.instance, "done")
    measured = bench.runtime.metrics(status.instance)
    assert measured.cpu_seconds >= 0.05  # what so many multiplications take on any machine
    assert measured.pids >= 1
    assert 1 << 20 < measured.memory_bytes <= measured.memory_peak_bytes
    bench.runtime.kill(status.instance)
    last = bench.runtime.metrics(status.instance)
    assert last.cpu_seconds == Cgroup(status.instance).counted().cpu_seconds >= measured.cpu_seconds


def test_paused_is_frozen(bench: Bench) -> None:
    work = "import time, itertools\nfor n in itertools.count():\n    print(n, flush=True); time.sleep(0.01)"
    status = bench.start("python3", "-S", "-c", work)
    _said(bench, status.instance, "1")
    assert bench.runtime.pause(status.instance).state == "paused"
    before = bench.runtime.metrics(status.instance)
    time.sleep(0.3)
    after = bench.runtime.metrics(status.instance)
    assert after.cpu_seconds == before.cpu_seconds
    last = len(list(bench.runtime.logs(status.instance)))
    assert bench.runtime.resume(status.instance).state == "running"
    until(lambda: len(list(bench.runtime.logs(status.instance))) > last, "more lines", deadline_s=30)
    bench.runtime.pause(status.instance)
    assert bench.runtime.stop(status.instance, grace_s=20).exit_code == 143
    with pytest.raises(InvalidRequest, match="exited"):
        bench.runtime.pause(status.instance)


@every_runtime
def test_stopping_is_asked_for_first(bench: Bench) -> None:
    polite = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('up', flush=True); time.sleep(60)"
    )
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True); time.sleep(60)"
    for code, expected in ((polite, 7), (deaf, 137)):
        status = bench.start("python3", "-S", "-c", code)
        _said(bench, status.instance, "up")
        assert bench.runtime.stop(status.instance, grace_s=30 if code == polite else 0.5).exit_code == expected
        assert bench.runtime.stop(status.instance).exit_code == expected


@every_runtime
def test_lines_are_followed(bench: Bench) -> None:
    status = bench.start("sh", "-c", "for n in 1 2 3 4 5; do echo line $n; sleep 0.2; done; printf end")
    lines = list(bench.runtime.logs(status.instance, follow=True))
    assert [line.text for line in lines] == ["line 1", "line 2", "line 3", "line 4", "line 5", "end"]
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    since = lines[3].at  # on a busy machine several may have come at the same moment
    after = [line.text for line in lines if line.at > since]
    assert [line.text for line in bench.runtime.logs(status.instance, since=since)] == after


@every_runtime
def test_a_command_is_run_inside(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # as in a session of a user, where runsc looks elsewhere
    status = bench.start("sleep", "600", env={"OWN": "1"})
    done = bench.runtime.exec(
        status.instance, ("sh", "-c", "id -u; echo $ASKED; echo wrong >&2; exit 4"), env={"ASKED": "yes"}
    )
    assert (done.exit_code, done.stdout, done.stderr) == (4, b"10001\nyes\n", b"wrong\n")
    assert bench.runtime.exec(status.instance, ("sh", "-c", "echo x > /etc/x")).exit_code != 0
    within_s = 1.0 * PATIENCE if bench.name == ELSEWHERE else 1.0  # where what has not begun by then is not killed
    with pytest.raises(DeadlineExceeded, match="killed"):
        bench.runtime.exec(status.instance, ("sleep", "54321"), timeout_s=within_s)
    until(lambda: b"54321" not in bench.runtime.exec(status.instance, ("ps",)).stdout, "the end of it", deadline_s=20)
    bench.runtime.kill(status.instance)
    with pytest.raises(InvalidRequest, match="run"):
        bench.runtime.exec(status.instance, ("true",))


@every_runtime
def test_another_process_finds_it_and_mends_its_relay(bench: Bench) -> None:
    status = bench.start("python3", "-S", "-c", ECHO, port=8000, labels={"owner": "lab"})
    assert asked(status.endpoint) == b"inside: hello\n"
    other = make_runtime(bench.name, bench.directory)
    try:
        assert status.instance in {found.instance for found in other.adopt()}
        found, known = other.status(status.instance), bench.runtime.status(status.instance)
        if bench.name == ELSEWHERE:  # each process has ways of its own to what is on other machines
            assert asked(found.endpoint) == b"inside: hello\n"
            found = replace(found, endpoint=known.endpoint)
        assert found == known
        relay = bench.directory / bench.name / status.instance / "relay.json"
        if relay.exists():  # a bubblewrap sandbox ends with its watcher, and its relay is the watcher
            os.kill(int(re.findall(r'"watcher": (\d+)', relay.read_text())[0]), signal.SIGKILL)
            until(lambda: not _open(status.endpoint), "the end of the relay", deadline_s=10)
            other.adopt()
            assert other.status(status.instance).endpoint == status.endpoint
            # One that dies later is mended by whoever looks what runs.
            os.kill(int(re.findall(r'"watcher": (\d+)', relay.read_text())[0]), signal.SIGKILL)
            until(lambda: not _open(status.endpoint), "the end of the other relay", deadline_s=10)
            until(lambda: other.instances() and _open(status.endpoint), "a third one", deadline_s=60)
            assert other.status(status.instance).endpoint == status.endpoint
        assert asked(status.endpoint) == b"inside: hello\n"
    finally:
        other.close()


def _open(endpoint: tuple[str, int] | None) -> bool:
    assert endpoint is not None
    with contextlib.suppress(OSError), socket.create_connection(endpoint, 1):
        return True
    return False


STARTERS = """
import os, sys
from pathlib import Path
from tests.deploy.conftest import make_runtime
from rios.deploy.runtimes.protocol import Launch, ImageBase, RootfsBase
name, directory, digest = sys.argv[1:]
make_runtime(name, Path(directory)).capabilities()  # a service that this one starts outlives those below
base = RootfsBase(digest) if name == "bubblewrap" else ImageBase(digest)
print("ready", flush=True)
for line in sys.stdin:
    if (starter := os.fork()) == 0:
        runtime = make_runtime(name, Path(directory))
        print(os.getpid(), flush=True)
        launch = Launch(instance=line.strip(), base=base, command=("sh", "-c", "echo started; sleep 300"), port=8000)
        runtime.start(launch)
        os._exit(0)
    os.waitpid(starter, 0)
    print("ended", flush=True)
"""


@contextlib.contextmanager
def _starters(bench: Bench) -> Iterator[subprocess.Popen[str]]:
    """A process that forks a starter for each id it reads, says its process id, and says when it has ended."""
    digest = bench.base.digest  # type: ignore[union-attr]
    command = [sys.executable, "-c", STARTERS, bench.name, str(bench.directory), digest]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.terminate()


@every_runtime
def test_a_starter_killed_at_any_point_leaves_one_or_none(bench: Bench) -> None:
    with _starters(bench) as starters:
        assert starters.stdin is not None
        assert starters.stdout is not None
        for delay in (0.0, 0.02, 0.06, 0.15, 0.4):
            launch = bench.launch("sh", "-c", "echo started; sleep 300", port=8000, limits=Limits())
            starters.stdin.write(f"{launch.instance}\n")
            starters.stdin.flush()
            pid = int(starters.stdout.readline())
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert starters.stdout.readline() == "ended\n"
            bench.runtime.adopt()
            if delay not in (0.02, 0.15):  # repeated, it is there once; else it is taken away, whatever there is of it
                assert bench.runtime.start(launch).state == "running"
                _said(bench, launch.instance, "started")
                assert bench.output(launch.instance) == "started"
                assert sum(_runs(process, "sleep 300") for process in bench.processes(launch.instance)) <= 1
            bench.runtime.remove(launch.instance)
            assert_nothing_left(bench, [launch.instance])


def _runs(pid: int, command: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip() == command
    return False


@every_runtime
def test_many_start_at_once(bench: Bench) -> None:
    launches = [bench.launch("sh", "-c", f"echo {n}; sleep 60") for n in range(4)]
    threads = [threading.Thread(target=bench.runtime.start, args=(launch,)) for launch in (*launches, *launches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, launch in enumerate(launches):
        _said(bench, launch.instance, str(number))
        assert bench.output(launch.instance) == str(number)
