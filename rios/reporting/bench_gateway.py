"""What a gateway costs, and whether one user is felt by the others: measured at processes of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rios.reporting import bench
from rios.reporting.asking import Answer, Way, all_of, ask, request
from rios.reporting.child import Child
from rios.words.errors import DeadlineExceeded, RiosError

START_S = 200.0
NO_LIMIT = {"RIOS_GATEWAY_BURST": "1000000000", "RIOS_GATEWAY_RATE_PER_S": "1000000000"}
PATH = "/v1/deployments"
_EMPTY = '{"data":[],"next":null}'
_SERVERS = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class Gateway:
    """Where a gateway is, and its first admin's token."""

    url: str
    token: str = field(repr=False)
    pid: int


@contextmanager
def gateway(scheduler: str, home: Path, *, models: Path | None = None, **variables: str) -> Iterator[Gateway]:
    """`rios gateway` as a process, on the network of a scheduler."""
    command = [
        sys.executable,
        "-m",
        "rios.cli",
        "gateway",
        "--scheduler",
        scheduler,
        "--port",
        "0",
        "--home",
        str(home),
    ]
    command += [] if models is None else ["--models", str(models)]
    with Child(command, environment=NO_LIMIT | variables, answer_s=START_S) as child:
        url = child.first_line.rpartition(" ")[2]
        yield Gateway(url, json.loads((home / "gateway.json").read_text())["token"], child.pid)


@contextmanager
def bare() -> Iterator[str]:
    """The URL of one route of FastAPI, with nothing around it, that answers as the gateway's does."""
    program = f"""
import socket, sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("{PATH}")
async def get():
    return {{"data": [], "next": None}}
place = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
place.bind(("127.0.0.1", 0))
place.listen()
print(f"http://127.0.0.1:{{place.getsockname()[1]}}", flush=True)
uvicorn.Server(uvicorn.Config(app, http="h11", log_config=None, access_log=False)).run(sockets=[place])
"""
    with Child([sys.executable, "-c", program]) as child:
        yield child.first_line


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis that keeps nothing. Raises RiosError where this machine has none."""
    name = next((found for one in _SERVERS if (found := shutil.which(one))), None)
    if name is None:
        raise RiosError(f"none of {', '.join(_SERVERS)} is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [name, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _until_it_listens(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait(10)


def _until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"nothing listens at port {port} after 20 s")
        time.sleep(0.02)


@contextmanager
def opened(url: str, count: int) -> Iterator[list[Way]]:
    """So many connections."""
    with ExitStack() as ends:
        yield [ends.enter_context(contextlib.closing(Way(url))) for _ in range(count)]


class Gets:
    """Requests per second of a GET, over some connections."""

    def __init__(self, url: str, token: str = "", *, connections: int = 4, count: int = 400) -> None:
        self._url = url
        self._request = request(url, PATH, token)
        self._connections, self._count = connections, count

    def __call__(self) -> float:
        """How many a second. Raises RiosError for an answer that is none."""
        left = itertools.count()
        with opened(self._url, self._connections) as ways:
            began = time.perf_counter()
            answers = all_of(ways, lambda _: self._request if next(left) < self._count else None)
            took_s = time.perf_counter() - began
        if wrong := [one for one in answers if one.status != 200 or _EMPTY.encode() not in one.body]:
            raise RiosError(f"the gateway answered {wrong[0].status}: {wrong[0].body[:200]!r}")
        return len(answers) / took_s


@dataclass(frozen=True, slots=True)
class Streamed:
    """What streams at the same time took."""

    tokens_per_s: float
    first_s: float
    """To the first token of the first of them."""
    cpu_s: float
    """Of all processes that have a part in it: who asks, the gateway, the hosts."""


class Streams:
    """Streams of a model at the same time: of the model itself, and through a gateway."""

    def __init__(self, model: Any, at: Gateway, name: str, *, hosts: Sequence[int], new_tokens: int) -> None:
        """model: local. name: of the same model at the gateway `at`, where it serves. hosts: their processes."""
        self._pids = (at.pid, *hosts)
        self._model = model
        self._at = at
        self._name = name
        self._new = new_tokens

    def here(self, prompts: Sequence[Sequence[int]]) -> Streamed:
        """In this process."""
        firsts: list[float] = []

        def read(prompt: Sequence[int]) -> None:
            for _ in self._model.stream(list(prompt), max_new_tokens=self._new, ignore_eos=True):
                if prompt is prompts[0] and not firsts:
                    firsts.append(time.perf_counter())

        threads = [threading.Thread(target=read, args=(one,)) for one in prompts]
        began, cpu_s = time.perf_counter(), bench.cpu_s(self._pids)
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        took_s = time.perf_counter() - began
        return Streamed(len(prompts) * self._new / took_s, firsts[0] - began, bench.cpu_s(self._pids) - cpu_s)

    def there(self, prompts: Sequence[Sequence[int]]) -> Streamed:
        """The same through the gateway, as server-sent events of an OpenAI route. Raises RiosError."""
        bodies = [
            request(
                self._at.url, "/v1/completions", self._at.token,
                {"model": self._name, "prompt": list(prompt), "max_tokens": self._new, "temperature": 0,
                 "stream": True, "stream_options": {"include_usage": True}},
            )
            for prompt in prompts
        ]  # fmt: skip
        asked: dict[int, bytes] = dict(enumerate(bodies))
        with opened(self._at.url, len(prompts)) as ways:
            began, cpu_s = time.perf_counter(), bench.cpu_s(self._pids)
            answers = all_of(ways, lambda place: asked.pop(place, None))
            took_s, cpu_s = time.perf_counter() - began, bench.cpu_s(self._pids) - cpu_s
        for one in answers:
            self._check(one)
        first = min(answers, key=lambda one: one.asked_at)
        return Streamed(len(prompts) * self._new / took_s, first.first_at - began, cpu_s)

    def _check(self, answer: Answer) -> None:
        wanted = f'"completion_tokens":{self._new}'.encode()
        if answer.status != 200 or wanted not in answer.body.replace(b": ", b":"):
            raise RiosError(f"the gateway answered {answer.status}: {answer.body[-300:]!r}")


def serves(at: Gateway, name: str, checkpoint: str, *, dtype: str = "float32") -> None:
    """Have a model deployed at a gateway, and wait until it serves. Raises RiosError."""
    ask(at.url, "/v1/deployments", at.token, {"name": name, "checkpoint": checkpoint, "dtype": dtype})
    deadline = time.monotonic() + START_S
    while (found := ask(at.url, f"/v1/deployments/{name}", at.token))["state"] != "serving":
        if found["state"] == "failed" or time.monotonic() > deadline:
            raise RiosError(f"{name} does not serve: {found['reason'] or found['state']}")
        time.sleep(0.1)


class Crowd:
    """Many users, each with a connection, a key and an address of its own, who ask again and again; and a greedy one.

    The greedy one has so many connections and asks on each as soon as it may: after 429, when `Retry-After` says.
    """

    def __init__(self, at: Gateway, model: str, *, users: int = 49, greedy: int = 32, rounds: int = 3) -> None:
        self._at = at
        self._rounds = rounds
        body = {"model": model, "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
        self._requests = [self._of(f"user-{number}", f"10.0.0.{number + 1}", body) for number in range(users)]
        much = {**body, "max_tokens": 64}
        self._greedy = self._of("greedy", "10.0.1.1", much)
        self._many = greedy

    def _of(self, login: str, address: str, body: dict[str, Any]) -> bytes:
        made = ask(self._at.url, "/v1/users", self._at.token, {"login": login, "role": "developer"})
        credit = {"amount": "1000 ROS"}
        ask(self._at.url, f"/v1/users/{made['id']}/credit", self._at.token, credit, key=f"credit-{login}")
        return request(self._at.url, "/v1/completions", made["token"], body, address=address)

    def alone(self) -> list[float]:
        """Seconds of each answer that the many got while the greedy one slept."""
        with opened(self._at.url, len(self._requests)) as ways:
            left = [self._rounds] * len(ways)

            def following(place: int) -> bytes | None:
                left[place] -= 1
                return self._requests[place] if left[place] >= 0 else None

            answers = all_of(ways, following)
        if wrong := [one for one in answers if one.status != 200]:
            raise RiosError(f"one of the many was answered {wrong[0].status}: {wrong[0].body[:300]!r}")
        return [one.ended_at - one.asked_at for one in answers]

    def beside(self) -> list[float]:
        """The same while it asks."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._ask_on, args=(stop,)) for _ in range(self._many)]
        for one in threads:
            one.start()
        try:
            return self.alone()
        finally:
            stop.set()
            for one in threads:
                one.join()

    def _ask_on(self, stop: threading.Event) -> None:
        with contextlib.closing(Way(self._at.url)) as way:
            while not stop.is_set():
                way.ask(self._greedy)
                while (answer := way.read()) is None:
                    pass
                if answer.status != 200:
                    stop.wait(max(answer.retry_after_s, 0.05))
