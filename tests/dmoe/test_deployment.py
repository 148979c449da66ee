"""A deployment keeps its hosts as the plan wants them: refusals, surplus, replaced and new hosts, errors of its own."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

import rios
from rios.dmoe import deployment as deployments
from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.control import HostControl
from rios.dmoe.member import Member
from rios.words.config import settings
from rios.words.errors import DeadlineExceeded, ShardMismatch
from tests import waiting
from tests.campaigns import ROOT
from tests.checkpoints import flip, make

DEMO = ROOT / "rios" / "demo" / "model"
PROMPT = "It was a fine morning,"
PARAMS: dict[str, Any] = {"max_new_tokens": 60, "ignore_eos": True}
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def three() -> Iterator[rios.Network]:
    with rios.local(workers=3, threads=1) as net:
        yield net


until = partial(waiting.until, deadline_s=DEADLINE_S)


def as_planned(model: Any) -> bool:
    """Whether each host has what the plan gives it, no more and no less."""
    kept = model._deployment
    return kept.members.keys() == kept._shards.keys() and all(
        m.settled
        and not m.surplus
        and m.wanted == kept._shards.get(name)
        and m.trunk_ready == (name in kept._trunk_names)
        for name, m in kept.members.items()
    )


def copies(model: Any) -> set[int]:
    return {len(hosts) for layer in model.placement.holders for hosts in layer}


def reserved(net: rios.Network) -> dict[str, int]:
    return {worker.name: worker.reserved_bytes for worker in net.workers}


def test_what_does_not_fit_is_a_wish_refused_and_no_host_lost() -> None:
    manifest = read_manifest(DEMO)
    experts = sum(layer.expert_values(e) for layer in manifest.layers for e in range(layer.num_experts)) * 4
    trunk = sum(part.values for part in manifest.trunk) * 4
    with (
        rios.local(workers=2, threads=1, memory_bytes=trunk + int(0.7 * experts)) as net,
        net.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False) as model,
    ):
        expected = model.generate(PROMPT, **PARAMS)
        # The plan has left the trunk's cache its share of what is free beside the trunk.
        assert model._deployment.trunk_stats()["kv_budget_bytes"] == int(0.3 * int(0.7 * experts))
        member = model._deployment.members[model.placement.trunk]
        held = member.held
        everything = {layer.index: frozenset(range(layer.num_experts)) for layer in manifest.layers}
        member.want(everything, trunk=True)
        until(lambda: member.refused_at is not None, "it fits")
        until(lambda: member.settled, "the wish is not dropped")
        assert member.state == "serving"
        assert member.trunk_ready
        assert all(experts <= member.held[layer] for layer, experts in held.items())
        assert model._deployment._room(member) < 0, "another host is to be asked for the next"
        assert model.generate(PROMPT, **PARAMS).token_ids == expected.token_ids


def test_what_one_host_refuses_goes_to_another(three: rios.Network) -> None:
    """Experts that nobody holds, since the host that should had no room, are loaded elsewhere."""
    with three.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False) as model:
        kept = model._deployment
        expected = model.generate(PROMPT, **PARAMS)
        member = next(m for name, m in kept.members.items() if name != model.placement.trunk)
        wanted = member.wanted
        assert any(wanted.values())
        # As after a refusal in the middle of loading, when the host was forked again and its memory was taken.
        member.refused_at = time.monotonic()
        with HostControl(member.peer, settings(), session=kept._session) as control:
            for layer, experts in wanted.items():
                control.call("drop", deployment=kept._id, layer=layer, experts=sorted(experts))
        member.held = {layer: frozenset() for layer in wanted}
        member.want(member.held, trunk=False)
        until(lambda: copies(model) == {1}, "nobody took them")
        assert not any(member.held.values())
        assert model.generate(PROMPT, **PARAMS).token_ids == expected.token_ids


def test_an_error_of_any_kind_does_not_end_the_watching(
    three: rios.Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with three.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False) as model:
        kept = model._deployment
        turns: list[int] = []

        def repair() -> None:
            turns.append(len(turns))
            raise RuntimeError("dictionary changed size during iteration")

        monkeypatch.setattr(kept, "_repair", repair)
        until(lambda: len(turns) > 3, "the watching thread is gone")
        monkeypatch.undo()
        member = next(iter(kept.members.values()))
        monkeypatch.setattr(member, "_follow", lambda control: {}["nothing"])
        until(lambda: member.state == "lost", "the host's thread did not notice")
        monkeypatch.undo()
        until(lambda: member.settled, "the host's thread is gone")
    assert "repair failed" in caplog.text
    assert "keeping a host failed" in caplog.text


def test_what_was_made_in_need_is_given_back(three: rios.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third trunk and third copies go when all have been well for a while, and nobody notices."""
    monkeypatch.setattr(deployments, "_GIVE_BACK_S", 0.2)
    with three.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False) as model:
        kept = model._deployment
        until(lambda: as_planned(model), "not as planned")
        before = reserved(three)
        expected = model.generate(PROMPT, **PARAMS)
        plan = kept._shards
        active = model.placement.trunk
        name = next(name for name in kept.members if name not in kept._trunk_names)
        member = kept.members[name]
        everything = {layer.index: frozenset(range(layer.num_experts)) for layer in kept.manifest.layers}
        seen: set[bool] = set()
        wants = member.want
        monkeypatch.setattr(
            member, "want", lambda shard, *, trunk: (seen.add(member.trunk_ready), wants(shard, trunk=trunk))
        )
        wants(everything, trunk=True)
        while not (seen and as_planned(model)):
            assert model.generate(PROMPT, **PARAMS).token_ids == expected.token_ids
        assert seen == {True}, "the trunk was never there"
        assert kept._shards == plan
        assert model.placement.trunk == active
        assert name not in model.placement.standby
        until(lambda: reserved(three) == before, f"{reserved(three)} reserved, {before} before")
        until(lambda: bool(model.placement.standby), "no stand-by")


def kill_worker(net: rios.Network, name: str) -> None:
    """End a worker with all that belongs to it: as if its machine had lost power."""
    assert net.cluster is not None
    _, said = net._membership.hosts[name]
    host = psutil.Process(said["pid"])
    supervisor = host.parent()
    assert supervisor is not None
    for pid in (net.cluster.processes[name].pid, supervisor.pid, host.pid):
        os.kill(pid, signal.SIGKILL)
    net.cluster.processes.pop(name).wait()


@pytest.mark.parametrize(("replicas", "role"), [(1, "host"), (1, "trunk"), (2, "trunk")])
def test_a_worker_that_leaves_is_replaced_and_one_that_joins_is_used(
    three: rios.Network, monkeypatch: pytest.MonkeyPatch, replicas: int, role: str
) -> None:
    """Without a copy left, requests wait for those that are loaded elsewhere; afterwards all have theirs again."""
    monkeypatch.setattr(deployments, "_REPLACE_AFTER_S", 3.0)
    net = three
    with net.dmoe.deploy("demo", dtype="float32", replicas=replicas, progress=False) as model:
        kept = model._deployment
        expected = model.generate(PROMPT, **PARAMS)
        trunk = model.placement.trunk
        name = trunk if role == "trunk" else next(name for name in kept.members if name != trunk)
        assert any(kept.members[name].held.values())
        pieces = model.stream(PROMPT, timeout=DEADLINE_S, **PARAMS)
        tokens = [token for _ in range(10) for token in next(pieces).token_ids]
        kill_worker(net, name)
        tokens += [token for piece in pieces for token in piece.token_ids]
        assert tuple(tokens) == expected.token_ids
        until(lambda: name not in kept.members and as_planned(model), "not replaced")
        assert copies(model) == {replicas}
        assert len(model.placement.standby) == replicas - 1
        assert net.cluster is not None
        new = f"after-{name}"
        net.cluster.add_worker(new)
        until(lambda: new in kept.members and any(kept.members[new].held.values()), "it does not join")
        until(lambda: as_planned(model), "not as planned")
        assert copies(model) == {replicas}
        until(lambda: answers(model, PROMPT, expected) and calls_of(net, new) > 0, "the new host is not asked")


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Each loading of some experts takes so long; the hosts that began one."""
    load, begun = Member._load, []

    def slow(self: Member, *args: Any) -> None:
        begun.append(self.peer.name)
        time.sleep(seconds)
        load(self, *args)

    monkeypatch.setattr(Member, "_load", slow)
    return begun


def test_a_deployment_is_waited_for_as_long_as_it_moves(three: rios.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with three.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False) as model:
        kept = model._deployment
        assert kept._moved_at > began, "loading is what moves it"
        kept._moved_at = time.monotonic() - 100.0
        kept._check_patience(math.inf, 200.0)
        with pytest.raises(DeadlineExceeded, match=r"nothing was loaded for 50 s .*worker-"):
            kept._check_patience(math.inf, 50.0)
        with pytest.raises(DeadlineExceeded, match="not deployed in time"):
            kept._check_patience(began, None)
    monkeypatch.setattr(three, "_settings", three._settings.model_copy(update={"control_timeout_s": 3.0}))
    slowly(monkeypatch, 4.0)
    with pytest.raises(DeadlineExceeded):
        three.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False)


def test_a_worker_that_leaves_while_a_model_is_deployed_is_done_without(
    three: rios.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "_REPLACE_AFTER_S", 1.0)
    begun = slowly(monkeypatch, 0.3)
    done: list[Any] = []
    thread = threading.Thread(
        target=lambda: done.append(three.dmoe.deploy("demo", dtype="float32", replicas=1, progress=False))
    )
    thread.start()
    until(lambda: begun, "nobody loads")
    kill_worker(three, begun[0])
    thread.join(DEADLINE_S * waiting.PATIENCE)
    assert done, "it waits for a host that is gone"
    with done[0] as model:
        assert copies(model) == {1}
        assert model.generate(PROMPT, max_new_tokens=2).token_ids
    assert three.cluster is not None
    three.cluster.add_worker(f"after-{begun[0]}")
    three.wait_for_workers(3)


def test_two_trunks_are_of_the_same_bytes(
    three: rios.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-by that is built again finds another embedding in the file: no trunk is made of it, and it is named."""
    path = make("olmoe", tmp_path)
    with three.dmoe.deploy(path, replicas=2, progress=False) as model:
        kept = model._deployment
        prompt = [5, 6, 7, 8]
        expected = model.generate(prompt, **PARAMS)
        until(lambda: bool(model.placement.standby), "no stand-by")
        member = kept.members[model.placement.standby[0]]
        embedding = next(part for part in kept.manifest.trunk if "embed_tokens" in part.key)
        flip(path, embedding)
        os.kill(member.info["pid"], signal.SIGKILL)
        until(lambda: isinstance(member.error, ShardMismatch), "a trunk of other bytes was built")
        assert answers(model, prompt, expected)
        assert not model.placement.standby
        assert not member.trunk_ready
        assert f"model.safetensors: {embedding.key} has SHA-256" in " ".join(
            record.reason for record in caplog.records if record.message == "host out of reach"
        )
        flip(path, embedding)
        member.want(member.wanted, trunk=True)  # sooner than it would look again
        until(lambda: as_planned(model) and bool(model.placement.standby), "no stand-by of the right bytes")
        assert member.error is None
        # As if both had been built at the same time.
        monkeypatch.setitem(kept.trunk_pinned, embedding.key, 64 * "0")
        with (
            HostControl(member.peer, settings(), session=kept._session) as control,
            pytest.raises(ShardMismatch, match=rf"{embedding.key} .* trunk of {member.peer.name}.*the hosts see"),
        ):
            member._start_trunk(control)
        with HostControl(member.peer, settings(), session=kept._session) as control:
            assert control.welcome["deployments"][kept._id]["trunk"] is None


def calls_of(net: rios.Network, name: str) -> int:
    """Calls of trunks that a host has answered."""
    with HostControl(net._membership.hosts[name][0], settings(), session="test") as control:
        return int(control.welcome["calls"])


def test_the_placement_follows_the_load(tmp_path: Path) -> None:
    """A router that sends everything to one expert of each layer: it gets copies, and not a token changes."""
    make("deepseek_v3", tmp_path, num_experts_per_tok=1, moe_intermediate_size=96)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith("e_score_correction_bias"):
            tensor[0] += 100.0
    save_file(tensors, file, {"format": "pt"})
    manifest = read_manifest(tmp_path)
    experts = sum(layer.expert_values(e) for layer in manifest.layers for e in range(layer.num_experts)) * 4
    trunk = sum(part.values for part in manifest.trunk) * 4
    with (
        rios.local(workers=3, threads=1, memory_bytes=trunk + int(0.6 * experts), replan_interval_s=0.3) as net,
        net.dmoe.deploy(tmp_path, progress=False) as model,
    ):
        assert model.placement.replicas == 1
        assert copies(model) == {1}
        assert "Load: not measured yet" in model.placement.explain()
        prompt = [5, 6, 7, 8]
        expected = model.generate(prompt, **PARAMS)
        until(lambda: answers(model, prompt, expected) and max(copies(model)) > 1, "no copies of the hot experts")
        until(lambda: as_planned(model), "not as planned")
        placement = model.placement
        for holders, rows in zip(placement.holders, placement.load, strict=True):
            assert rows[0] == sum(rows) > 0
            assert len(holders[0]) == max(len(names) for names in holders)
        said = placement.explain()
        assert "Load: as the trunk has counted it of late" in said
        assert "Further copies went to whichever expert had the most load" in said
        assert answers(model, prompt, expected)
        plan = model._deployment.plan
        load = model._deployment._measured.load
        rooms = model._deployment._rooms(model._deployment._infos())
        assert model._deployment._planner.unevenness(rooms, plan, load) <= settings().replan_above


def answers(model: Any, prompt: str | list[int], expected: Any) -> bool:
    """Answer once more; the tokens do not change."""
    assert model.generate(prompt, **PARAMS).token_ids == expected.token_ids
    return True
