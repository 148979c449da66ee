"""Random histories over the whole walk, from deposit to payout: what is wished for, and what each request must cost.

All of it is a pure function of a seed, so that the process that lives a history and the one that judges it know the
same without asking each other, and a step that was cut short can be made again as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.billing.rating import Charge, rate_request
from rios.billing.usage import Request, Work
from rios.words.events import Ended, UsageEvent
from rios.words.ids import Address, check_address
from rios.words.money import WEI_PER_ROS

GUEST = "ann"
GUEST_ADDRESS = check_address("0x" + 20 * "a1")
"""Somebody else's account, of which this machine has no key."""
OWNERS = tuple(check_address("0x" + 20 * pair) for pair in ("b1", "b2"))
# A position costs about a tenth of a ROS, a request some ROS, which the trial credit does not last long for. The odd
# numbers leave something to be rounded.
WORK = Work.of("large", 4_093, [(2, 10**13 + 39), (1, 5 * 10**12 + 61)])
DEPOSIT_MAX_WEI = 40 * WEI_PER_ROS
PARTS_OF_STREAM = 3
REORG_MAX = 12
CONFIRMATIONS = (12, 12, 2)
"""Of a node: most histories take no block back, some do."""

Step = dict[str, Any]
VERBS = (
    *5 * ("request",), *2 * ("deposit",), *2 * ("settle",), "claim", "payout", *2 * ("refund",), *2 * ("stream",),
    "open", "close", "gift", "withdraw", "later", "release", "again", "early", "expire", "jump",
)  # fmt: skip
SPENDS = ("request", "stream", "open")
ASKS_CHAIN = ("deposit", "gift", "settle", "claim", "payout", "withdraw", "later")
FAULTS = ("kill", "kill", "kill", "down", "locked", "jump", "again", "reorg")


def hosts_of(wallet: Address) -> Mapping[str, Host]:
    """Who works: two owners who are somebody else, and the local wallet."""
    return {
        "a": Host("a", OWNERS[0], "cpu"),
        "b": Host("b", OWNERS[1], "cuda", 15_000),
        "c": Host("c", OWNERS[0], "cpu", 7_001),
        "d": Host("d", wallet, "cpu"),
    }


def history(seed: int, *, node: bool) -> list[Step]:
    """The steps of a history and their faults. node: on a chain whose blocks can go away."""
    rng = Random(f"history {seed}")
    count = rng.randrange(5, 10)
    verbs = ["deposit", "request", *rng.choices(VERBS, k=count)]
    steps: list[Step] = [
        {"verb": verb, "one": rng.getrandbits(32), "amount": rng.randrange(1, DEPOSIT_MAX_WEI)} for verb in verbs
    ]
    fault = FAULTS[seed % len(FAULTS)]
    for name in (fault, *(["reorg"] if node and rng.random() < 0.5 else [])):
        place = rng.randrange(len(steps))
        if name == "down":
            steps[rng.choice([i for i, step in enumerate(steps) if step["verb"] in ASKS_CHAIN])]["fault"] = name
        elif name == "locked":
            steps[place]["fault"] = name
        elif name != "kill":
            verb = "jump" if name == "reorg" and not node else name
            steps.insert(
                place + 1, {"verb": verb, "one": rng.getrandbits(32), "amount": rng.randrange(1, DEPOSIT_MAX_WEI)}
            )
    return steps


def kills(seed: int, steps: list[Step]) -> list[tuple[int, int]]:
    """Where the process is killed: the step, and how many moments after its beginning.

    -1 is its own beginning, the number of steps what comes after them all.
    """
    rng = Random(f"kills {seed}")
    count = rng.choice((1, 1, 2, 3)) if FAULTS[seed % len(FAULTS)] == "kill" else rng.choice((0, 0, 1))
    places = sorted(rng.randrange(-1, len(steps) + 1) for _ in range(count))
    verbs = [*(step["verb"] for step in steps), "end", "start"]
    return [(place, 1 + int(MOMENTS[verbs[place]] * rng.random())) for place in places]


MOMENTS = {
    "start": 150, "end": 1500, "deposit": 300, "gift": 280, "settle": 400, "withdraw": 650, "later": 150, "claim": 170,
    "payout": 300, "request": 60, "stream": 230, "open": 30, "close": 30, "refund": 40, "release": 20, "again": 190,
    "early": 50, "expire": 10, "jump": 5, "reorg": 5,
}  # fmt: skip
"""About how many moments a step has at which a process can be killed; a later one lies in the next steps."""


def request_of(seed: int, place: int) -> tuple[int, int]:
    """Prompt tokens and the most new tokens of the request that a step makes."""
    rng = Random(f"request {seed} {place}")
    return rng.randrange(1, 40), rng.randrange(3, 60)


def ended_of(seed: int, place: int) -> Ended:
    """What its client saw at its end: answered, cut short, or with nothing received."""
    prompt, limit = request_of(seed, place)
    rng = Random(f"ended {seed} {place}")
    outcome = rng.choice(("done", "done", "failed", "cancelled"))
    new = 0 if outcome == "failed" and rng.random() < 0.3 else rng.randrange(1, limit + 1)
    return Ended(
        request_id=name_of(place),
        model=WORK.model,
        trunk=rng.choice("abcd"),
        tokens_in=prompt,
        tokens_out=new,
        outcome=outcome,
        events=tuple(_events(rng, name_of(place), prompt, new)),
    )


def name_of(place: int) -> str:
    """The id of the request of a step."""
    return f"r{place}"


def _events(rng: Random, request_id: str, prompt: int, new: int) -> list[UsageEvent]:
    found = []
    for step in range(prompt, prompt + new):
        read = prompt if step == prompt else 1
        for index, layer in enumerate(WORK.layers):
            left = read * layer.top_k
            for host in rng.sample("abcd", 2):
                rows = rng.randrange(left + 1)
                left -= rows
                found.append(
                    UsageEvent(
                        request_id,
                        WORK.model,
                        step,
                        index,
                        host,
                        rows,
                        rng.randrange(10**9),
                        rng.randrange(50_000),
                    )
                )
    rng.shuffle(found)
    return found


def charges_of(seed: int, place: int, wallet: Address) -> tuple[Charge, ...]:
    """What the request of a step costs, rated here and now."""
    ended = ended_of(seed, place)
    if not ended.tokens_out:
        return ()
    hosts = hosts_of(wallet)
    request = Request(
        request_id=ended.request_id,
        model=ended.model,
        trunk=ended.trunk,
        tokens_in=ended.tokens_in,
        tokens_out=ended.tokens_out,
    )
    terms = Terms.of(DEFAULT_BOOK, hosts.values())
    return rate_request(request, ended.events, work=WORK, hosts=hosts, terms=terms, ended=ended.outcome == "done")


def parts_of(charges: tuple[Charge, ...]) -> list[tuple[Charge, ...]]:
    """The same in the parts in which a stream posts them."""
    size = -(-len(charges) // PARTS_OF_STREAM) or 1
    return [charges[start : start + size] for start in range(0, len(charges), size)]
