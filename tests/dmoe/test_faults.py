"""Lost, frozen, slow and lying hosts, lost schedulers, trunks and clients: the answer does not show it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import rios
from rios.dmoe.control import HostControl
from rios.dmoe.wire import HEADER
from rios.services.reports.kinds import kind_of
from rios.services.reports.periods import DAY_US, Span
from rios.services.reports.reading import pin
from rios.storage.report_models import RequestFaultRow
from rios.words.config import settings
from rios.words.errors import Cancelled, DeadlineExceeded, ExpertsUnavailable, InsufficientMemory, TrunkLost
from tests.campaigns import Campaign
from tests.faults import AFTER_S, FROZEN_ALONE_S, STREAMS, campaign, figures, wait_whole
from tests.holding import held_after
from tests.waiting import PATIENCE, until

ALONE = {"one copy": "kill", "one copy, frozen": "freeze"}  # parts of the campaign without replicas
PROMPT = "It was a fine morning,"
PARAMS: dict[str, Any] = {"max_new_tokens": 100, "ignore_eos": True}
_ROUNDS = 5


@pytest.fixture(scope="module")
def three() -> Iterator[rios.Network]:
    with rios.local(workers=3, threads=1) as net:
        yield net


@pytest.fixture
def model(three: rios.Network) -> Iterator[Any]:
    with three.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False) as model:
        yield model


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIOS_TEST_FLAGS", str(tmp_path))
    monkeypatch.setenv("RIOS_HOST_CLASS", "tests.faulty:FaultyHost")
    return tmp_path


@pytest.mark.timeout(900)  # twenty faults, each after the last has healed
def test_kills_and_freezes(three: rios.Network, model: Any) -> None:
    """A tenth of the campaign: no token wrong, lost or repeated."""
    report = campaign(three, model, faults=20, seed=3)
    assert report.streams >= STREAMS
    assert report.wrong == 0
    assert {stall.role for stall in report.stalls} == {"trunk", "host"}


@pytest.mark.long
@pytest.mark.parametrize("part", [*range(10), *ALONE])
def test_the_whole_campaign(three: rios.Network, campaign_record: Campaign, part: int | str) -> None:
    """200 kills and freezes with two copies, and 20 of each with one; a part is 20 of them."""
    alone: dict[str, Any] = {"copies": 1, "kinds": (ALONE[part],)} if isinstance(part, str) else {"copies": 2}
    seed = 110 + [*ALONE].index(part) if isinstance(part, str) else 100 + part

    def run() -> dict[str, Any]:
        with three.dmoe.deploy("demo", dtype="float32", replicas=alone["copies"], progress=False) as model:
            report = campaign(three, model, faults=20, seed=seed, **alone)
        return {
            "wrong": report.wrong,
            "streams": report.streams,
            "stalls": [[stall.kind, stall.role, stall.stall_s] for stall in report.stalls],
        }

    found = campaign_record.once(f"part {part}", run)
    campaign_record.conclude(**figures(campaign_record.cases))
    assert found["wrong"] == 0


def test_without_a_replica_shards_are_loaded_again(three: rios.Network) -> None:
    """The only holder of some experts dies: requests wait while it is forked again and reads its shards.

    When it is frozen, others read them, and nobody waits for the thaw.
    """
    with three.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False) as model:
        report = campaign(three, model, faults=4, seed=5, copies=1)
    assert report.wrong == 0
    assert report.streams > 0
    assert min(stall.stall_s for stall in report.stalls if stall.kind == "freeze") < FROZEN_ALONE_S - AFTER_S


def killed_under(net: rios.Network, model: Any, prompt: Any, **params: Any) -> tuple[str, Any, Any]:
    """A request whose trunk is killed in mid-sentence, which is tried until it is: the trunk, the answer, the job."""
    for _ in range(8):
        wait_whole(net, model, copies=2)
        trunk, trunk_pid = model.placement.trunk, model.placement.trunk_pid
        job = model.submit(prompt, **params)
        until(lambda job=job: len(job.token_ids) > 3, "its first tokens", deadline_s=60, pause_s=0.001)  # type: ignore[misc]
        os.kill(trunk_pid, signal.SIGKILL)
        completion = job.result(timeout=120)
        if completion.timing.replays:
            return trunk, completion, job
    raise AssertionError("all of each answer had come before its trunk was killed")


def test_usage_counts_every_row_once_whatever_happens(three: rios.Network, model: Any) -> None:
    """Rows are a pure function of tokens, layers and top-k, also when the trunk dies in mid-sentence."""
    prompt = list(range(5, 25))
    expected = model.generate(prompt, **PARAMS)
    wait_whole(three, model, copies=2)
    pieces = model.stream(prompt, **PARAMS)
    tokens = [token for _ in range(10) for token in next(pieces).token_ids]
    os.kill(model.placement.trunk_pid, signal.SIGKILL)
    tokens += [token for piece in pieces for token in piece.token_ids]
    assert tuple(tokens) == expected.token_ids
    _, completion, job = killed_under(three, model, prompt, **PARAMS)
    layers = model._deployment.manifest.layers
    assert completion.token_ids == expected.token_ids
    assert completion.usage.rows == sum(layer.top_k for layer in layers) * (len(prompt) + len(tokens) - 1)
    events = job.events()
    assert len({event.event_id for event in events}) == len(events)
    assert sum(event.rows for event in events) == completion.usage.rows
    assert sum(event.compute_ns for event in events) == completion.usage.compute_ns
    wait_whole(three, model, copies=2)


def test_what_went_wrong_is_in_the_reliability_report(three: rios.Network, model: Any) -> None:
    """A host is frozen when a request begins that is wide enough to want it; a trunk is killed under another one."""
    trunk = model.placement.trunk
    frozen = next(worker for worker in three.workers if worker.name != trunk)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        late = model.submit(list(range(5, 205)), max_new_tokens=10, ignore_eos=True)
        late.result(timeout=60)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    trunk, _, replayed = killed_under(three, model, PROMPT, max_new_tokens=400, ignore_eos=True)
    ledger = three._purse.charging.ledger()

    def kept(request_id: str) -> dict[str, set[str]]:
        row, found = RequestFaultRow, dict[str, set[str]]()
        with ledger.database.reading() as connection:
            for kind, about in connection.execute(select(row.kind, row.about).where(row.request_id == request_id)):
                found.setdefault(kind, set()).add(about)
        return found

    found = until(lambda: kept(late.request_id), "what it was late by", deadline_s=60)
    assert frozen.name in found.get("host failed", set()) | found.get("hedged", set())
    assert not {"failed", "trunk lost"} & found.keys(), "all of it was made good"
    found = until(lambda: kept(replayed.request_id), "what it was replayed for", deadline_s=60)
    assert found["trunk lost"] == {trunk}
    assert "failed" not in found
    now = Span(label="now", since_us=ledger.now() - DAY_US, until_us=ledger.now() + DAY_US)
    report = kind_of("reliability").ask(ledger, now, pin(ledger.database), subject="", chain=None)
    assert ("trunk lost", trunk) in {(one["kind"], one["about"]) for one in json.loads(report)["faults"]}
    wait_whole(three, model, copies=2)


def test_cancel_frees_at_once(three: rios.Network, model: Any) -> None:
    with held_after(5):
        job = model.submit(PROMPT, max_new_tokens=400, ignore_eos=True)
        until(lambda: job.token_ids, "its first token", deadline_s=60)
        job.cancel()
        assert job.status == "cancelled"
        with pytest.raises(Cancelled):
            job.result(timeout=60)
    until(lambda: model._deployment.trunk_stats()["running"] == 0, "its end at the trunk", deadline_s=20)
    assert model._deployment.trunk_stats()["kv_bytes"] == 0


def test_a_job_waits_no_longer_than_told(model: Any) -> None:
    with held_after(5):
        job = model.submit(PROMPT, max_new_tokens=400, ignore_eos=True)
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            job.result(timeout=0.01)
        job.cancel()


def test_a_client_that_goes_takes_its_requests_along() -> None:
    """A killed client's requests end at once, and its deployment is dropped when the lease is over."""
    with rios.local(workers=1, threads=1, lease_s=3) as net:
        code = (
            "import rios, sys, time\n"
            f"net = rios.connect({net.address!r})\n"
            "model = net.dmoe.deploy('demo', name='orphan', progress=False)\n"
            "job = model.submit('The', max_new_tokens=480, ignore_eos=True)\n"
            "print('ready', flush=True)\n"
            "time.sleep(60)\n"
        )
        client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        ((peer, _),) = net._membership.hosts.values()
        assert [name.partition("-")[0] for name in _deployments(peer)] == ["orphan"]
        assert net.workers[0].reserved_bytes > 0
        client.kill()
        client.wait()
        client.stdout.close()
        running = True
        deadline = time.monotonic() + 60 * PATIENCE
        while found := _deployments(peer):
            assert time.monotonic() < deadline, f"what a killed client had is still there: {found}"
            running = any(stats["trunk"]["running"] for stats in found.values() if stats["trunk"])
            time.sleep(0.05)
        assert not running, "its requests ran until the lease was over"
        while net.workers[0].reserved_bytes:  # a deployment is forgotten first, then its memory is freed
            assert time.monotonic() < deadline, "its memory is not free"
            time.sleep(0.05)


def _deployments(peer: Any) -> dict[str, Any]:
    with HostControl(peer, settings(), session="test") as control:
        deployments: dict[str, Any] = control.welcome["deployments"]
        return deployments


@pytest.mark.parametrize("fault", ["memory", "shape", "corrupt"])
def test_a_lying_host_is_not_believed(flags: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Three hosts and two copies: some experts are on the lying host and one other that is not the trunk's."""
    monkeypatch.setenv("RIOS_SHARED_MEMORY", "0")
    with rios.local(workers=3, threads=1) as net:
        model = net.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False)
        # Enough rows for each layer that every host is wanted.
        prompts = [list(range(5 + 40 * i, 40 + 40 * i)) for i in range(8)]
        expected = model.generate(prompts, max_new_tokens=20, ignore_eos=True)
        choices = model._deployment.trunk_stats()["first_choices"]
        other = max(choices, key=choices.__getitem__)
        (flags / f"{other}.{fault}").touch()
        deadline = time.monotonic() + 60 * PATIENCE
        while not model._deployment.trunk_stats()["failures"]:
            assert time.monotonic() < deadline, "the lying host was never asked"
            found = model.generate(prompts, max_new_tokens=20, ignore_eos=True)
            assert [c.token_ids for c in found] == [c.token_ids for c in expected]
        said = {"memory": "a test says so", "shape": "RESULT of", "corrupt": "checksum"}[fault]
        assert said in model._deployment.trunk_stats()["links"][other]["last_error"]


def make_slow(flags: Path, model: Any, name: str) -> None:
    """From now on a host takes ten times as long as it usually does on this machine, busy as it is."""
    usual = model._deployment.trunk_stats()["links"][name]["usual_s"]
    waiting = flags / f"{name}.waiting"
    waiting.write_text(" ".join(f"{9 * seconds:.9f}" for seconds in usual))
    waiting.rename(flags / f"{name}.slow")


def test_a_slow_host_gets_no_first_choices(flags: Path) -> None:
    """Ten times slower: within 20 steps nothing goes there first, and few calls are hedged."""
    with rios.local(workers=3, threads=1) as net:
        model = net.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False)
        prompts = [[5 + i, 6, 7, 8] * 4 for i in range(8)]
        expected = model.generate(prompts, **PARAMS)
        trunk = model.placement.trunk
        slow = next(worker.name for worker in net.workers if worker.name != trunk)
        make_slow(flags, model, slow)
        model.generate(prompts, max_new_tokens=20, ignore_eos=True)
        found: list[tuple[int, int, int]] = []
        # Where the other holders are themselves thought slow for a moment, on a busy machine, the choice is open, and
        # calls are hedged: then it is seen once that is over.
        for _ in range(_ROUNDS):
            before = model._deployment.trunk_stats()
            assert [c.token_ids for c in model.generate(prompts, **PARAMS)] == [c.token_ids for c in expected]
            after = model._deployment.trunk_stats()
            calls, hedges = after["calls"] - before["calls"], after["hedges"] - before["hedges"]
            first = after["first_choices"].get(slow, 0) - before["first_choices"].get(slow, 0)
            found.append((calls, first, hedges))
            if first <= 0.02 * calls and hedges <= max(0.05 * calls, 2):
                break
        else:
            raise AssertionError(f"calls, those that went there first, and hedges, in each round: {found}")


def test_the_scheduler_may_go(tmp_path: Path) -> None:
    """A running generation ends well without the scheduler, and so does the next one."""
    with rios.local(workers=2, threads=1) as net:
        model = net.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False)
        expected = model.generate(PROMPT, **PARAMS)
        pieces = model.stream(PROMPT, **PARAMS)
        text = next(pieces).text or ""
        assert net.cluster is not None
        net.cluster.processes["scheduler"].kill()
        net.cluster.processes["scheduler"].wait()
        for piece in pieces:
            text += piece.text or ""
            time.sleep(0.02)  # long enough for the Dask workers to notice and to close
        assert text == expected.text
        deadline = time.monotonic() + 30 * PATIENCE
        while any(net.cluster.processes[name].poll() is None for name in ("worker-0", "worker-1")):
            assert time.monotonic() < deadline, "the Dask workers did not close"
            time.sleep(0.1)
        assert model.generate(PROMPT, **PARAMS).text == expected.text


def test_what_nobody_holds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts frozen for good and no replica: an error by the deadline that names layer, experts and hosts."""
    monkeypatch.setenv("RIOS_EXPERTS_TIMEOUT_S", "2")
    with rios.local(workers=2, threads=1, trunk_timeout_s=3) as net:
        model = net.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False)
        trunk = model.placement.trunk
        other = next(worker for worker in net.workers if worker.name != trunk)
        # No room on the trunk's host for what the other one takes away.
        model._deployment._room = lambda member: 0
        os.kill(other.pid, signal.SIGSTOP)
        try:
            with pytest.raises(
                (ExpertsUnavailable, TrunkLost), match=r"layer \d+: no live host answers for experts .*worker-"
            ):
                model.generate(PROMPT, timeout=30, **PARAMS)
        finally:
            os.kill(other.pid, signal.SIGCONT)


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    with (
        rios.local(workers=1, threads=1, memory_bytes=4_000_000) as net,
        pytest.raises(InsufficientMemory, match=r"[\d,.]+ ?(bytes|MiB)"),
    ):
        net.dmoe.deploy("demo", progress=False)


def test_frames_have_the_documented_header() -> None:
    assert HEADER.size == 32
