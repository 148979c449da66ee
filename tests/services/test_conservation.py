"""Whatever happens on the way from deposit to payout, and wherever it stops: no wei is made, lost or paid twice."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rios.services.books import LOCAL_USER, TRIAL_WEI
from rios.services.keys import open_key
from rios.services.network_chain import GAS_MONEY_WEI, TREASURY_WEI, WALLET_WEI
from rios.services.purse import Purse
from rios.words.config import settings
from tests.billing.chain.anvil import Anvil
from tests.billing.chain.conftest import needs_npm
from tests.campaigns import ROOT, Campaign
from tests.services import histories, life
from tests.services.histories import (
    CONFIRMATIONS,
    FAULTS,
    GUEST,
    GUEST_ADDRESS,
    OWNERS,
    REORG_MAX,
    SPENDS,
    Step,
    charges_of,
    history,
    kills,
)
from tests.services.life import reorganise

EMBEDDED, ON_NODES = 16, 34
LONG, PART, TOGETHER = 1_000, 50, 25


class Mortal:
    """The process of `mortal.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.services.mortal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, case: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        """What a child said, and how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        return found["said"], found["status"]

    def close(self) -> None:
        """End it: it has no children now and keeps nothing."""
        self._process.kill()
        self._process.communicate(timeout=60)


class Mortals:
    """Some of them, so that histories are lived on several cores."""

    def __init__(self, count: int) -> None:
        self._all = [Mortal() for _ in range(count)]
        self._free: queue.SimpleQueue[Mortal] = queue.SimpleQueue()
        for one in self._all:
            self._free.put(one)

    def all_of(self, seeds: Iterable[int], live: Callable[[Mortal, int], dict[str, int]]) -> list[dict[str, int]]:
        """What `live` returns for each of the seeds."""

        def one_of(seed: int) -> dict[str, int]:
            mortal = self._free.get()
            try:
                return live(mortal, seed)
            finally:
                self._free.put(mortal)

        with ThreadPoolExecutor(len(self._all)) as pool:
            return list(pool.map(one_of, seeds))

    def close(self) -> None:
        """End them."""
        for one in self._all:
            one.close()


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    found = Mortals(min(len(os.sched_getaffinity(0)), 4))
    yield found
    found.close()


@pytest.fixture(scope="module")
def embedded_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose contracts are made, of which each history gets a copy."""
    home = tmp_path_factory.mktemp("embedded") / "home"
    with Purse(settings().model_copy(update={"home": home})) as purse:
        assert purse.wallet.on_chain == WALLET_WEI
    return home


@pytest.fixture(scope="module")
def node_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a node, whose chain is kept beside the home."""
    folder = tmp_path_factory.mktemp("node")
    home, node = folder / "home", Anvil(folder / "anvil.json")
    home.mkdir()
    try:
        for role in ("wallet", "operator"):
            node.ask("anvil_setBalance", open_key(home, role).address, hex(GAS_MONEY_WEI))
        with Purse(settings().model_copy(update={"home": home, "chain": node.url})) as purse:
            assert purse.wallet.on_chain == WALLET_WEI
        node.ask("anvil_mine", hex(REORG_MAX + 1))
    finally:
        node.stop()
    return home


def lived(mortal: Mortal, seed: int, *, like: Path, folder: Path, node: bool) -> dict[str, int]:
    """Live a history in processes that are killed, then see that all is there. What happened, counted."""
    home = folder / f"home-{seed}"
    shutil.copytree(like, home)
    rng = Random(f"lived {seed}")
    chain = None
    if node:
        shutil.copy(like.parent / "anvil.json", folder / f"anvil-{seed}.json")
        chain = Anvil(folder / f"anvil-{seed}.json")
    try:
        found = _lived(mortal, seed, home, chain, rng)
    finally:
        if chain is not None:
            chain.kill()
    shutil.rmtree(home)
    return found


def _lived(mortal: Mortal, seed: int, home: Path, node: Anvil | None, rng: Random) -> dict[str, int]:
    steps = history(seed, node=node is not None)
    said: list[dict[str, Any]] = []
    done: Counter[str] = Counter()
    deaths, start = kills(seed, steps), 0
    case: dict[str, Any] = {
        "seed": seed,
        "home": str(home),
        "url": None if node is None else node.url,
        "confirmations": CONFIRMATIONS[seed // 2 % len(CONFIRMATIONS)],
        "steps": steps,
    }
    while True:
        die = deaths.pop(0) if deaths else None
        if die is not None and die[0] not in (-1, *range(start, len(steps) + 1)):
            continue
        case |= {"start": start, "die": die}
        if node is not None:
            case |= {"node": node.pid, "first_block": int(node.ask("eth_blockNumber"), 16)}
        new, status = mortal.run(case)
        if status:  # killed after its last word, it says that again
            new = [one for one in new if "end" not in one]
        said += new
        if not status:
            break
        assert status == -signal.SIGKILL, (seed, status, said[-3:])
        done["killed"] += 1
        start += len(new)
        if node is not None:
            os.kill(node.pid, signal.SIGCONT)
            if rng.random() < 0.3:
                back = case["confirmations"] < REORG_MAX
                done["reorganised"] += reorganise(node.url, case["first_block"], rng, back=back) > 0
            if rng.random() < 0.2:
                node.stop()
                node.start()
        if start < len(steps) and rng.random() < 0.3:
            said.append({"step": start, "verb": "given up", "posted": [], "notes": [], "refused": ""})
            start += 1
    end = said.pop()["end"]
    judge(seed, steps, said, end)
    done.update(one["verb"] for one in said if not one["refused"])
    done.update(f"{steps[one['step']]['fault']}" for one in said if one.get("fault"))
    done["reorganised"] += sum(1 for one in said if one.get("blocks"))
    done["node"] += node is not None
    done["difference_wei"] += sum(wei for _, wei in end["reconciled"])
    done.update(name for name, _ in end["events"])
    return dict(done)


def judge(seed: int, steps: list[Step], said: list[dict[str, Any]], end: dict[str, Any]) -> None:
    """All that was promised is there, once, and all books say the same to the wei."""
    assert end["broken"] == [], seed
    assert sum(wei for _, wei in end["reconciled"]) == 0, (seed, end["reconciled"])
    accounts = {name: int(wei) for name, wei, _ in end["accounts"]}
    assert sum(accounts.values()) == 0, seed
    for name, wei, floor in end["accounts"]:
        assert floor is None or int(wei) >= int(floor), (seed, name, wei, floor)

    # What was used: whatever a process said is posted is there, nothing else but what it may have posted, at the price
    # that is worked out here.
    usage = {usage_id: (user, int(wei)) for usage_id, user, wei, _ in end["usage"]}
    prices: dict[str, int] = {}
    sure: set[str] = set()
    posted = {place for one in said for place in one["posted"]}
    for place, step in enumerate(steps):
        if step["verb"] in SPENDS:
            charges = charges_of(seed, place, end["wallet"])
            prices |= {charge.record.usage_id: charge.amount_wei for charge in charges}
            if place in posted:
                sure |= {charge.record.usage_id for charge in charges}
    assert sure <= usage.keys() <= prices.keys(), seed
    assert all(prices[usage_id] == wei for usage_id, (_, wei) in usage.items()), seed
    notes = {note_id: int(wei) for note_id, _, wei, _ in end["notes"]}
    assert {note_id: int(wei) for one in said for note_id, wei in one["notes"]}.items() <= notes.items(), seed
    spent = sum(wei for _, wei in usage.values())
    refunded = sum(notes.values())

    # What users have: what they were given, less what they used.
    tokens = {who: int(wei) for who, wei in end["tokens"].items()}
    events = [(name, args) for name, args in end["events"]]
    gifts = sum(int(args["amount"]) for name, args in events if name == "Deposited" and args["user"] == GUEST_ADDRESS)
    paid = dict.fromkeys([*OWNERS, end["wallet"], end["platform"]], 0)
    for name, args in events:
        if name == "Claimed":
            paid[args["account"]] += int(args["amount"])
    used = {user: sum(wei for who, wei in usage.values() if who == user) for user in (LOCAL_USER, GUEST)}
    back = {user: sum(int(wei) for _, who, wei, _ in end["notes"] if who == user) for user in (LOCAL_USER, GUEST)}
    assert int(end["balances"][GUEST]) == gifts - used[GUEST] + back[GUEST], seed
    wallet = tokens[end["wallet"]] - paid[end["wallet"]]
    given = WALLET_WEI + TRIAL_WEI - gifts
    assert wallet + int(end["balances"][LOCAL_USER]) == given - used[LOCAL_USER] + back[LOCAL_USER], seed

    # What owners have: all that was earned, each payout once.
    leaves = {owner: int(wei) for owner, wei in end["leaves"].items()}
    owed = sum(wei for name, wei in accounts.items() if name.endswith((":owed", ":refunds")))
    assert sum(leaves.values()) + owed == spent - refunded, seed
    assert paid == {owner: leaves.get(owner, 0) for owner in paid}, seed
    assert all(tokens[owner] == paid[owner] for owner in OWNERS), seed
    assert "failed" not in end["links"], (seed, end["links"])

    # Whatever was wanted of the chain happened once.
    assert [number for number, _ in end["epochs"]] == list(range(1, len(end["epochs"]) + 1)), seed
    assert {state for _, state in end["epochs"]} <= {"final"}, (seed, end["epochs"])
    intents = Counter(
        re.split("[:-]", key)[0] for key, state in end["intents"] if state == "done" and "approve" not in key
    )
    happened = Counter(name for name, _ in events)
    for kind, name in (("root", "RootPosted"), ("fund", "Funded")):
        assert intents[kind] == happened[name], (seed, kind, intents, happened)
    assert intents["deposit"] + intents["gift"] == happened["Deposited"], (seed, intents, happened)

    # And nothing came from nowhere.
    assert int(end["supply"]) == TREASURY_WEI, seed
    assert sum(tokens.values()) == int(end["supply"]), seed


@pytest.mark.parametrize("part", range(2))
def test_in_this_process(mortals: Mortals, embedded_home: Path, tmp_path: Path, part: int) -> None:
    seeds = range(part * EMBEDDED // 2, (part + 1) * EMBEDDED // 2)
    live = partial(lived, like=embedded_home, folder=tmp_path, node=False)
    _check_something_happened(mortals.all_of(seeds, live))


@pytest.mark.parametrize("part", range(2))
@needs_npm[0]
@needs_npm[1]
def test_on_a_node(mortals: Mortals, node_home: Path, tmp_path: Path, part: int) -> None:
    seeds = range(EMBEDDED + part * ON_NODES // 2, EMBEDDED + (part + 1) * ON_NODES // 2)
    live = partial(lived, like=node_home, folder=tmp_path, node=True)
    _check_something_happened(mortals.all_of(seeds, live))


def _check_something_happened(found: list[dict[str, int]]) -> None:
    """Random histories that come to nothing would show nothing."""
    counted = _counted(found)
    assert counted["killed"] >= len(found) // 4, counted
    assert counted.keys() >= {"request", "deposit", "Deposited", "Charged", "Claimed", "RootPosted"}, counted


def _counted(found: list[dict[str, int]]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for one in found:
        counted.update(one)
    return counted


def on_node(seed: int) -> bool:
    """Whether a history of the campaign is on a node: every other one with the same fault."""
    return seed // len(FAULTS) % 2 == 0


@pytest.mark.long
@pytest.mark.parametrize("part", range(LONG // PART))
@needs_npm[0]
@needs_npm[1]
def test_a_thousand_histories_with_a_fault_at_a_random_step(
    mortals: Mortals, embedded_home: Path, node_home: Path, tmp_path: Path, campaign_record: Campaign, part: int
) -> None:
    def live(mortal: Mortal, seed: int) -> dict[str, int]:
        node = on_node(seed)
        return lived(mortal, seed, like=node_home if node else embedded_home, folder=tmp_path, node=node)

    # What is judged by other helpers is judged anew.
    mark = sha256(b"".join(Path(module.__file__ or "").read_bytes() for module in (histories, life))).hexdigest()[:8]
    for first in range(part * PART, (part + 1) * PART, TOGETHER):
        seeds = range(EMBEDDED + ON_NODES + first, EMBEDDED + ON_NODES + first + TOGETHER)
        campaign_record.once(f"{mark} {first}", lambda seeds=seeds: mortals.all_of(seeds, live))  # type: ignore[misc]
    kept = [one for name, some in campaign_record.cases.items() if name.startswith(mark) for one in some]
    counted = _counted(kept)
    campaign_record.conclude(
        histories=len(kept),
        on_a_node=counted["node"],
        killed=counted["killed"],
        reorganised=counted["reorganised"],
        chain_down=counted["down"],
        database_locked=counted["locked"],
        clock_jumped=counted["jump"],
        sent_twice=counted["again"],
        difference_wei=counted["difference_wei"],
    )
    _check_something_happened(kept)
