"""Whoever reconciles is killed at random moments: no instance is left over, none doubled, none unbilled.

The wishes are written by this process, which acts on nothing: its stage has the tables alone. What acts are processes
of their own, one or two at a time; each is killed by SIGKILL and followed by another.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.lifecycle import State, Wish
from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
from rios.services.accounting import reconcile
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.secrets import SecretStore, open_secrets_key
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import AppStore
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import SandboxFailed
from rios.words.keccak import keccak256
from tests.campaigns import Campaign
from tests.deployments.stage import RESOURCES
from tests.waiting import until

WAIT_S = 120.0
STRAY_S = 15.0
AT_ONCE = 25
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
_ENDED = "ended"


class _Wishes:
    """What the verbs need of a platform, and nothing that acts."""

    def __init__(self, purse: Purse, home: Path) -> None:
        self.store = AppStore(purse.books.ledger)
        self.secrets = SecretStore(self.store, open_secrets_key(home))

    def changed(self) -> None:
        """Nobody here looks."""


class Campaigner:
    """A home, the processes that reconcile it, and what is true on the host."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.home, self.apps = directory / "home", directory / "apps"
        self.apps.mkdir(mode=0o711)
        self.purse = Purse(settings().model_copy(update={"home": self.home}), background=False)
        wishes: Any = _Wishes(self.purse, self.home)
        self.store: AppStore = wishes.store
        self.deploy = Deployments(lambda: wishes, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)
        self.runtime = BubblewrapRuntime(self.apps)
        command = [sys.executable, "-m", "tests.deployments.reconciling", str(self.home), str(self.apps)]
        self.forks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.acting: list[int] = []
        self.kills = 0
        self.kill_at = time.monotonic() + 1.0
        self.strays: dict[str, float] = {}
        self.seen: Counter[str] = Counter()
        """How often each instance was seen to run."""
        self.counted: Counter[str] = Counter()

    def begin(self) -> None:
        assert self.forks.stdin
        assert self.forks.stdout
        self.forks.stdin.write("another\n")
        self.forks.stdin.flush()
        self.acting.append(int(self.forks.stdout.readline()))

    def kill(self) -> None:
        """End one that acts, without a word, and begin another."""
        os.kill(self.acting.pop(0), signal.SIGKILL)
        self.kills += 1
        self.begin()

    def close(self) -> None:
        for one in self.acting:
            os.kill(one, signal.SIGKILL)
        self.forks.communicate(timeout=WAIT_S)
        for status in self.runtime.instances():
            self.runtime.remove(status.instance)
        self.runtime.close()
        self.purse.close()

    def lives(self, numbers: Iterable[int]) -> dict[str, int]:
        """Some life cycles at the same time, and kills at random moments all the while; how many of each."""
        before, done = self.kills, 0
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
        until(self.nothing, "nothing is left on the host", deadline_s=STRAY_S, pause_s=0.1)
        assert self.purse.books.ledger.balance(LOCAL_USER).held_wei == 0
        return {"lives": done, "kills": self.kills - before, **self.counted}

    def look(self) -> None:
        """Kill when it is time, and see that what runs is somebody's."""
        now = time.monotonic()
        if now > self.kill_at:
            self.kill()
            self.kill_at = now + self.random.uniform(2.0, 6.0)
        try:
            running = {one.instance for one in self.runtime.instances() if one.state == "running"}
        except SandboxFailed:
            return  # what was being looked at was just taken away
        self.seen.update(running)
        wanted = {one.id for replicas in self.store.snapshot()[1].values() for one in replicas}
        # What a killed one began after the tables had changed is cleared away by the next one.
        self.strays = {one: self.strays.get(one, now) for one in running - wanted}
        late = [one for one, since in self.strays.items() if now - since > STRAY_S]
        assert not late, f"instances of nobody: {late}"

    def life(self, number: int) -> Iterator[str]:
        """One life cycle, step by step: what it waits for."""
        deadline = time.monotonic() + WAIT_S

        def waited(done: Callable[[], Any], what: str) -> Iterator[str]:
            while not done():
                assert time.monotonic() < deadline, f"life {number} is not {what}: {app.events[-5:]}"
                yield what

        app = self.deploy.create(name=f"life{number}", command=COMMAND, replicas=2, resources=RESOURCES, grace=2)
        yield from waited(lambda: app.status == "ready" and self._ready(app, app.revision) == 2, "ready")
        ready = {one.id for one in app.replicas if one.state is State.READY}
        yield from waited(lambda: self.there(ready), "there")
        act = self.random.choice(("update", "scale", "end", "pause", "nothing"))
        if act == "update":
            app.update(env={"A": str(number)})
            yield from waited(
                lambda: app.status == "ready" and self._ready(app, 2) == 2 == len(app.replicas), "updated"
            )
        elif act == "scale":
            app.scale(1)
            yield from waited(lambda: len(app.replicas) == 1, "scaled")
        elif act == "end":
            victim = next(one for one in app.replicas if one.state is State.READY)
            self.runtime.kill(victim.id)
            yield from waited(
                lambda: self._ready(app, 1) == 2 and victim.id not in {r.id for r in app.replicas}, "replaced"
            )
        elif act == "pause":
            app.pause()
            yield from waited(lambda: not app.replicas, "paused")
        app.delete(wait=False)
        yield from waited(lambda: app._app().ended_at, "deleted")
        self.billed(app)

    def nothing(self) -> bool:
        """Whether no instance is on the host."""
        try:
            return not self.runtime.instances()
        except SandboxFailed:
            return False

    def there(self, ids: set[str]) -> bool:
        """Whether instances are on the host, as far as that can be read: another one may just be taken away."""
        try:
            return ids <= {one.instance for one in self.runtime.instances()}
        except SandboxFailed:
            return False

    def _ready(self, app: Any, revision: int) -> int:
        return sum(one.state is State.READY and one.revision == revision for one in app.replicas)

    def billed(self, app: Any) -> None:
        """Each replica that ran is billed for what it used, once; nothing stays held."""
        ledger = self.purse.books.ledger
        total = 0
        for one in self.store.replicas(app.id, ended=True):
            usage = list(ledger.usage(request_id=one.id))
            total += sum(row.amount_wei for row in usage)
            self.counted["replicas"] += 1
            self.counted["billed"] += bool(usage)
            # Whoever started it may have been killed before it said so: seen again and again, it ran all the same.
            if one.started_at or self.seen[one.id] > 1:
                self.counted["ran"] += 1
                self.counted["ran_untold"] += not one.started_at
                assert {row.resource for row in usage} == {"cpu", "memory"}, f"{one.id} ran and is not billed"
            memory = sum(row.quantity for row in usage if row.resource == "memory")
            lived_us = one.ended_at - one.created_at
            assert memory <= (64 << 20) * lived_us / 10**6, f"{one.id} is billed for longer than it lived"
        assert int(app.cost) == total
        assert self.store.app(app.id).wish is Wish.DELETE


@pytest.fixture
def campaigner() -> Iterator[Campaigner]:
    with tempfile.TemporaryDirectory(prefix="rios-crash-") as directory:
        Path(directory).chmod(0o711)
        found = Campaigner(Path(directory), seed=7)
        try:
            found.begin()
            found.begin()
            yield found
        finally:
            found.close()


def test_lives_go_on_over_kills_of_whoever_acts(campaigner: Campaigner) -> None:
    for first in range(0, 50, AT_ONCE):
        campaigner.lives(range(first, first + AT_ONCE))
    assert campaigner.kills >= 4
    assert reconcile(campaigner.purse.books.ledger, None, keccak=keccak256).sound


@pytest.mark.long
def test_five_hundred_lives(campaigner: Campaigner, campaign_record: Campaign) -> None:
    def run(first: int) -> dict[str, int]:
        campaigner.random.seed(first)
        return campaigner.lives(range(first, first + AT_ONCE))

    found = [campaign_record.once(f"lives {first}", lambda first=first: run(first)) for first in range(0, 500, AT_ONCE)]
    names = ("lives", "kills", "replicas", "ran", "billed", "ran_untold")
    lives, kills, replicas, ran, billed, untold = (sum(one.get(what, 0) for one in found) for what in names)
    assert lives == 500
    assert replicas >= ran >= 2 * lives
    assert kills >= 100
    assert reconcile(campaigner.purse.books.ledger, None, keccak=keccak256).sound
    campaign_record.conclude(
        lives=lives, kills=kills, replicas=replicas, ran=ran, billed=billed, ran_before_it_was_told=untold
    )
