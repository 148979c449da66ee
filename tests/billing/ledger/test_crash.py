"""Killed between any two statements, a ledger goes on as if nothing had been: nothing is lost or there twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rios.billing.ledger import Ledger
from tests.billing.ledger.history import Call, Player, contents
from tests.campaigns import ROOT, Campaign
from tests.storage.databases import KINDS, drop_database, new_database, new_tables

KILLS_MAX = 4
CASES, LONG_CASES, PART = 50, 1_000, 50


class Crasher:
    """The process of `crasher.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.billing.ledger.crasher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, **case: Any) -> tuple[int, int]:
        """Calls done in a child, and how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        done, status = self._process.stdout.readline().split()
        return int(done), int(status)

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def crasher() -> Iterator[Crasher]:
    found = Crasher()
    yield found
    found.close()


def crashed(crasher: Crasher, seed: int, folder: Path) -> dict[str, int]:
    """Play a random history in processes that are killed; it must come to what it comes to undisturbed.

    Returns what happened, counted, and by how much the books differ in the end.
    """
    rng = Random(seed)
    with Ledger.open() as ledger:
        player = Player.drawn(ledger, rng, rng.randrange(5, 30))
        player.check()
        wanted, calls = contents(ledger), player.calls
    # In an empty database the tables are made first, and that is killed too.
    kind, is_empty = KINDS[seed % 2], rng.random() < 0.2
    url = (new_database if is_empty else new_tables)(kind, folder)
    locked = rng.randrange(len(calls)) if rng.random() < 0.1 else None
    start, kills = _killed(crasher, rng, url, calls, locked=locked, last=60 if is_empty else 8)
    done, status = crasher.run(url=url, calls=calls, start=start, die_at=0, locked=locked)
    assert (start + done, status) == (len(calls), 0)
    with Ledger.open(url, timeout_s=30) as ledger:
        totals = ledger.totals()
        assert totals.sound
        assert contents(ledger) == wanted
    drop_database(url)
    return {
        "histories": 1,
        "calls": len(calls),
        "killed": kills,
        f"on_{kind}": 1,
        "from_nothing": is_empty,
        "database_locked": locked is not None,
        "difference_wei": totals.difference_wei + abs(totals.sum_wei),
    }


def _killed(
    crasher: Crasher, rng: Random, url: str, calls: list[Call], *, locked: int | None, last: int
) -> tuple[int, int]:
    """Where to go on, and how often it was killed."""
    start = kills = 0
    for _ in range(rng.randrange(1, KILLS_MAX + 1)):
        die_at = 1 + rng.randrange(last + 12 * (len(calls) - start))
        done, status = crasher.run(url=url, calls=calls, start=start, die_at=die_at, locked=locked)
        start += done
        if not status:
            break
        assert status == -9
        kills += 1
    return start, kills


@pytest.mark.parametrize("part", range(5))
def test_killed_at_random_it_goes_on(crasher: Crasher, tmp_path: Path, part: int) -> None:
    count = CASES // 5
    found = [crashed(crasher, seed, tmp_path) for seed in range(part * count, (part + 1) * count)]
    assert sum(one["killed"] for one in found) >= count // 2


@pytest.mark.long
def test_a_thousand_histories_with_a_fault_at_a_random_step(
    crasher: Crasher, tmp_path: Path, campaign_record: Campaign
) -> None:
    figures: Counter[str] = Counter()
    for first in range(CASES, CASES + LONG_CASES, PART):
        seeds = range(first, first + PART)
        found = campaign_record.once(
            f"{first}", lambda seeds=seeds: [crashed(crasher, seed, tmp_path) for seed in seeds]
        )
        for one in found:
            figures.update(one)
        campaign_record.conclude(**figures)
    assert figures["killed"] >= LONG_CASES
    assert figures["difference_wei"] == 0
