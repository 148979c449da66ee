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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.lifecycle import State, Wish
from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
from rios.services.accounting import reconcile
from rios.services.accounts import FIRST_ORGANISATION
from rios.services.books import LOCAL_USER
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
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"]


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

    def life(self, number: int) -> None:
        """One life cycle, with a kill at a random point of it."""
        kill_at = self.random.uniform(0.0, 1.5)
        begun = time.monotonic()
        pending = [True]

        def look() -> None:
            """Kill when it is time, and see that nothing runs twice."""
            if pending and time.monotonic() - begun > kill_at:
                pending.clear()
                self.kill()
            try:
                running = [one.instance for one in self.runtime.instances() if one.state == "running"]
            except SandboxFailed:
                return  # what was being looked at was just taken away
            wanted = {one.id for replicas in self.store.snapshot()[1].values() for one in replicas}
            # Whatever runs is a replica that the tables know; a replica is one instance, for ids are unique on a host.
            stray = [one for one in running if one not in wanted]
            assert len(stray) <= 2 + len(self.acting), f"instances of nobody: {stray}"

        def waited(done: Any, what: str) -> None:
            def found() -> bool:
                look()
                return bool(done())

            until(found, f"{what} in life {number}", deadline_s=WAIT_S, pause_s=0.05)

        app = self.deploy.create(name=f"life{number}", command=COMMAND, replicas=2, resources=RESOURCES, grace=2)
        waited(lambda: app.status == "ready" and self._ready(app, app.revision) == 2, "ready")
        act = self.random.choice(("update", "scale", "end", "pause", "nothing"))
        if act == "update":
            app.update(env={"A": str(number)})
            waited(lambda: app.status == "ready" and self._ready(app, 2) == 2 == len(app.replicas), "updated")
        elif act == "scale":
            app.scale(1)
            waited(lambda: len(app.replicas) == 1, "scaled")
        elif act == "end":
            victim = next(one for one in app.replicas if one.state is State.READY)
            self.runtime.kill(victim.id)
            waited(lambda: self._ready(app, 1) == 2 and victim.id not in {r.id for r in app.replicas}, "replaced")
        elif act == "pause":
            app.pause()
            waited(lambda: not app.replicas, "paused")
        app.delete(wait=False)
        waited(lambda: app._app().ended_at, "deleted")
        assert not self.runtime.instances(), "something is left"
        self.billed(app)

    def _ready(self, app: Any, revision: int) -> int:
        return sum(one.state is State.READY and one.revision == revision for one in app.replicas)

    def billed(self, app: Any) -> None:
        """Each replica that ran is billed for what it used, once; nothing stays held."""
        ledger = self.purse.books.ledger
        total = 0
        for one in self.store.replicas(app.id, ended=True):
            usage = list(ledger.usage(request_id=one.id))
            total += sum(row.amount_wei for row in usage)
            if one.started_at:
                assert {row.resource for row in usage} == {"cpu", "memory"}, f"{one.id} ran and is not billed"
            memory = sum(row.quantity for row in usage if row.resource == "memory")
            lived_us = one.ended_at - one.created_at
            assert memory <= (64 << 20) * lived_us / 10**6, f"{one.id} is billed for longer than it lived"
        assert int(app.cost) == total
        assert ledger.balance(LOCAL_USER).held_wei == 0
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
    for number in range(8):
        campaigner.life(number)
    assert campaigner.kills >= 4
    found = reconcile(campaigner.purse.books.ledger, None, keccak=keccak256)
    assert found.sound


@pytest.mark.long
def test_five_hundred_lives(campaigner: Campaigner, campaign_record: Campaign) -> None:
    for number in range(500):
        campaigner.life(number)
    campaign_record.conclude(lives=500, kills=campaigner.kills)
