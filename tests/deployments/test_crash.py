"""Whoever reconciles, the containers' engine and the agent of a host are killed at random moments: no instance is left
over, none doubled, none unbilled.

The wishes are written by this process, which acts on nothing: its stage has the tables alone. What acts are processes
of their own, one or two at a time; each is killed by SIGKILL and followed by another. What runs is asked of the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rios.deploy.lifecycle import State, Wish
from rios.deploy.runtimes import cgroup
from rios.deploy.runtimes.cgroup import Cgroup
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import KINDS
from rios.deploy.runtimes.protocol import Isolation
from rios.services.accounting import reconcile
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.agent_keeper import AgentKeeper
from rios.services.deployments.archives import Archive
from rios.services.deployments.local_hosts import local_hosts
from rios.services.deployments.machine import clear_up
from rios.services.deployments.network_hosts import Agents, NetworkHosts
from rios.services.deployments.secrets import SecretStore, open_secrets_key
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import AppStore
from rios.services.deployments.values import Replica
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import HostLost
from rios.words.keccak import keccak256
from tests.campaigns import Campaign
from tests.deploy.images import make_rootfs
from tests.deployments.reconciling import AGENTS, HERE
from tests.deployments.stage import RESOURCES
from tests.waiting import PATIENCE

WAIT_S = 75.0 * max(PATIENCE, 2.0)
STRAY_S = 20.0 * PATIENCE
LIVES, AT_ONCE = 500, 25
KILLS = 10
"""Tried while so many live, whatever the machine's pace is: 500 lives took 220 s on one, and 630 s on another."""
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
FAR = "far"
VOLUME_BYTES = 1 << 20
VOLUME_EACH = 5
"""One life of so many has a volume."""
LEAVINGS = ("*/*/record.json", "volumes/*/*/*", "content/kept/*/*")
_ENDED = "ended"


class Kind(NamedTuple):
    """Where and in what a life runs, and how many replicas it has."""

    region: str
    runtime: str
    replicas: int


PLAIN = (Kind(HERE, "bubblewrap", 2),)
ALL = (*PLAIN, Kind(HERE, "runc", 1), Kind(FAR, "bubblewrap", 1), Kind(FAR, "runc", 1))


class _Wishes:
    """What the verbs need of a platform, and nothing that acts."""

    def __init__(self, purse: Purse, home: Path, apps: Path, agents: Agents) -> None:
        self.store = AppStore(purse.books.ledger)
        self.secrets = SecretStore(self.store, open_secrets_key(home))
        self._apps, self._agents = apps, agents

    @cached_property
    def hosts(self) -> NetworkHosts:
        """Which take the archive of a deployment, where it may run."""
        network_id = self.store.network_id()
        here = local_hosts(network_id, self._apps, lasts=True, region=HERE)
        return NetworkHosts(here, self._agents, network_id, settings(), isolation=Isolation.PROCESS)

    def close(self) -> None:
        if "hosts" in self.__dict__:
            self.hosts.close()

    def changed(self) -> None:
        """Nobody here looks."""


class Campaigner:
    """A home, the processes that reconcile it, those that these need, and what is true on the host."""

    def __init__(self, directory: Path, seed: int, kinds: tuple[Kind, ...]) -> None:
        self.random, self.kinds = random.Random(seed), kinds
        self.directory, self.home, self.apps = directory, directory / "home", directory / "apps"
        self.apps.mkdir(mode=0o711)
        self.purse = Purse(settings().model_copy(update={"home": self.home}), background=False)
        self.keeper: AgentKeeper | None = None
        wishes: Any = _Wishes(self.purse, self.home, self.apps, self.agents)
        self.wishes, self.store = wishes, wishes.store
        self.deploy = Deployments(lambda: wishes, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)
        self.rootfs = make_rootfs(directory / "rootfs.tar", python=False)
        self.archive_bytes = self.rootfs.stat().st_size + len(Archive.of(self.rootfs).content.to_bytes())
        self.places = [self.apps, directory / FAR / self.store.network_id()]
        self.prefix = f"crash{os.getpid()}x"
        """Of the names of deployments, and so of instances: others of this machine run theirs."""
        command = [sys.executable, "-m", "tests.deployments.reconciling", str(self.home), str(self.apps)]
        self.forks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.acting: list[int] = []
        self.announced: dict[str, Any] = {}
        self.kills: Counter[str] = Counter()
        self.pace_s = 2.0
        self.kill_at = time.monotonic() + 1.0
        self.strays: dict[str, float] = {}
        self.seen: Counter[str] = Counter()
        """How often each instance was seen to run."""
        self.counted: Counter[str] = Counter()

    # --- who is killed ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        assert self.forks.stdin
        assert self.forks.stdout
        self.forks.stdin.write("another\n")
        self.forks.stdin.flush()
        self.acting.append(int(self.forks.stdout.readline()))

    def begin_agent(self) -> None:
        """As a worker that is started anew does."""
        options = settings().model_copy(update={"region": FAR})
        self.keeper = AgentKeeper(options, self.directory / FAR, name=FAR, address="127.0.0.1", owner=None)

    def agents(self) -> dict[str, Any]:
        """What is announced of the agent now, if anything."""
        said = {} if self.keeper is None else self.keeper.announcement()
        return {FAR: said} if said else {}

    def announce(self) -> None:
        """Have those that act know where the agent is."""
        said = {} if self.keeper is None else self.keeper.announcement()
        if said and said != self.announced:
            draft = self.home / f"{AGENTS}.draft"
            draft.write_text(json.dumps({FAR: said}))
            draft.replace(self.home / AGENTS)
            self.announced = said

    def kill(self) -> None:
        """End one of those without a word, and have another follow it."""
        whom = self.random.choice(sorted({"reconciler", *(who for kind in self.kinds for who in _needed(kind))}))
        if whom == "agent":
            assert self.keeper is not None
            pid = self.keeper.announcement().get("pid")
            if pid is None:  # it only just begins
                return
            self.keeper._keeper._ending.set()
            os.kill(int(pid), signal.SIGKILL)
            self.begin_agent()
        elif whom == "engine":
            services = self.services()
            if not services:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(services), signal.SIGKILL)
        else:
            os.kill(self.acting.pop(0), signal.SIGKILL)
            self.begin()
        self.kills[whom] += 1

    def services(self) -> list[int]:
        """The processes of this campaign's container engines."""
        found, mine = [], str(self.directory).encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"service" in words and b"system" in words and any(mine in word for word in words):
                    found.append(int(path.parent.name))
        return sorted(found)

    def close(self) -> None:
        self.wishes.close()
        for one in self.acting:
            os.kill(one, signal.SIGKILL)
        self.forks.communicate(timeout=WAIT_S)
        if self.keeper is not None:
            self.keeper._keeper._ending.set()
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.keeper.announcement().get("pid") or self.announced["pid"]), signal.SIGKILL)
        for place in self.places:
            if place.is_dir():
                clear_up(place)
        for one in self.services():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self.purse.close()

    # --- lives -----------------------------------------------------------------------------------------------

    def lives(self, numbers: Iterable[int]) -> dict[str, int]:
        """Some life cycles at the same time, and kills at random moments all the while; how many of each."""
        before, done, begun = self.kills.copy(), 0, time.monotonic()
        self.counted.clear()
        living = {number: self.life(number) for number in numbers}
        while living:
            self.look()
            for number, life in list(living.items()):
                if next(life, _ENDED) is _ENDED:
                    del living[number]
                    done += 1
            time.sleep(0.15)  # what acts needs the processor more
        # Whoever lost its lease in the middle of a start may still be at it; what comes of it is cleared away.
        deadline = time.monotonic() + WAIT_S
        while left := self.left():
            assert time.monotonic() < deadline, f"left on the host: {left}"
            time.sleep(0.2)
        assert self.purse.books.ledger.balance(LOCAL_USER).held_wei == 0
        self.pace_s = max(0.4, (time.monotonic() - begun) / KILLS)
        killed = self.kills - before
        return {"lives": done, "kills": killed.total(), **{f"kills_of_{who}s": killed[who] for who in killed},
                **self.counted}  # fmt: skip

    def look(self) -> None:
        """Kill when it is time, and see that what runs is somebody's."""
        now = time.monotonic()
        if now > self.kill_at:
            self.kill()
            self.kill_at = now + self.random.uniform(0.5, 1.5) * self.pace_s
        self.announce()
        running = self.running()
        self.seen.update(running & self.told())
        wanted = {one.id for replicas in self.store.snapshot()[1].values() for one in replicas}
        # What a killed one began after the tables had changed is cleared away by the next one.
        self.strays = {one: self.strays.get(one, now) for one in running - wanted}
        late = [one for one, since in self.strays.items() if now - since > STRAY_S]
        assert not late, f"instances of nobody: {late}"

    def running(self) -> set[str]:
        """Instances that have a process, as the kernel knows."""
        groups = [name for name in cgroup.list_instances() if name.startswith(self.prefix)]
        return {name for name in groups if Cgroup(name).processes()}

    def told(self) -> set[str]:
        """Instances of which the host has written that their processes have started."""
        return {path.parent.name for place in self.places for path in place.glob("*/*/started.json")}

    def left(self) -> list[str]:
        """What of any instance or deployment is on the host: groups, records, volumes, archives."""
        groups = [name for name in cgroup.list_instances() if name.startswith(self.prefix)]
        paths = [path for place in self.places for what in LEAVINGS for path in place.glob(what)]
        return [*groups, *map(str, paths)]

    def life(self, number: int) -> Iterator[str]:
        """One life cycle, step by step: what it waits for."""
        deadline = time.monotonic() + WAIT_S
        kind = self.kinds[number % len(self.kinds)]
        count = kind.replicas

        def waited(done: Callable[[], Any], what: str) -> Iterator[str]:
            while not done():
                assert time.monotonic() < deadline, f"life {number} ({kind}) is not {what}: {app.events[-5:]}"
                yield what

        def are_ready() -> bool:
            return app.status == "ready" and self._ready(app) == count == len(app.replicas)

        more: dict[str, Any] = {} if kind.runtime == "bubblewrap" else {"rootfs": str(self.rootfs)}
        if number % VOLUME_EACH == VOLUME_EACH - 1:
            more["volumes"] = {"/data": {"size": VOLUME_BYTES, "keep": False}}
        app: Any = None
        while app is None:
            with contextlib.suppress(HostLost):  # the one that is to take its archive was killed: asked again
                app = self.deploy.create(
                    name=f"{self.prefix}{number}", command=COMMAND, replicas=count, resources=RESOURCES, grace=2,
                    runtime=kind.runtime, schedule={"region": kind.region}, **more,
                )  # fmt: skip
            assert time.monotonic() < deadline, f"life {number} ({kind}): its archive is not taken"
            yield "created"
        yield from waited(are_ready, "ready")
        ready = {one.id for one in app.replicas if one.state is State.READY}
        # Where its host is lost meanwhile, others take their place.
        yield from waited(lambda: ready <= self.running() or not ready <= {one.id for one in app.replicas}, "there")
        act = self.random.choice(("update", "scale", "end", "pause", "nothing"))
        if act == "update":
            app.update(env={"A": str(number)})
            yield from waited(are_ready, "updated, or back where it was")
        elif act == "scale":
            count = 3 - count
            app.scale(count)
            yield from waited(lambda: len(app.replicas) == count, "scaled")
        elif act == "end" and ready:
            victim = min(ready)
            _end_inside(victim)
            yield from waited(lambda: are_ready() and victim not in {one.id for one in app.replicas}, "replaced")
        elif act == "pause":
            app.pause()
            yield from waited(lambda: not app.replicas, "paused")
        app.delete(wait=False)
        yield from waited(lambda: app._app().ended_at, "deleted")
        self.billed(app)

    def _ready(self, app: Any) -> int:
        now = app._app()
        return sum(one.state is State.READY and one.revision == now.revision for one in app.replicas)

    def billed(self, app: Any) -> None:
        """Each replica that ran is billed for what it used, once; a volume too; nothing stays held."""
        total = self._room_billed(app)
        lost = {event.replica for event in app.events if event.cause.endswith("is lost")}
        for one in self.store.replicas(app.id, ended=True):
            total += self._replica_billed(one, lost=one.id in lost)
        assert int(app.cost) == total
        assert self.store.app(app.id).wish is Wish.DELETE

    def _replica_billed(self, one: Replica, *, lost: bool) -> int:
        usage = list(self.purse.books.ledger.usage(request_id=one.id))
        resources = {row.resource for row in usage}
        assert len(usage) == len({row.usage_id for row in usage})
        self.counted["replicas"] += 1
        self.counted["billed"] += bool(usage)
        self.counted["lost"] += lost
        # Whoever started it may have been killed before it said so: seen again and again, it ran all the same.
        if one.started_at or (self.seen[one.id] > 1 and not lost):
            self.counted["ran"] += 1
            self.counted["ran_untold"] += not one.started_at
            # Of one whose host was lost nobody knows what it computed.
            assert resources == {"cpu", "memory"} or (lost and resources == {"memory"}), f"{one} is billed {resources}"
        memory = sum(row.quantity for row in usage if row.resource == "memory")
        lived_us = one.ended_at - one.created_at
        assert memory <= (64 << 20) * lived_us / 10**6, f"{one.id} is billed for longer than it lived"
        return sum(row.amount_wei for row in usage)

    def _room_billed(self, app: Any) -> int:
        usage, now = list(self.purse.books.ledger.usage(request_id=app.id)), self.store.app(app.id)
        has_volume, has_archive = bool(app.specification["volumes"]), app.specification["rootfs"] is not None
        assert {row.resource for row in usage} <= {"storage"}
        # Where both lie on one host, what the first of them took alone is posted when the second comes.
        assert len({row.usage_id for row in usage}) == len(usage) <= has_volume + has_archive
        most_bytes = VOLUME_BYTES * has_volume + self.archive_bytes * has_archive
        taken = sum(row.quantity for row in usage)
        assert has_volume <= taken <= most_bytes * (now.ended_at - now.created_at) / 10**6
        self.counted["volumes"] += has_volume
        self.counted["archives"] += has_archive
        return sum(row.amount_wei for row in usage)


def _needed(kind: Kind) -> set[str]:
    """Who may be killed beside reconcilers where there are lives of a kind."""
    return ({"engine"} if kind.runtime == "runc" else set()) | ({"agent"} if kind.region == FAR else set())


def _end_inside(instance: str) -> None:
    """End what an instance waits for, so that it ends by itself."""
    for pid in Cgroup(instance).processes():
        with contextlib.suppress(OSError):
            if b"1000" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def campaigner(request: pytest.FixtureRequest) -> Iterator[Campaigner]:
    with tempfile.TemporaryDirectory(prefix="rios-crash-") as directory:
        Path(directory).chmod(0o711)
        found = Campaigner(Path(directory), 7, request.param)
        try:
            found.begin()
            found.begin()
            if any(kind.region == FAR for kind in found.kinds):
                found.begin_agent()
            yield found
            # The engines' own word, when nobody kills them any more.
            for place in found.places if found.kills["engine"] else ():
                with contextlib.closing(EngineRuntime(KINDS["runc"], place)) as runtime:
                    assert not runtime._containers.listed()
        finally:
            found.close()


NEEDS = [pytest.mark.needs(what) for what in ("bwrap", "podman", "runc", "catatonit", "root", "busybox")]
plain = pytest.mark.parametrize("campaigner", [pytest.param(PLAIN, marks=NEEDS)], indirect=True, ids=["plain"])
everywhere = pytest.mark.parametrize("campaigner", [pytest.param(ALL, marks=NEEDS)], indirect=True, ids=["all"])


@plain
def test_lives_go_on_over_kills_of_whoever_acts(campaigner: Campaigner) -> None:
    first = 0
    while first < 38 or campaigner.kills["reconciler"] < 4:  # a quick machine lives more of them between two kills
        assert first < 380
        campaigner.lives(range(first, first + 19))
        first += 19
    assert reconcile(campaigner.purse.books.ledger, None, keccak=keccak256).sound


@everywhere
def test_lives_go_on_over_kills_of_engines_and_agents(campaigner: Campaigner) -> None:
    first = 0
    while first < 12 or not campaigner.kills:
        assert first < 120
        found = campaigner.lives(range(first, first + 12))
        assert found["lives"] == 12
        assert found["ran"] >= 12
        first += 12
    assert reconcile(campaigner.purse.books.ledger, None, keccak=keccak256).sound


@pytest.mark.long
@everywhere
def test_five_hundred_lives(campaigner: Campaigner, campaign_record: Campaign) -> None:
    def run(first: int) -> dict[str, int]:
        campaigner.random.seed(first)
        return campaigner.lives(range(first, first + AT_ONCE))

    sums: Counter[str] = Counter()
    for first in range(0, LIVES, AT_ONCE):
        sums.update(campaign_record.once(f"lives {first}", lambda first=first: run(first)))
        campaign_record.conclude(**sums)
    assert sums["lives"] == LIVES
    assert sums["replicas"] >= sums["ran"] >= sums["lives"]
    assert sums["kills"] >= 100
    assert min(sums[f"kills_of_{who}s"] for who in ("reconciler", "engine", "agent")) >= 20
    assert reconcile(campaigner.purse.books.ledger, None, keccak=keccak256).sound
