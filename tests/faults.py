"""A campaign of kills and freezes under load: what every fault test and the recorded campaign run."""

from __future__ import annotations

import itertools
import os
import random
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.waiting import PATIENCE, until

STREAMS = 8
NEW_TOKENS = 120
RECOVERY_S = 60.0
FROZEN_S = 2.5
# Without another copy an answer that goes on before the thaw goes on by what was loaded elsewhere. The thaw comes when
# all do, or else after this: sooner than a silent host is killed.
FROZEN_ALONE_S = 20.0
AFTER_S = 3.0
"""What a frozen host's neighbours still answer, or its socket has, has come by then."""


@dataclass
class Stall:
    """One fault and what the slowest stream saw of it."""

    kind: str
    role: str
    stall_s: float


@dataclass
class Report:
    """What a campaign found."""

    stalls: list[Stall] = field(default_factory=list)
    wrong: int = 0
    streams: int = 0


def figures(cases: dict[str, Any]) -> dict[str, Any]:
    """What the parts of a campaign come to: faults, answers, and stalls in seconds at the 50th and 95th percentile."""
    parts = cases.values()
    stalls: dict[str, list[float]] = {}
    for case, part in cases.items():
        for kind, role, stall_s in part["stalls"]:
            what = f"{kind}, one copy" if case.startswith("part one copy") else f"{kind} of a {role}"
            stalls.setdefault(what, []).append(stall_s)
    found: dict[str, Any] = {
        "faults": sum(len(part["stalls"]) for part in parts),
        "answers": sum(part["streams"] for part in parts),
        "wrong answers": sum(part["wrong"] for part in parts),
    }
    for what, seconds in sorted(stalls.items()):
        high = sorted(seconds)[min(len(seconds) - 1, int(0.95 * len(seconds)))]
        found[what] = f"{len(seconds)} times, stalls {statistics.median(seconds):.2f} s (p50), {high:.2f} s (p95)"
    return found


class Streams:
    """Eight streams that run all the time; each answer is compared with the undisturbed one."""

    def __init__(self, model: Any, prompts: list[list[int]], params: dict[str, Any]) -> None:
        self.model = model
        self.prompts = prompts
        self.params = params
        self.expected = [completion.token_ids for completion in model.generate(prompts, **params)]
        self.times: list[list[float]] = [[] for _ in prompts]
        self.wrong = 0
        self.done = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(len(prompts))]
        for thread in self._threads:
            thread.start()

    def _run(self, place: int) -> None:
        while not self._stop.is_set():
            tokens: list[int] = []
            try:
                for piece in self.model.stream(self.prompts[place], timeout=RECOVERY_S * PATIENCE, **self.params):
                    tokens.extend(piece.token_ids)
                    self.times[place].append(time.perf_counter())
            except BaseException as error:  # noqa: BLE001  the campaign raises it in the test's own thread
                self.errors.append(error)
                return
            self.done += 1
            self.wrong += tuple(tokens) != self.expected[place]

    def longest_gap(self, since: float, healed: float) -> float:
        """The longest gap between tokens of any stream in a window, an open one too, less the median gap."""
        worst = 0.0
        for times in self.times:
            window = [moment for moment in times if since - 0.5 <= moment <= healed]
            gaps = [after - before for before, after in itertools.pairwise([*window, healed])]
            if gaps:
                worst = max(worst, max(gaps) - statistics.median(gaps))
        return worst

    def wait_for_all(self, since: float, deadline_s: float) -> None:
        """Until each stream has had a token well after something was done to a host, or the time is over."""
        deadline = since + deadline_s
        while time.perf_counter() < deadline:
            if all(times and times[-1] > since + AFTER_S for times in self.times):
                return
            time.sleep(0.05)

    def stop(self) -> None:
        """Let the running answers end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(RECOVERY_S * PATIENCE)
            assert not thread.is_alive(), "a stream did not end by its deadline"


def whole(net: Any, model: Any, *, copies: int) -> bool:
    """Whether every expert has its copies again, and a stand-by trunk is there."""
    deployment = model._deployment
    members = list(deployment.members.values())
    if not all(member.settled for member in members):
        return False
    generator = deployment.generator
    standby = copies == 1 or (generator._standby is not None and generator._standby.alive)
    links = deployment.trunk_stats().get("links", {})
    return standby and all(link["state"] != "down" for link in links.values())


def wait_whole(net: Any, model: Any, *, copies: int) -> None:
    """Until the network has recovered, or fail with what is missing."""
    deadline = time.monotonic() + RECOVERY_S * PATIENCE
    while True:
        try:
            if whole(net, model, copies=copies):
                return
        except Exception:  # noqa: BLE001  the host that is asked may be the one that has just been killed
            time.sleep(0.05)
        if time.monotonic() > deadline:
            states = {name: member.state for name, member in model._deployment.members.items()}
            raise AssertionError(f"not recovered after {RECOVERY_S * PATIENCE:g} s: {states}")
        time.sleep(0.05)


def _gone(model: Any, name: str, pid: int) -> bool:
    """Whether a killed host is known to be: till then it would count as well, and be killed once more."""
    member = model._deployment.members.get(name)
    return member is None or bool(member.info.get("pid") != pid)


def campaign(
    net: Any, model: Any, *, faults: int, seed: int, copies: int = 2, kinds: tuple[str, ...] = ("kill", "freeze")
) -> Report:
    """Kill and freeze hosts at random moments under eight streams; a fault comes when the last has healed."""
    chance = random.Random(seed)
    vocab = model._deployment.manifest.vocab_size
    prompts = [[chance.randrange(2, vocab) for _ in range(chance.randrange(4, 24))] for _ in range(STREAMS)]
    params = {"max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    wait_whole(net, model, copies=copies)
    streams = Streams(model, prompts, params)
    report = Report()
    try:
        for number in range(faults):
            time.sleep(chance.uniform(0.2, 0.8))
            kind = kinds[number % len(kinds)]
            members = model._deployment.members
            trunk = model._deployment.generator.active
            name = chance.choice(sorted(members))
            pid = members[name].info["pid"]
            since = time.perf_counter()
            os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
            if kind == "freeze":
                try:
                    if copies > 1:
                        time.sleep(FROZEN_S)
                    else:
                        streams.wait_for_all(since, FROZEN_ALONE_S)
                finally:
                    os.kill(pid, signal.SIGCONT)
            else:
                until(partial(_gone, model, name, pid), f"the end of {name} to be noticed", deadline_s=RECOVERY_S)
            wait_whole(net, model, copies=copies)
            healed = time.perf_counter()
            time.sleep(0.1)
            role = "trunk" if name == trunk else "host"
            report.stalls.append(Stall(kind, role, streams.longest_gap(since, healed)))
            if streams.errors:
                raise streams.errors[0]
    finally:
        streams.stop()
    if streams.errors:
        raise streams.errors[0]
    report.wrong = streams.wrong
    report.streams = streams.done
    return report
