"""A host is lean: what it reads, what it keeps, and that nothing grows with the number of requests."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import rios
from rios.dmoe.manifest import Manifest
from tests import checkpoints
from tests.waiting import PATIENCE

MET_MAX = 8
REQUESTS = 1000
WARM_UP = 300
SETTLED_S = 30
# 2 KiB a request, over 1,000 of them. The least that a request could leave behind is its `Job` with a condition and
# its tokens, 3 KiB. What the allocators' pools still grow by after the warm-up was measured: 0.5 MiB in the trunk.
GROWTH_BYTES = 2 << 20

POOLED_MAX = 3 * (1 + 15)  # the writer, and SQLAlchemy's pool of 5 and 10 more, of three files each

# 4 layers of 12 experts of 1.97 MB, 94 MB in all: the ups and downs of an interpreter, some 2 MB, do not count.
LARGE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts": 12,
    "num_experts_per_tok": 2,
    "initializer_range": 0.05,
    "eos_token_id": None,
    "bos_token_id": None,
}


def pss(pid: int) -> int:
    """Proportional set size in bytes: private pages, and its part of those shared with other processes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"no Pss of {pid}")


def bytes_read(pid: int) -> int:
    """All bytes that read calls gave a process so far, from the page cache too (`rchar`)."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


@dataclass
class Lean:
    """A deployment of three hosts: the trunk's, an ordinary one, and one with room for a single expert."""

    model: Any
    trunk: str
    host: str
    single: str
    pids: dict[str, int]
    read: dict[str, int]

    def expert_bytes(self, name: str) -> int:
        """On disk, which is in memory too: the dtype is that of the files."""
        held = self.model._deployment.members[name].held
        manifest: Manifest = self.model._deployment.manifest
        return sum(manifest.expert_bytes(layer, expert) for layer, experts in held.items() for expert in experts)


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lean]:
    path = checkpoints.make("olmoe", tmp_path_factory.mktemp("lean"), **LARGE)
    one_expert = 3 * LARGE["hidden_size"] * LARGE["intermediate_size"] * 4
    with rios.local(workers=2, threads=1) as net:
        assert net.cluster is not None
        net.cluster.add_worker("single", memory_bytes=one_expert)
        net.wait_for_workers(3)
        pids = {worker.name: worker.pid for worker in net.workers}
        before = {name: bytes_read(pid) for name, pid in pids.items()}
        with net.dmoe.deploy(path, replicas=1, progress=False) as model:
            read = {name: bytes_read(pid) - before[name] for name, pid in pids.items()}
            trunk = model.placement.trunk
            (host,) = set(pids) - {trunk, "single"}
            yield Lean(model, trunk, host, "single", pids, read)


def test_a_host_reads_its_experts_and_nothing_else(lean: Lean) -> None:
    """`rchar` of the host process over the whole deployment, with modules imported and /proc looked at meanwhile."""
    own = lean.expert_bytes(lean.host)
    assert own > 30e6  # how many of them it holds is by the speed that was measured
    assert own <= lean.read[lean.host] <= 1.01 * own, f"{lean.read[lean.host]:,} bytes read for {own:,}"


def test_a_trunk_reads_its_weights_once(lean: Lean) -> None:
    own = lean.expert_bytes(lean.trunk) + lean.model._deployment.manifest.trunk_bytes
    # The architecture's tokenizer, generation and cache modules are imported here only: 1 MB of them.
    assert own <= lean.read[lean.trunk] <= 1.01 * own + 2e6, f"{lean.read[lean.trunk]:,} bytes read for {own:,}"


def test_a_hosts_memory_is_its_experts(lean: Lean) -> None:
    """Two hosts after the same 100 requests: one with half of the experts, one that served a single expert.

    Both are forks of like parents at the same time, so what each has of the interpreter, of torch and of buffers is
    in both; the difference of their PSS is compared with the bytes of the experts that one has more than the other.
    """
    for number in range(100):
        lean.model.generate([(7 * number + place) % 512 for place in range(8)], max_new_tokens=2, ignore_eos=True)
    calls = lean.model._deployment.trunk_stats()["first_choices"]
    assert calls[lean.single] > 0
    assert calls[lean.host] > 0
    more = lean.expert_bytes(lean.host) - lean.expert_bytes(lean.single)
    growth = pss(lean.pids[lean.host]) - pss(lean.pids[lean.single])
    assert growth <= 1.15 * more, f"{growth:,} bytes of memory for {more:,} bytes of experts"


@dataclass(frozen=True)
class Held:
    """What a process has."""

    threads: int
    descriptors: int
    sockets: int
    segments: int
    mappings: int

    @classmethod
    def of(cls, pid: int) -> Held:
        links = []
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # in this process, the listing itself was one
                links.append(str(path.readlink()))
        # The pool of the ledger's readers grows by one, two files, whenever two reads meet; up to its bound.
        pooled = [link for link in links if "ledger.sqlite" in link]
        assert len(pooled) <= POOLED_MAX
        links = [link for link in links if link not in pooled]
        return cls(
            threads=psutil.Process(pid).num_threads(),
            descriptors=len(links),
            sockets=sum(link.startswith("socket:") for link in links),
            segments=sum("memfd:rios" in link for link in links),
            mappings=Path(f"/proc/{pid}/maps").read_text().count("memfd:rios"),
        )


def more(pids: dict[str, int], before: dict[str, Held]) -> dict[str, dict[str, int]]:
    """What each process has more of than before, if anything.

    Dask's pool of connections to the scheduler grows by one for each question more that meets others.
    """
    found: dict[str, dict[str, int]] = {}
    for name, pid in pids.items():
        now, then = asdict(Held.of(pid)), asdict(before[name])
        met = {"sockets": MET_MAX, "descriptors": MET_MAX} if name == "client" else {}
        grown = {what: count - then[what] for what, count in now.items() if count > then[what] + met.get(what, 0)}
        if grown:
            found[name] = grown
    return found


def growth(pids: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Bytes of memory of its own that each process has more than `before`."""
    return {name: psutil.Process(pid).memory_full_info().uss - before[name] for name, pid in pids.items()}


def test_a_thousand_requests_leave_nothing_behind() -> None:
    """Client (this process), trunk, stand-by and host, each against itself after the warm-up."""

    def requests(count: int) -> None:
        for number in range(count):
            model.generate([5 + number % 50, 6, 7, number % 300], max_new_tokens=1 + number % 2, ignore_eos=True)
        gc.collect()

    with (
        rios.local(workers=3, threads=1) as net,
        net.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False) as model,
    ):
        pids = {worker.name: worker.pid for worker in net.workers} | {"client": os.getpid()}
        net.jobs._kept = WARM_UP // 2  # the list of jobs is bounded, and full after the warm-up
        requests(WARM_UP)
        held = {name: Held.of(pid) for name, pid in pids.items()}
        memory = {name: psutil.Process(pid).memory_full_info().uss for name, pid in pids.items()}
        requests(REQUESTS)
        deadline = time.monotonic() + SETTLED_S * PATIENCE
        while (left := more(pids, held)) and time.monotonic() < deadline:
            time.sleep(0.1)  # a thread or a connection may be about to end
        assert not left
        grown = growth(pids, memory)
        if max(grown.values()) > GROWTH_BYTES:  # something was done for the first time; a leak goes on
            memory = {name: memory[name] + more for name, more in grown.items()}
            requests(REQUESTS)
            grown = growth(pids, memory)
        assert max(grown.values()) <= GROWTH_BYTES, grown
        assert not model._deployment.generator.jobs
        assert all(found.segments for name, found in held.items() if name != "client")
