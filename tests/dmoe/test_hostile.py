"""A real host under a hundred thousand frames that nobody should send: it lives, answers others, and stays small."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.control import HostControl
from rios.dmoe.greeting import connect
from rios.dmoe.job import Job
from rios.dmoe.manifest import Manifest
from rios.dmoe.params import SamplingParams
from rios.dmoe.peer import Peer
from rios.dmoe.session import TrunkSession
from rios.dmoe.shm import Segment
from rios.dmoe.tokenizer import Tokenizing
from rios.dmoe.wire import HEADER, MAGIC, VERSION, Kind, dump
from rios.words.config import Settings
from rios.words.errors import HostLost, InvalidRequest, RiosError
from tests.campaigns import ROOT, Campaign
from tests.dmoe.frames import (
    ATTACH,
    KEY,
    NAME,
    ROLES,
    as_stranger,
    exec_frame,
    greeted,
    hello,
    mutated,
    read_frame,
    submit_meta,
)

CHECKPOINT = ROOT / "rios" / "demo" / "model"
DEADLINE_S = 20.0
GROWTH_BYTES = 64 << 20
BATCH = 64  # connections under way at a time
FRAMES = 10_000  # of `make test`; the campaign sends ten times as many
ANSWERS_MIN = 3  # a fast machine sends all frames before the first of them is there
PROMPT = list(range(40, 60))
NEW_TOKENS = 48
SETTINGS = Settings(connect_timeout_s=DEADLINE_S)


@dataclass
class Victim:
    """The host process and the control connection that keeps its deployment."""

    peer: Peer
    process: psutil.Process
    control: HostControl
    manifest: Manifest
    log: Path
    expected: tuple[int, ...] = ()
    handles: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 30)))

    def session(self, jobs: dict[int, Job]) -> TrunkSession:
        session = TrunkSession(
            self.peer, NAME, SETTINGS, jobs=jobs, lost=lambda _, why: fail_all(jobs, why), finished=lambda _: None
        )
        session.start()
        return session

    def generate(self, session: TrunkSession, jobs: dict[int, Job]) -> tuple[int, ...]:
        """One answer, within the deadline."""
        params = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
        handle = next(self.handles)
        job = Job(
            f"r{handle}",
            handle,
            PROMPT,
            params,
            seed=0,
            model="demo",
            tokenizing=Tokenizing(None),
            cancel=lambda _: None,
        )
        jobs[handle] = job
        session.submit([job], [])
        tokens = job.result(DEADLINE_S).token_ids
        del jobs[handle]
        return tokens

    def check(self) -> None:
        """It is the same process, and still gives the right answer."""
        jobs: dict[int, Job] = {}
        session = self.session(jobs)
        try:
            assert self.generate(session, jobs) == self.expected
        finally:
            session.close()
        assert self.control.call("info", timeout_s=DEADLINE_S)["pid"] == self.process.pid
        assert self.process.is_running()


def fail_all(jobs: dict[int, Job], why: str) -> None:
    for job in list(jobs.values()):
        job.fail(HostLost(why))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    log = tmp_path_factory.mktemp("hostile") / "host.log"
    orders = {"name": "victim", "key": KEY, "bind": "127.0.0.1", "port": 0, "threads": 1, "memory_bytes": 1 << 30}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "rios.dmoe.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd=ROOT,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.flush()
        try:
            said = json.loads(process.stdout.readline())
            peer = Peer("victim", ("127.0.0.1", said["port"]), KEY, said["machine"])
            manifest = read_manifest(CHECKPOINT)
            with HostControl(peer, SETTINGS, session="test") as control:
                control.call(
                    "open",
                    deployment=NAME,
                    dtype="float32",
                    path=str(CHECKPOINT),
                    body=manifest.to_json().encode(),
                )
                for layer in manifest.layers:
                    control.call("load", deployment=NAME, layer=layer.index, experts=list(range(layer.num_experts)))
                control.call("trunk", deployment=NAME, options={"kv_bytes": 1 << 26})
                control.call("route", deployment=NAME, peers=[], held={})
                found = Victim(peer, psutil.Process(said["pid"]), control, manifest, log)
                jobs: dict[int, Job] = {}
                session = found.session(jobs)
                found.expected = found.generate(session, jobs)
                session.close()
                yield found
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"stop\n")
                process.stdin.flush()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


# --- the attack --------------------------------------------------------------------------------------------------


def gone(error: OSError) -> bool:
    """Whether the host has ended the connection, perhaps with frames of ours unread."""
    return isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN


def finish(sock: socket.socket) -> None:
    """Read until the host has ended the connection; a host that has not by the deadline hangs."""
    try:
        while sock.recv(1 << 16):
            pass
    except OSError as error:
        if not gone(error):
            raise
    finally:
        sock.close()


def attack(victim: Victim, make: Callable[[random.Random, Manifest], list[bytes]], *, frames: int, seed: int) -> int:
    """Send `frames` frames over as many connections as that takes; returns how many connections it took."""
    chance = random.Random(seed)
    sent = connections = 0
    while sent < frames:
        open_ones: list[socket.socket] = []
        # From many addresses, for the ports of one would run out while closed connections linger.
        source = (f"127.0.0.{2 + (connections // BATCH) % 250}", 0)
        for _ in range(BATCH):
            sock = socket.create_connection(victim.peer.address, timeout=DEADLINE_S, source_address=source)
            open_ones.append(sock)
            payload = make(chance, victim.manifest)
            sent += len(payload)
            try:
                if make is not as_stranger:
                    payload[0] = greeted(sock, payload[0])
                sock.sendall(b"".join(payload))
                sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if not gone(error):
                    raise
        connections += len(open_ones)
        for sock in open_ones:
            finish(sock)
    return connections


def under_attack(victim: Victim, *, frames: int, seed: int) -> dict[str, Any]:
    """All roles at once, beside a client that behaves and compares each of its answers."""
    victim.check()
    log_start = victim.log.stat().st_size
    for number, make in enumerate(ROLES.values()):  # the first threads and connections take memory that stays
        attack(victim, make, frames=300, seed=seed + 10 + number)
    rss_before, threads_before = victim.process.memory_info().rss, victim.process.num_threads()
    stop = threading.Event()
    answers: list[tuple[int, ...]] = []
    errors: list[RiosError] = []
    peak = [rss_before]

    def behave() -> None:
        jobs: dict[int, Job] = {}
        session = victim.session(jobs)
        try:
            while not stop.is_set() or len(answers) < ANSWERS_MIN:
                answers.append(victim.generate(session, jobs))
                peak[0] = max(peak[0], victim.process.memory_info().rss)
        except RiosError as error:
            errors.append(error)
        session.close()

    thread = threading.Thread(target=behave)
    thread.start()
    started = time.perf_counter()
    try:
        # Strangers have one frame a connection: fewer of them, so that all three take about as long.
        parts = {"stranger": frames // 5, "trunk": 2 * frames // 5, "client": 2 * frames // 5}
        connections = {
            role: attack(victim, ROLES[role], frames=count, seed=seed + number)
            for number, (role, count) in enumerate(parts.items())
        }
    finally:
        stop.set()
        thread.join(2 * DEADLINE_S)
    assert not errors, errors
    assert not thread.is_alive()
    assert set(answers) == {victim.expected}
    victim.check()
    assert peak[0] - rss_before < GROWTH_BYTES
    deadline = time.monotonic() + DEADLINE_S
    while victim.process.num_threads() > threads_before + 2:
        assert time.monotonic() < deadline, "threads of closed connections are left"
        time.sleep(0.05)
    with victim.log.open() as file:
        file.seek(log_start)
        log = file.read()
    assert KEY not in log
    assert "Traceback" not in log  # everything that went wrong was expected to go wrong
    assert '"connection closed"' in log
    return {
        "frames": frames,
        "connections": connections,
        "answers": len(answers),
        "growth_bytes": peak[0] - rss_before,
        "wall_s": round(time.perf_counter() - started, 1),
    }


def test_ten_thousand_hostile_frames(victim: Victim) -> None:
    under_attack(victim, frames=FRAMES, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, 11))
def test_a_hundred_thousand_hostile_frames(victim: Victim, campaign_record: Campaign, part: int) -> None:
    """Ten parts of 10,000 frames."""
    campaign_record.once(f"part {part}", lambda: under_attack(victim, frames=10_000, seed=100 * part))
    reports = campaign_record.cases.values()
    sums = {what: sum(report[what] for report in reports) for what in ("frames", "answers")}
    connections = sum(sum(report["connections"].values()) for report in reports)
    growth_bytes = sum(report["growth_bytes"] for report in reports)
    campaign_record.conclude(**sums, connections=connections, wrong_answers=0, growth_bytes=growth_bytes)
    assert growth_bytes < 2 * GROWTH_BYTES


def test_announced_lengths_take_no_memory(victim: Victim) -> None:
    """Eight peers announce a gibibyte each and send none of it; the host neither stores nor waits with it."""
    before = victim.process.memory_info().rss
    socks = [socket.create_connection(victim.peer.address, timeout=DEADLINE_S) for _ in range(8)]
    for sock in socks:
        sock.sendall(greeted(sock, hello("data")))
        assert [read_frame(sock)[0] for _ in range(2)] == [Kind.PROOF, Kind.WELCOME]
        sock.sendall(HEADER.pack(MAGIC, VERSION, Kind.EXEC, 0, 1, 0, 1 << 30, 0) + bytes(1000))
    time.sleep(0.3)
    assert victim.process.memory_info().rss - before < GROWTH_BYTES
    victim.check()
    for sock in socks:
        sock.shutdown(socket.SHUT_WR)
        finish(sock)


def test_nonsense_in_shared_memory(victim: Victim) -> None:
    """A peer on the same machine writes what it likes into the segment, at any time."""
    chance = random.Random(4)
    area_bytes = 1 << 16
    for _ in range(150):
        connection, _ = connect(
            victim.peer.address,
            {"role": "data", "key": KEY, "deployment": NAME},
            timeout_s=DEADLINE_S,
            max_bytes=1 << 20,
        )
        segment, nonce = Segment.create(area_bytes)
        request = {**ATTACH, "pid": os.getpid(), "fd": segment.fd, "area_bytes": area_bytes, "nonce": nonce}
        connection.send(Kind.CALL, 0, dump(request), timeout_s=DEADLINE_S)
        assert connection.receive(DEADLINE_S).json() == {"ok": True}
        data = mutated(chance, exec_frame(chance, victim.manifest))[:area_bytes]
        os.pwrite(segment.fd, data, 64)
        os.pwrite(segment.fd, (1).to_bytes(8, "little"), 16)
        if chance.random() < 0.5:
            os.pwrite(segment.fd, chance.randbytes(48), 16)  # counters and flags, too
        # Answers, errors and the end, at any time, are all right; silence is not.
        with contextlib.suppress(RiosError, OSError):
            connection.send(Kind.RING, timeout_s=DEADLINE_S)
            connection.sock.shutdown(socket.SHUT_WR)
            while connection.readable(DEADLINE_S):
                connection.receive(DEADLINE_S)
            raise AssertionError("the host hangs")
        connection.close()
        segment.close()
    victim.check()


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "load", "deployment": NAME, "layer": 0, "experts": [0], "pinned": [1, 2]},
        {"op": "load", "deployment": NAME, "layer": float("inf"), "experts": []},
        {"op": "load", "deployment": NAME, "layer": 0, "experts": [99]},
        {"op": "load", "deployment": NAME, "layer": -1, "experts": [0]},
        {"op": "load", "deployment": NAME, "layer": 0, "experts": None},
        {"op": "load", "deployment": NAME},
        {"op": "load", "deployment": "another"},
        {"op": "drop", "deployment": NAME, "layer": 77, "experts": [0]},
        {"op": "open", "deployment": "new", "dtype": "float32", "path": "x" * 5000},
        {"op": "open", "deployment": [1]},
        {"op": "route", "deployment": NAME, "peers": [], "held": {"x": [1]}},
        {"op": "route", "deployment": NAME, "peers": [{"address": "x"}], "held": {}},
        {"op": "route", "deployment": NAME, "peers": 5, "held": {}},
        {"op": ["info"]},
        {},
    ],
    ids=lambda request: json.dumps(request)[:60],
)
def test_a_control_call_that_makes_no_sense_is_answered(victim: Victim, request_: dict[str, Any]) -> None:
    said = dict(request_)
    with HostControl(victim.peer, SETTINGS, session="odd") as control:
        with pytest.raises(InvalidRequest):
            control.call(said.pop("op", ""), timeout_s=DEADLINE_S, **said)
        assert control.call("info", timeout_s=DEADLINE_S)["pid"] == victim.process.pid
    victim.check()


def test_out_of_descriptors(victim: Victim) -> None:
    """Connections without a key use up what a process may open: the host waits, and serves again."""
    limits = victim.process.rlimit(psutil.RLIMIT_NOFILE)
    jobs: dict[int, Job] = {}
    session = victim.session(jobs)
    socks: list[socket.socket] = []
    victim.process.rlimit(psutil.RLIMIT_NOFILE, (victim.process.num_fds() + 8, limits[1]))
    try:
        socks += [socket.create_connection(victim.peer.address, timeout=DEADLINE_S) for _ in range(30)]
        deadline = time.monotonic() + DEADLINE_S
        while '"accept failed"' not in victim.log.read_text():
            assert time.monotonic() < deadline, "it accepts without end"
            time.sleep(0.02)
        assert victim.generate(session, jobs) == victim.expected  # who is there already does not notice
    finally:
        for sock in socks:
            sock.close()
        session.close()
        victim.process.rlimit(psutil.RLIMIT_NOFILE, limits)
    victim.check()


def test_strangers_are_given_up_after_the_deadline(victim: Victim) -> None:
    """Silence and half a greeting end by RIOS_CONNECT_TIMEOUT_S, five seconds."""
    with contextlib.ExitStack() as stack:
        socks = [socket.create_connection(victim.peer.address, timeout=DEADLINE_S) for _ in range(4)]
        for place, sock in enumerate(socks):
            stack.enter_context(sock)
            sock.sendall(hello("data")[: 20 * place])
        for sock in socks:
            assert sock.recv(1) == b""


def test_one_client_cannot_fail_another(victim: Victim) -> None:
    """Requests that are odd and yet allowed run in one batch with those of others."""
    jobs: dict[int, Job] = {}
    session = victim.session(jobs)
    connection, _ = connect(
        victim.peer.address,
        {"role": "client", "key": KEY, "deployment": NAME},
        timeout_s=DEADLINE_S,
        max_bytes=1 << 20,
    )
    try:
        for changes in (
            {"handle": 2**32 - 1},
            {"seed": 2**64 - 1},
            {"metered_from": 2**31 - 1},
            {"eos": [-1, 1 << 70]},
        ):
            params = {"temperature": 1.0, "max_new_tokens": 8, "ignore_eos": True, "repetition_penalty": 0.01}
            meta = dump(submit_meta(params=params, **changes))
            connection.send(Kind.SUBMIT, 0, meta, [struct.pack("<3i", 5, 6, 7)], timeout_s=DEADLINE_S)
            assert victim.generate(session, jobs) == victim.expected
    finally:
        connection.close()
        session.close()
