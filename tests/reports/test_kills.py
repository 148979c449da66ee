"""A scheduler that is killed: one good report, whole, delivered once, whatever the moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rios.accounts.store import AccountStore
from rios.billing.ledger.ledger import Ledger
from rios.billing.outbox import messages
from rios.reporting.templates import Templates
from rios.services.outbound import networks
from rios.services.reports.reports import Reports
from rios.services.reports.values import RunState, Wish
from rios.services.webhooks import Webhooks
from tests.campaigns import ROOT, Campaign
from tests.gateway.hooks import Told, told
from tests.reports import notebooks
from tests.reports.ledgers import OWNERS, live

LEASE_S = 1.0
WAIT_S = 120.0


class Mortal:
    """The process whose children are schedulers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reports.mortal"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, **case: Any) -> int:
        """Start a child; its id."""
        assert self._process.stdin is not None
        given = {"quick": True, "pdf": False, "die_at": 0, "lease_s": LEASE_S, "for_ever": False, **case}
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        return int(self._said()["pid"])

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for the child: its status, and what it said."""
        found: dict[str, Any] = {}
        while "status" not in (said := self._said()):
            found = said
        return int(said["status"]), found

    def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process of the schedulers ended"
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    found = Mortal()
    yield found
    found.close()


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Ledger, Reports]]:
    """The ledger and its reports, to look at and to schedule."""
    with Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}") as ledger:
        store = AccountStore(ledger.database, lambda run: ledger.transact(lambda batch: run(batch.connection)))
        hooks = Webhooks(store, ledger, home=folder / "home", allowed=networks("127.0.0.0/8"))
        yield (
            ledger,
            Reports(ledger, folder / "out", Templates([folder / "mine"]), webhooks=hooks, payee=lambda: OWNERS[0]),
        )


def prepare(folder: Path, url: str) -> str:
    """A ledger with two days of use, and a schedule that was due a minute ago; the secret of its webhook."""
    folder.mkdir(parents=True, exist_ok=True)
    notebooks.write(folder / "mine", "small", *notebooks.SMALL)
    with opened(folder) as (ledger, reports):
        day = time.gmtime(time.time() - 2 * 86_400)
        live(ledger, since=f"{day.tm_year}-{day.tm_mon:02d}-{day.tm_mday:02d}", days=2, per_day=2, users=2)
        found, secret = reports.schedule(Wish(name="small", cron="0 6 * * *", webhooks=(url,)), owner="local")
        reports.store.change_schedule(found.id, next_at=ledger.now() - 60 * 10**6)
    return secret


def judge(folder: Path, heard: Told, secret: str) -> dict[str, int]:
    """Exactly one good report, whole; told once, whatever was repeated on the way; and paid for once for each end."""
    with opened(folder) as (ledger, reports):
        history = reports.store.history(limit=1000)
        good = [past for past in history if past.state == RunState.OK]
        assert len(good) == 1, [(past.state, past.error) for past in history]
        assert len(history) == 1
        assert list(reports.store.waiting()) == []
        ledger.expire(at=ledger.now() + 2 * 3600 * 10**6)
        assert ledger.balance("local").held_wei == 0
        assert ledger.totals().sound
        bills = list(ledger.usage(deployment="reports"))
        assert sum(one.amount_wei for one in bills) == good[0].cost_wei
        sent = list(messages(ledger, topic="report.webhook"))
        assert [one.delivered_at is not None for one in sent] == [True]
    place = folder / "out" / "small" / good[0].label
    assert [path.name for path in place.iterdir()] == ["v1"]
    manifest = json.loads((place / "v1" / "manifest.json").read_text())
    assert manifest["files"] == good[0].files
    for name, entry in good[0].files.items():
        assert (place / "v1" / name).stat().st_size == entry["bytes"]
    assert (folder / "out" / "small" / "latest").resolve() == (place / "v1").resolve()
    assert {event["id"] for event in heard.events} == {sent[0].key}
    assert all(heard.signed_by(secret, number) for number in range(len(heard.events)))
    return {"attempts": good[0].attempt, "told": len(heard.events)}


def end_it(mortal: Mortal, folder: Path, **case: Any) -> dict[str, Any]:
    """Let one that is not killed end what is left."""
    deadline = time.monotonic() + WAIT_S
    while True:
        mortal.begin(folder=str(folder), **case)
        status, said = mortal.end()
        assert status == 0
        with opened(folder) as (ledger, reports):
            due = [one for one in messages(ledger, topic="report.webhook") if one.delivered_at is None]
            if reports.store.history() and not due and not list(reports.store.waiting()):
                return said
        assert time.monotonic() < deadline
        time.sleep(LEASE_S / 4)


def test_at_every_kind_of_moment(mortal: Mortal, tmp_path: Path) -> None:
    """The moments of a run are counted once; then one is killed at places all over it, and another ends its work."""
    with told() as heard:
        secret = prepare(tmp_path / "new", heard.url)
        shutil.copytree(tmp_path / "new", tmp_path / "whole")
        # A lease that is not renewed meanwhile: how often it is, on a busy machine, would count as well.
        moments = end_it(mortal, tmp_path / "whole", lease_s=WAIT_S)["moments"]
        judge(tmp_path / "whole", heard, secret)
        assert moments > 50
        killed = 0
        for place in range(1, moments + 1, max(moments // 9, 1)):
            for kept in (heard.events, heard.bodies, heard.signatures):
                kept.clear()
            folder = tmp_path / str(place)
            shutil.copytree(tmp_path / "new", folder)
            mortal.begin(folder=str(folder), die_at=place)
            status, _ = mortal.end()
            # How many moments there are depends a little on what comes first: a late one may not come to pass.
            killed += os.WIFSIGNALED(status)
            end_it(mortal, folder)
            judge(folder, heard, secret)
        assert killed >= 8


def killed(mortal: Mortal, folder: Path, seed: int, kills: int, *, pdf: bool) -> dict[str, int]:
    """Kill a scheduler again and again while a notebook is executed for it."""
    rng = random.Random(seed)
    with told() as heard:
        secret = prepare(folder, heard.url)
        for _ in range(kills):
            child = mortal.begin(folder=str(folder), quick=False, pdf=pdf, for_ever=True)
            time.sleep(rng.uniform(0.0, 9.0 if pdf else 4.0))
            os.kill(child, signal.SIGKILL)
            mortal.end()
        end_it(mortal, folder, quick=False, pdf=pdf)
        return judge(folder, heard, secret)


def test_ten_times_at_random(mortal: Mortal, tmp_path: Path) -> None:
    killed(mortal, tmp_path, 1, 10, pdf=False)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_fifty_times_at_random(mortal: Mortal, tmp_path: Path, campaign_record: Campaign) -> None:
    found = [
        campaign_record.once(f"seed {seed}", lambda seed=seed: killed(mortal, tmp_path / str(seed), seed, 5, pdf=True))  # type: ignore[misc]
        for seed in range(10)
    ]
    campaign_record.conclude(kills=50, good_reports=10, half_published=0, deliveries=sum(one["told"] for one in found))
