"""Ways to ports of Pods, through their cluster: what they carry, and how they end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.deploy.conftest import ELSEWHERE, Bench, make_runtime
from tests.deploy.echo import ECHO, asked
from tests.deploy.kubernetes_server import KubernetesServer
from tests.waiting import until

pytestmark = [
    *(pytest.mark.needs(what) for what in ("bwrap", "root", "busybox")),
    pytest.mark.parametrize("bench", [ELSEWHERE], indirect=True),
]


def test_a_way_to_what_another_process_took_away_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that does not lead opens ways, and is not told of what is ended."""
    monkeypatch.setattr("rios.deploy.runtimes.kubernetes_ways._QUIET_S", 0.2)
    status = bench.start("sleep", "60", port=8000)
    other = make_runtime(ELSEWHERE, bench.directory)
    way = other.way(status.instance)
    assert way is not None
    time.sleep(0.5)
    assert _listens(way), "its Pod is there"
    bench.runtime.remove(status.instance)
    until(lambda: not _listens(way), "the end of the way", deadline_s=20, pause_s=0.5)
    other.close()


def test_what_ways_carry_is_not_mixed(bench: Bench) -> None:
    """Hundreds of short connections: the end of one takes nothing from those that begin then, and puts nothing in."""
    status = bench.start("python3", "-S", "-c", ECHO, port=8000)
    asked(status.endpoint)
    answers: list[bytes] = []

    def ask() -> None:
        answers.extend([asked(status.endpoint, b"many\n") for _ in range(20)])

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"inside: many\n"] * 320


def test_a_way_ends_with_its_connection_to_the_cluster(bench: Bench, cluster: KubernetesServer) -> None:
    status = bench.start("python3", "-S", "-c", ECHO, port=8000)
    asked(status.endpoint)
    assert status.endpoint is not None
    before = cluster.forwarded
    with socket.create_connection(status.endpoint, 30) as connection:
        connection.sendall(b"no line so far")
        until(lambda: cluster.forwarded > before, "nothing is forwarded", deadline_s=20)
        cluster.break_off()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert asked(status.endpoint) == b"inside: hello\n"


def _listens(way: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(way, 1):
            return True
    except ConnectionRefusedError:
        return False
