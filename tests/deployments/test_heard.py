"""How far a host is and how reliable, from asking it: near ones are alike, and an outage counts and is forgotten."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from rios.deploy.scheduling import Amounts, HostOffer, Need, choose
from rios.services.deployments.heard import Heard
from rios.services.deployments.platform import Platform, platform_of
from rios.services.purse import Purse
from rios.words.config import Settings, settings
from rios.words.errors import NoWorkers


def told(*looks: tuple[float, float | None]) -> Heard:
    """A record of (seconds since the last look, how long the answer took or None)."""
    found, now = Heard(), 0.0
    for wait_s, took_s in looks:
        now += wait_s
        if took_s is None:
            found.missed(now=now)
        else:
            found.answered(took_s, now=now)
    return found


def test_the_quickest_answer_is_the_way() -> None:
    assert told((0, 0.031), (1, 0.0304), (1, 0.9)).latency_ms == 30
    assert told((0, 0.0004)).latency_ms == told((0, 0.0021)).latency_ms == 0, "alike"
    assert told(*[(1, 0.001)] * 3, *[(1, 0.05)] * 40).latency_ms == 50, "it moved"
    assert Heard().latency_ms == 0


def test_an_outage_counts_and_is_forgotten() -> None:
    assert told((0, 0.001), (1, None), (1, 0.001)).reliability == 1.0, "a lost look is no outage"
    assert told((0, None), (5000, None)).reliability == 1.0, "nothing is known before its first answer"
    away = [(0, 0.001), *[(60, None)] * 30]
    found = told(*away)
    assert found.reliability == 0.61
    assert found.reliability < told(*away, *[(60.0, 0.001)] * 60).reliability < 0.9
    assert told(*away, *[(60.0, 0.001)] * 600).reliability == 1.0
    assert repr(found) == "<Heard 0 ms, 61%>"


def test_the_nearer_and_the_more_reliable_are_chosen() -> None:
    def offer(name: str, heard: Heard) -> HostOffer:
        room = Amounts(cpu_milli=1000, memory_bytes=1 << 30, replicas=9)
        return HostOffer(name=name, total=room, latency_ms=heard.latency_ms, reliability=heard.reliability)

    need = Need(amounts=Amounts(cpu_milli=1, replicas=1), objective="latency")
    far, near = told((0, 0.08)), told((0, 0.002))
    assert choose(need, [offer("a", far), offer("b", near)]).host == "b"
    away = told((0, 0.002), *[(60, None)] * 30, (1, 0.002))
    assert choose(need, [offer("a", away), offer("b", near)]).host == "b"


def test_this_machine_says_where_it_is_and_what_it_asks(tmp_path: Path) -> None:
    options = settings().model_copy(update={"home": tmp_path, "region": "eu", "ask_bp": 9000})
    with Purse(options, background=False) as purse, closing(_platform(purse, options)) as platform:
        offer = platform.hosts.now()["localhost"].offer()
        assert (offer.region, offer.ask_bp) == ("eu", 9000)


def _platform(purse: Purse, options: Settings) -> Platform:
    def no_workers(*_: Any, **__: Any) -> Any:
        raise NoWorkers("a test has none")

    return platform_of(purse.charging, lambda _: purse.books.address, options, deploy=no_workers, agents=dict)
