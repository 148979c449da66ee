"""`dask scheduler` and `dask worker --preload rios.worker` as the README starts them: names, ranks, restarts."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from rios.dmoe.membership import peers_of
from rios.words.errors import InvalidRequest
from rios.worker import Seat
from tests import waiting
from tests.campaigns import ROOT

DEADLINE_S = 120.0
EXPLICIT = 1 << 20  # ranks that no worker takes by itself
PROGRAM = """
import json, sys, rios
with rios.connect(sys.argv[1]) as net:
    net.wait_for_workers(2, timeout=300)
    with net.dmoe.deploy("demo", progress=False) as model:
        tokens = model.generate("It was a fine morning,", max_new_tokens=8).token_ids
    print(json.dumps({"tokens": tokens, "workers": net.workers.to_frame().to_dict(orient="records")}))
"""


until = partial(waiting.until, deadline_s=DEADLINE_S, pause_s=0.1)


class Lab:
    """A scheduler and one `dask worker` command with its nannies, in a folder of their own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0",
                    "--scheduler-file", str(file))  # fmt: skip
        # The file is there before all of it is written.
        until(lambda: file.exists() and file.read_text().rstrip().endswith("}"), "a scheduler")
        self.address: str = json.loads(file.read_text())["address"]

    def _start(self, kind: str, *arguments: str) -> None:
        with (self.folder / f"{kind}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", kind, *arguments],
                    env=self._environment,
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def workers(self, *arguments: str) -> None:
        self._start("worker", self.address, "--preload", "rios.worker", "--host", "127.0.0.1", *arguments)

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def events(self, text: str) -> list[dict[str, Any]]:
        """Lines of rios in the worker's log that hold `text`."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{") and text in line]

    def announced(self) -> dict[str, dict[str, Any]]:
        """Hosts by name, as the scheduler has them."""
        from distributed import Client

        with Client(self.address, timeout=DEADLINE_S, set_as_default=False) as client:
            workers = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
        found = {name: {**said, "address": peer.address} for name, (peer, said) in peers_of(workers).items()}
        for said in found.values():
            said["metrics_port"] = workers[said["dask_address"]]["services"].get("dashboard")
        return found

    def connect(self) -> dict[str, Any]:
        """What a notebook elsewhere finds and is answered."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, self.address],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S * waiting.PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr + self.log()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        hosts = [said["pid"] for said in self.announced().values()]
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        until(lambda: not any(map(psutil.pid_exists, hosts)), "the end of the hosts")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    with contextlib.ExitStack() as stack:

        def make(**environment: str) -> Lab:
            made = Lab(tmp_path, environment)
            stack.callback(made.close)
            return made

        yield make


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody has."""
    for first in range(21_000, 30_000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no free ports")


def test_two_workers_of_one_command(lab: Callable[..., Lab]) -> None:
    """Neighbouring devices and ports, names that last, and a worker that its nanny starts again is the host it was."""
    base = free_ports(64)  # by rank, and other networks of this machine have ranks too
    network = lab(RIOS_HOST_CLASS="tests.devices:FourDevices", RIOS_DATA_PORT=str(base))
    network.workers("--nworkers", "2", "--nthreads", "1")
    found = network.connect()
    workers = {worker["name"]: worker for worker in found["workers"]}
    ranks = {name: int(name.rpartition("-")[2]) for name in workers}
    assert len(set(ranks.values())) == 2
    for name, rank in ranks.items():
        assert name == f"{platform.node()}-{rank}"
        assert workers[name]["device"] == f"cuda:{rank % 4}"
        assert workers[name]["address"] == f"127.0.0.1:{base + rank}"

    before = network.announced()
    lost = min(before)
    os.kill(before[lost]["worker_pid"], signal.SIGKILL)
    again = until(
        lambda: (
            (now := network.announced()).keys() == before.keys()
            and now[lost]["worker_pid"] != before[lost]["worker_pid"]
            and now
        ),
        "the worker again",
    )
    assert {name: said["address"] for name, said in again.items()} == {
        name: said["address"] for name, said in before.items()
    }
    after = network.connect()
    assert {worker["name"]: worker["device"] for worker in after["workers"]} == {
        name: worker["device"] for name, worker in workers.items()
    }
    assert after["tokens"] == found["tokens"]


def test_a_rank_is_had_once_and_freed() -> None:
    with contextlib.ExitStack() as stack:
        seats = [Seat() for _ in range(3)]
        for seat in seats:
            stack.callback(seat.leave)
        ranks = [seat.rank for seat in seats]
        assert len(set(ranks)) == 3
        seats[1].leave()
        assert seats[1].name("127.0.0.1") == f"{platform.node()}-{ranks[1]}"


def test_a_nanny_gives_its_next_worker_the_rank_of_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    lower, killed = Seat("tcp://127.0.0.1:1"), Seat("tcp://127.0.0.1:2")
    killed._socket.close()  # by which the kernel frees it, and nobody is told
    lower.leave()
    again, other = Seat("tcp://127.0.0.1:2"), Seat("tcp://127.0.0.1:3")
    try:
        assert again.rank == killed.rank
        assert other.rank < again.rank
    finally:
        again.leave()
        other.leave()
    in_order = Seat("tcp://127.0.0.1:2")
    try:
        assert in_order.rank == again.rank
    finally:
        in_order.leave()


def test_a_rank_that_cannot_be_noted_is_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(Path, "write_text", refuse)
    with caplog.at_level("INFO", logger="rios.worker"):
        seat = Seat("tcp://127.0.0.1:1")
    seat.leave()
    assert "the rank is not noted" in caplog.messages


def refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_rank_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIOS_RANK", str(EXPLICIT))
    seat = Seat()
    try:
        assert seat.rank == EXPLICIT
        with pytest.raises(InvalidRequest, match=f"RIOS_RANK is {EXPLICIT}"):
            Seat()
    finally:
        seat.leave()
    Seat().leave()
    monkeypatch.setenv("RIOS_RANK", "-1")
    with pytest.raises(InvalidRequest, match="RIOS_RANK"):
        Seat()


@pytest.mark.parametrize("variable", ["RIOS_RANK", "RIOS_DATA_PORT", "RIOS_MEMORY_BYTES"])
def test_a_worker_whose_settings_are_wrong_ends(variable: str) -> None:
    """Not one that stays without a host."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "tcp://127.0.0.1:9", "--no-nanny"]
    done = subprocess.run(
        [*command, "--preload", "rios.worker", "--no-dashboard"],
        env={**os.environ, "PYTHONPATH": str(ROOT), variable: "many"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert f"{variable} is 'many'; it must be a whole number" in done.stderr


def test_machines_without_a_name_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIOS_RANK", str(EXPLICIT))
    monkeypatch.setattr(platform, "node", lambda: "localhost.localdomain")
    seat = Seat()
    seat.leave()
    assert seat.name("10.0.0.7") == f"10.0.0.7-{EXPLICIT}"


def test_a_serving_process_that_ends_is_started_again(lab: Callable[..., Lab], tmp_path: Path) -> None:
    """A port in use, a torch that cannot be imported, a kill: each is logged, and none leaves the worker alone."""
    rank, port = 900, free_ports(1)
    broken = tmp_path / "torch.py"
    broken.write_text("raise ImportError('no libtorch here')\n")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    with socket.create_server(("127.0.0.1", port)):
        network = lab(RIOS_RANK=str(rank), RIOS_DATA_PORT=str(port - rank), PYTHONPATH=path)
        network.workers("--no-nanny", "--nthreads", "1", "--name", "alone")
        until(lambda: network.events(f"cannot listen at 127.0.0.1:{port}: Address already in use"), "the first reason")
    until(lambda: network.events("ImportError: no libtorch here"), "the second reason")
    broken.unlink()
    said = until(lambda: network.announced().get("alone"), "the host")
    assert said["address"] == ("127.0.0.1", port)
    supervisor = psutil.Process(said["pid"]).parent()
    assert supervisor is not None
    supervisor.kill()
    until(lambda: network.announced().get("alone", said)["pid"] != said["pid"], "the host again")
    ended = network.events("the serving process ended")
    assert ended[-1]["pid"] == supervisor.pid
    assert ended[-1]["exit_code"] == -signal.SIGKILL
    assert {one["exit_code"] for one in ended[:-1]} == {1}
    pauses = [one["pause_s"] for one in ended]
    assert pauses == sorted(pauses)
    assert all(one["worker"] == "alone" for one in ended)


def test_a_worker_shows_its_figures(lab: Callable[..., Lab]) -> None:
    """Prometheus asks the Dask worker for them; while the host is not there, they say so."""
    network = lab(RIOS_MEMORY_BYTES=str(100 << 20))
    network.workers("--no-nanny", "--nthreads", "1", "--name", "shown", "--dashboard-address", "127.0.0.1:0")
    said = until(lambda: network.announced().get("shown"), "the host")
    url = f"http://127.0.0.1:{said['metrics_port']}/metrics"

    def figures() -> dict[str, float]:
        with urllib.request.urlopen(url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {line.split("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("rios_host_")}

    shown = until(lambda: figures().get("rios_host_up") and figures(), "figures")
    assert shown["rios_host_memory_bytes"] == 100 << 20
    assert shown["rios_host_rss_bytes"] > 10 << 20
    assert {"rios_host_calls", "rios_host_rows", "rios_host_compute_ns", "rios_host_reserved_bytes"} <= shown.keys()
    waiting.stop(said["pid"])
    try:
        assert figures() == {"rios_host_up": 0.0}
    finally:
        os.kill(said["pid"], signal.SIGCONT)
