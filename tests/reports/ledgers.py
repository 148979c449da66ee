"""Ledgers with a history: users, models, hosts and refunds, drawn from a seed at moments of the past."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random

from rios.billing.ledger.ledger import Ledger
from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.billing.rating import Charge, rate
from rios.billing.usage import UsageRecord
from rios.words.ids import UsageId, check_address, derived_id
from rios.words.money import WEI_PER_ROS

DAY_US = 86_400 * 10**6
OWNERS = tuple(check_address("0x" + 20 * pair) for pair in ("b1", "b2", "c3", "d4"))
HOSTS = tuple(Host(f"host-{n}", OWNERS[n % 4], ("cpu", "cuda")[n % 2]) for n in range(6))
TERMS = Terms.of(DEFAULT_BOOK, HOSTS)


def moment(text: str) -> int:
    """Microseconds of "2026-11-27" or "2026-11-27T06:00"."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**6


def charges(request: str, model: int, rng: Random, *, step: int = 0) -> list[Charge]:
    """What one request cost: expert work and bytes on two hosts, tokens on one."""
    trunk, other = rng.sample(HOSTS, 2)
    flops = (model + 1) * rng.randrange(10**11, 10**13)
    wanted = (
        (trunk, "expert", flops), (other, "expert", flops // 2), (trunk, "bytes", rng.randrange(10**6)),
        (trunk, "tokens_in", rng.randrange(1, 900)), (trunk, "tokens_out", rng.randrange(1, 300)),
    )  # fmt: skip
    return [
        rate(_record(request, f"model-{model}", host, what, quantity, step), TERMS) for host, what, quantity in wanted
    ]


def _record(request: str, model: str, host: Host, resource: str, quantity: int, step: int) -> UsageRecord:
    return UsageRecord(
        usage_id=UsageId(derived_id("u", request, host.name, resource, step)), source=request, model=model,
        worker=host.name, owner=host.owner, resource=resource, device_class=host.device_class, ask_bp=10_000,
        hold_step=step, quantity=quantity, rows=quantity // 10**9,
        measured_ns=quantity // 10 if resource == "expert" else 0, events=1, events_digest="00" * 32,
    )  # fmt: skip


def use(ledger: Ledger, request: str, user: str, found: list[Charge], *, at: int, deployment: str = "") -> int:
    """Hold, post and release one request; what it cost, in wei."""
    total = sum(charge.amount_wei for charge in found)
    ledger.hold(f"h-{request}", user, total, request_id=request, terms=TERMS, at=at)
    ledger.settle(f"h-{request}", found, deployment=deployment, at=at)
    return total


def users_of(count: int) -> list[str]:
    """The account that is there without others, and more."""
    return ["local", *(f"user-{n:02d}" for n in range(1, count))]


def fund(ledger: Ledger, count: int, *, at: int) -> None:
    """Give users a million ROS each."""
    for user in users_of(count):
        ledger.deposit(f"deposit-{user}", user, 10**6 * WEI_PER_ROS, at=at)


def live(
    ledger: Ledger, *, since: str, days: int, per_day: int, users: int = 8, models: int = 4, seed: int = 1
) -> None:
    """Let users use models for some days, less at weekends; every 23rd request gets something back."""
    rng, start, names = Random(seed), moment(since), users_of(users)
    fund(ledger, users, at=start)
    for number, (day, at) in enumerate(_moments(rng, start, days, per_day)):
        request = f"r{seed}-{number}"
        user = names[min(int(rng.expovariate(4 / users)), users - 1)]
        model = min(int(rng.expovariate(3 / models)), models - 1)
        found = charges(request, model, rng)
        use(ledger, request, user, found, at=at, deployment=f"deployment-{model}")
        if number % 23 == 0:
            ledger.refund(found[0].record.usage_id, f"wrong answer on day {day}", at=at + 10**6)


def _moments(rng: Random, start: int, days: int, per_day: int) -> Iterator[tuple[int, int]]:
    for day in range(days):
        weekend = (start // DAY_US + day + 3) % 7 >= 5
        for at in sorted(rng.randrange(DAY_US - 10**7) for _ in range(per_day // 3 if weekend else per_day)):
            yield day, start + day * DAY_US + at
