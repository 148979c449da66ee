"""Hosts that lie to a trunk and trunks that lie to a client: a link ends, the answer does not change."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rios.dmoe.calls import decode_exec, encode_result
from rios.dmoe.completion import Completion
from rios.dmoe.data import compute
from rios.dmoe.greeting import accept
from rios.dmoe.host_cost import HostCost
from rios.dmoe.hosted import Hosted
from rios.dmoe.job import Job
from rios.dmoe.metering import SHARE
from rios.dmoe.params import SamplingParams
from rios.dmoe.peer import Peer
from rios.dmoe.session import TrunkSession
from rios.dmoe.shm import Segment
from rios.dmoe.tokenizer import Tokenizing
from rios.dmoe.wire import HEADER, Connection, Frame, Kind, dump
from rios.words.config import Settings
from rios.words.errors import HostLost, RiosError
from tests import checkpoints
from tests.dmoe.frames import frame_of, mutated
from tests.hosting import DEADLINE_S, Client, hosting
from tests.waiting import PATIENCE

LIES = 200
TOKEN_LIES = 500
GROWTH_BYTES = 64 << 20
PROMPTS = ([5, 6, 7], [9, 8, 7, 6], [50] * 9)
ODD = (None, "x", [None], ["x"], [[1]], 5, {"a": 1}, [1e400], [1 << 70], [-1], [0, 0], 0.5, True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("olmoe", tmp_path_factory.mktemp("olmoe"))


class Server:
    """Whoever connects is served by `serve`, in a thread; what it raises is kept."""

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        self.errors: list[Exception] = []
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        connection = Connection(sock, max_bytes=1 << 30)
        try:
            self._serve(connection)
        except (OSError, RiosError):  # the other side has had enough
            pass
        except Exception as error:  # noqa: BLE001  the test raises it in its own thread
            self.errors.append(error)
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.close()
        if self.errors:
            raise self.errors[0]


@contextlib.contextmanager
def serving(serve: Callable[[Connection], None]) -> Iterator[Server]:
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


# --- a host ------------------------------------------------------------------------------------------------------


class LyingHost:
    """Computes what it is asked, and says something else. What happens to be valid is right."""

    def __init__(self, hosted: Hosted, *, seed: int) -> None:
        self.chance = random.Random(seed)
        self.lies = 0
        self.by_memory = 0
        self._hosted = hosted

    def __call__(self, connection: Connection) -> None:
        accept(connection, "any", timeout_s=DEADLINE_S, max_bytes=connection.max_bytes)
        welcome = {"held": self._hosted.held(), "handle": 7, "incarnation": "liar"}
        connection.send(Kind.WELCOME, 0, dump(welcome), timeout_s=DEADLINE_S)
        segment: Segment | None = None
        try:
            while True:
                frame = connection.receive() if segment is None else segment.receive(connection, 0.0)
                if frame.kind is Kind.CALL:
                    said = frame.json()
                    segment = Segment.open(said["pid"], said["fd"], said["area_bytes"], said["nonce"])
                    connection.send(Kind.ANSWER, frame.seq, dump({"ok": segment is not None}), timeout_s=DEADLINE_S)
                elif frame.kind is Kind.EXEC:
                    self._answer(connection, segment, frame)
        finally:
            if segment is not None:
                segment.close()

    def _answer(self, connection: Connection, segment: Segment | None, frame: Frame) -> None:
        call = decode_exec(frame, width=self._hosted.manifest.hidden_size)
        meta, bodies = encode_result(compute(self._hosted, call), mode=call.mode, compute_ns=1000)
        body = b"".join(bytes(part) for part in bodies)
        lie = self._lie(frame.seq, meta, body, checked=segment is None)
        self.lies += 1
        if segment is None or self.chance.random() < 0.2:
            connection.sock.sendall(lie)
            if len(lie) < HEADER.size + len(meta) + len(body):
                raise HostLost("what was announced does not come")
            return
        self.by_memory += 1
        lie = lie[: segment.area_bytes]
        segment._out[: len(lie)] = lie
        segment._counters[segment._out_counter] += self.chance.choice((1, 1, 1, 2, 1 << 40))
        connection.send(Kind.RING, timeout_s=DEADLINE_S)

    def _lie(self, seq: int, meta: bytes, body: bytes, *, checked: bool) -> bytes:
        """One frame, or two. Bits of rows are only changed where a checksum covers them: nobody could know."""
        chance = self.chance
        way = chance.randrange(6)
        good = frame_of(Kind.RESULT, seq, meta, body)
        if way == 0:
            said = {"error": chance.choice(("NotHeld", "OutOfMemory", "x", 5, None)), "message": chance.choice(ODD)}
            return frame_of(Kind.ERROR, seq, json.dumps({**said, "experts": chance.choice(ODD)}).encode())
        if way == 1:
            return frame_of(
                Kind.ERROR, seq, chance.choice((b"[]", b"{", b"5", b"\xff", b"[" * 50_000, b'{"error":[]}'))
            )
        if way == 2:
            kinds = [kind for kind in Kind if kind is not Kind.RESULT]
            return frame_of(chance.choice(kinds), chance.choice((seq, 0, 1 << 63)), meta, body)
        if way == 3:  # of another call, of other sizes, of another dtype
            changed = bytearray(meta)
            changed[chance.randrange(8, len(changed))] ^= 1 << chance.randrange(8)
            return frame_of(Kind.RESULT, chance.choice((seq, seq, seq + 1)), bytes(changed), body)
        if way == 4:
            return good + good
        if checked:
            while True:
                data = mutated(chance, good)
                if data[HEADER.size :] == good[HEADER.size :] or data[28:32] == good[28:32]:  # else made right again
                    return data
        data = bytearray(good)
        data[chance.randrange(HEADER.size)] ^= 1 << chance.randrange(8)
        return bytes(data)


@pytest.mark.parametrize("shared_memory", [False, True], ids=["sockets", "shared memory"])
def test_a_host_that_lies(
    shared_memory: bool, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A liar is soon thought slow, and then only asked for what is thrown away.
    monkeypatch.setattr(HostCost, "observe", lambda *_: None)
    caplog.set_level(logging.INFO, logger="rios")
    settings = {"reconnect_s": 0.001, "probe_s": 0.001, "shared_memory": shared_memory, "trunk_silence_s": DEADLINE_S}
    with hosting(settings=settings) as made:
        made.deploy(path)
        with Client(made) as client:
            alone = [client.submit(prompt, tokens=16).result(DEADLINE_S).token_ids for prompt in PROMPTS]
            liar = LyingHost(made.host.deployments["model"], seed=1)
            with serving(liar) as server:
                peer = Peer("liar", ("127.0.0.1", server.port), "any", made.host.machine)
                held = {"liar": made.host.deployments["model"].held()}
                made.control.call("route", deployment="model", peers=[peer.to_dict()], held=held)
                before = psutil.Process().memory_info().rss
                deadline = time.monotonic() + 120 * PATIENCE
                while liar.lies < LIES:
                    assert time.monotonic() < deadline, f"only {liar.lies} calls: the trunk does not come back"
                    jobs = [client.submit(prompt, tokens=16) for prompt in PROMPTS]
                    assert [job.result(DEADLINE_S).token_ids for job in jobs] == alone
                made.control.call("route", deployment="model", peers=[], held={})
                assert psutil.Process().memory_info().rss - before < GROWTH_BYTES
        assert (liar.by_memory > LIES // 2) == shared_memory
    assert not [record for record in caplog.records if record.exc_info]


# --- a trunk -----------------------------------------------------------------------------------------------------


def tokens_frame(chance: random.Random) -> bytes:
    """News of a trunk, most of it about request 1, with something odd among it."""
    count = chance.randrange(4)
    shares = np.zeros(chance.randrange(3), dtype=SHARE)
    shares["handle"] = 1
    shares["host"] = chance.choice((0, 0, 1, 200))
    odd: Any = chance.choice(ODD)
    said: dict[str, Any] = {"hosts": ["a"]}
    said |= chance.choice(
        (
            {},
            {"finished": {"1": odd}},
            {"failed": {"1": odd}},
            {"failed": {"1": {"error": odd, "message": odd}}},
            {"finished": odd},
            {"failed": odd},
            {"logprobs": odd},
            {"logprobs": {"1": odd}},
            {"logprobs": {"1": [[odd, odd]] * count}},
            {"hosts": odd},
            {"hosts": [odd]},
            {"hosts": {"a": odd}},
            {"finished": {"x": "stop"}, "failed": {"": {}}},
        )
    )
    tokens = np.array([(chance.choice((1, 1, 1, 99)), chance.randrange(1 << 32)) for _ in range(count)], dtype="<u4")
    return frame_of(Kind.TOKENS, chance.choice((count, count, count, 5, 1 << 60)), json.dumps(said).encode(),
                    tokens.tobytes() + shares.tobytes())  # fmt: skip


class LyingTrunk:
    """Takes a request and tells its client all kinds of things."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, connection: Connection) -> None:
        chance = self._chance
        accept(connection, "any", timeout_s=DEADLINE_S, max_bytes=connection.max_bytes)
        connection.send(Kind.WELCOME, 0, dump({}), timeout_s=DEADLINE_S)
        connection.receive(DEADLINE_S)
        frames = [tokens_frame(chance) for _ in range(chance.randrange(3))]
        frames.append(mutated(chance, tokens_frame(chance)) if chance.random() < 0.7 else tokens_frame(chance))
        connection.sock.sendall(b"".join(frames))
        connection.sock.shutdown(socket.SHUT_WR)
        connection.receive(DEADLINE_S)


def test_a_trunk_that_lies() -> None:
    """The request ends with an answer or an error of rios, and the connection once; nothing hangs or grows."""
    settings = Settings(connect_timeout_s=DEADLINE_S, trunk_silence_s=DEADLINE_S)
    before = psutil.Process().memory_info().rss
    outcomes = set()
    with serving(LyingTrunk(random.Random(2))) as server:
        for _ in range(TOKEN_LIES):
            lost: list[str] = []
            ended = threading.Event()

            def end(_: object, why: str, lost: list[str] = lost, ended: threading.Event = ended) -> None:
                lost.append(why)
                ended.set()

            jobs: dict[int, Job] = {}
            session = TrunkSession(
                Peer("liar", ("127.0.0.1", server.port), "any", "m"),
                "model",
                settings,
                jobs=jobs,
                lost=end,
                finished=lambda _: None,
            )
            session.start()
            job = jobs[1] = Job(
                "r1",
                1,
                [5, 6, 7],
                SamplingParams(max_new_tokens=8),
                seed=0,
                model="model",
                tokenizing=Tokenizing(None),
                cancel=lambda _: None,
            )
            with contextlib.suppress(HostLost):  # the answer may be there, and the connection gone, before it returns
                session.submit([job], [])
            assert ended.wait(DEADLINE_S), "the client waits for ever"
            assert len(lost) == 1
            job.fail(HostLost(lost[0]))
            try:
                answer = job.result(DEADLINE_S)
                assert isinstance(answer, Completion)
                assert repr(answer)
                assert all(isinstance(token, int) for token in answer.token_ids)
                outcomes.add("done")
            except RiosError as error:
                outcomes.add(type(error).__name__)
            session.close()
    assert {"done", "HostLost"} <= outcomes
    assert psutil.Process().memory_info().rss - before < GROWTH_BYTES
