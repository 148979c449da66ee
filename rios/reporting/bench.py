"""Helpers of the performance report: pairs run in turn, medians with their uncertainty, and what rios is compared with.

A shared machine has good and bad minutes. Two contestants are therefore run in turn, A B, B A, A B, and each pair gives
one ratio: what slows both down for a while cancels out of it. The interval around the median says what is left.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rios.reporting.child import Child
from rios.words.errors import InvalidRequest

_RESAMPLES = 4000
_PORT = "port "


@dataclass(frozen=True, slots=True)
class Interval:
    """A median, the bounds of its 95 % bootstrap interval, and how many measurements it stands on."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        digits = 2 if abs(self.median) >= 0.1 else 4
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def median(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The median of `values` and its 95 % percentile-bootstrap interval; equal input gives equal output."""
    if not len(values) or not np.isfinite(values).all():
        raise InvalidRequest(f"a median of {len(values)} values: at least 1 is wanted, all of them finite")
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(_RESAMPLES, len(data)))
    low, high = np.quantile(np.median(data[draws], axis=1), (0.025, 0.975))
    return Interval(float(np.median(data)), float(low), float(high), len(data))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The median of the pairs' ratios, with its interval."""
    if len(numerators) != len(denominators):
        raise InvalidRequest(f"{len(numerators)} and {len(denominators)} measurements do not make pairs")
    if min(denominators, default=1.0) <= 0:
        raise InvalidRequest(f"the smallest denominator is {min(denominators)}: all must be above 0")
    return median([a / b for a, b in zip(numerators, denominators, strict=True)])


Blocks = Sequence[Sequence[float]]


def quantile_ratio(numerators: Blocks, denominators: Blocks, *, q: float, seed: int = 0) -> Interval:
    """The ratio of two quantiles, each over all values of all blocks.

    Blocks were measured in turn, pair by pair, and values of one block are alike: so whole pairs of blocks are drawn
    for the interval, not values.
    """
    return _of_blocks(
        numerators,
        denominators,
        lambda a, b: np.quantile(np.concatenate(a), q) / np.quantile(np.concatenate(b), q),
        seed,
    )


def share(parts: Sequence[float], wholes: Sequence[float], *, seed: int = 0) -> Interval:
    """Sum of `parts` to sum of `wholes`, which were counted block by block."""
    return _of_blocks(
        [[part] for part in parts], [[whole] for whole in wholes], lambda a, b: np.sum(a) / np.sum(b), seed
    )


def _of_blocks(a: Blocks, b: Blocks, figure: Callable[[list[Any], list[Any]], Any], seed: int) -> Interval:
    if len(a) != len(b) or not a or not all(map(len, (*a, *b))):
        raise InvalidRequest(f"{len(a)} and {len(b)} blocks do not make pairs, or one has no values")
    left, right = ([np.asarray(block, dtype=np.float64) for block in blocks] for blocks in (a, b))
    draws = np.random.default_rng(seed).integers(0, len(a), size=(_RESAMPLES, len(a)))
    found = [float(figure([left[i] for i in draw], [right[i] for i in draw])) for draw in draws]
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(float(figure(left, right)), float(low), float(high), sum(map(len, left)))


@dataclass(frozen=True, slots=True)
class Machine:
    """What a figure was measured on."""

    cpu: str
    cores: int
    memory_gib: int

    @classmethod
    def here(cls) -> Machine:
        """This machine; no names, only kinds."""
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
        return cls(model or platform.machine(), os.cpu_count() or 1, round(psutil.virtual_memory().total / 2**30))


def rate_while_all_run(clients: Sequence[Sequence[Sequence[tuple[float, int]]]]) -> float:
    """Tokens a second while every client has a request that runs; moments at which one of them pauses are left out.

    clients: of each client its requests, one after the other; of a request the moment at which it was asked with a 0,
    then the moments at which tokens came with their numbers. What is before everybody's first token, or after the first
    client's last one, does not count. A token counts evenly over the time since the moment before it: all streams get
    theirs at the end of one step, some of them an instant after the first has ended, and that step is in the time.
    """
    begin = max(requests[0][1][0] for requests in clients)
    end = min(requests[-1][-1][0] for requests in clients)
    pauses = [(before[-1][0], after[0][0]) for requests in clients for before, after in itertools.pairwise(requests)]
    edges = [begin, *sorted(moment for pause in pauses for moment in pause if begin < moment < end), end]
    runs = [
        (start, stop)
        for start, stop in itertools.pairwise(edges)
        if not any(ended <= start and stop <= asked for ended, asked in pauses)
    ]
    lasts = math.fsum(stop - start for start, stop in runs)
    if lasts <= 0.0:
        raise InvalidRequest(f"at no moment do all {len(clients)} clients have a request that runs")
    gaps = [
        (before, moment, count)
        for requests in clients
        for request in requests
        for (before, _), (moment, count) in itertools.pairwise(request)
        if count
    ]
    tokens = math.fsum(
        count * max(min(moment, stop) - max(before, start), 0.0) / (moment - before)
        for before, moment, count in gaps
        for start, stop in runs
    )
    return tokens / lasts


def wait_for_calm(limit_s: float, *, busy_percent: float = 25.0) -> None:
    """Wait until the processors have little to do, at most `limit_s`: others' work is not what is measured."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and psutil.cpu_percent(interval=0.2) > busy_percent:
        pass


def in_turn(
    contestants: Sequence[Callable[[], float]], *, pairs: int = 20, warm_up: int = 2, calm_s: float = 0.0
) -> list[list[float]]:
    """What each contestant returns, `pairs` times, in an order that turns round every time.

    warm_up: rounds that are thrown away. calm_s: wait so long at most for a calm machine before each round.
    """
    if pairs < 1:
        raise InvalidRequest(f"pairs is {pairs}; at least 1 is needed, 20 for an interval worth its name")
    results: list[list[float]] = [[] for _ in contestants]
    for turn in range(warm_up + pairs):
        wait_for_calm(calm_s)
        order = range(len(contestants)) if turn % 2 else reversed(range(len(contestants)))
        for place in order:
            value = contestants[place]()
            if turn >= warm_up:
                results[place].append(value)
    return results


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of this process and of others so far, to the nanosecond: what a busy machine hardly changes."""
    # The clock of another process: `clock_getcpuclockid` of glibc, which Python has for threads alone.
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def checkpoint(directory: Path) -> Path:
    """A random mixture-of-experts checkpoint of 82 M parameters: 6 layers of 16 experts, 2 for each token, float32."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = OlmoeConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=480,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=16,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        initializer_range=0.05,  # so that logits are well apart and rounding does not change a token
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OlmoeForCausalLM(config)
    model.save_pretrained(directory)
    return directory


def one_process(directory: Path, *, threads: int) -> Child:
    """transformers' `generate` in a process of its own: see `generate_here`."""
    return Child([sys.executable, "-m", __spec__.name, str(directory), str(threads)], threads=threads)


def generate_here(directory: str, threads: int) -> None:
    """transformers' own `generate` in one process: questions on standard input, seconds and tokens on its output."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()  # type: ignore[no-untyped-call]
    model.generation_config.pad_token_id = 0
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        model.set_experts_implementation(asked["experts"])
        ids = torch.tensor(asked["prompts"])
        started = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(  # type: ignore[misc]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=asked["new_tokens"], do_sample=False
            )
        took = time.perf_counter() - started
        sys.stdout.write(json.dumps({"seconds": took, "tokens": found[:, ids.shape[1] :].tolist()}) + "\n")
        sys.stdout.flush()


def serve_echo(question_bytes: int, answer_bytes: int, core: int | None = None) -> None:
    """A bare socket that answers `answer_bytes` to every `question_bytes`; prints its port first.

    core: where it stays; None for anywhere.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    answer = bytes(answer_bytes)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sys.stdout.write(f"{_PORT}{server.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            sock, _ = server.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while receive(sock, question_bytes):
                    sock.sendall(answer)


def receive(sock: socket.socket, count: int) -> bool:
    """Read exactly `count` bytes; False at the end of the stream."""
    buffer = memoryview(bytearray(count))
    done = 0
    while done < count:
        got = sock.recv_into(buffer[done:])
        if not got:
            return False
        done += got
    return True


@contextmanager
def echo(question_bytes: int, answer_bytes: int, *, core: int | None = None) -> Iterator[int]:
    """The port of an echo in a process of its own, which stays on `core` where one is given."""
    said = [str(number) for number in (question_bytes, answer_bytes, core) if number is not None]
    with Child([sys.executable, "-m", __spec__.name, "echo", *said]) as child:
        yield int(child.first_line.removeprefix(_PORT))


def round_trip_s(
    address: tuple[str, int], *, question_bytes: int, answer_bytes: int, count: int = 200, cores: set[int] | None = None
) -> float:
    """Median seconds of question and answer over one connection to an echo.

    cores: where this thread stays meanwhile. The two ends of a bare echo take turns, so the system likes to run both on
    one core, which no host that computes beside the trunk can do.
    """
    question, before = bytes(question_bytes), os.sched_getaffinity(0)
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def once() -> None:
            sock.sendall(question)
            receive(sock, answer_bytes)

        os.sched_setaffinity(0, cores or before)
        try:
            return statistics.median(seconds(once) for _ in range(count))
        finally:
            os.sched_setaffinity(0, before)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        serve_echo(*map(int, sys.argv[2:]))
    else:
        generate_here(sys.argv[1], int(sys.argv[2]))
