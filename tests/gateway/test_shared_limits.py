"""Two gateways on one Redis are one: limits to the token, revocations at once, and limits of their own without it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from rios.gateway.settings import GatewaySettings
from rios.storage.breaker import Breaker
from tests.gateway.servers import Door, lean, problem
from tests.gateway.services import Server, redis_server, running
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.needs("redis-server")
BURST = 40


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis."""
    with running(redis_server(tmp_path_factory.mktemp("redis") / "data")) as found:
        yield found


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is waited for for long: what it answers late, on a busy machine, would be each gateway's own to limit."""
    kinds: tuple[Any, ...] = (redis.Redis, redis.asyncio.BlockingConnectionPool)
    for kind in kinds:

        def opened(url: str, *, made: Any = kind.from_url, **given: Any) -> Any:
            return made(url, **{name: 30.0 if "timeout" in name else value for name, value in given.items()})

        monkeypatch.setattr(kind, "from_url", opened)


@pytest.fixture
def doors(shared: Server, tmp_path: Path, patient: None) -> Iterator[tuple[Door, Door]]:
    """Two gateways of one network, which refill no bucket while a test runs."""
    settings = GatewaySettings(burst=BURST, rate_per_s=1e-6, redis=shared.url, drain_s=1)
    with redis.Redis.from_url(shared.url) as client:
        client.flushall()
    with lean(tmp_path / "home", settings) as first, lean(tmp_path / "home", settings) as second:
        yield first, Door(second.url, first.token, gate=second.gate)


def test_limits_are_exact_over_two_gateways(doors: tuple[Door, Door]) -> None:
    statuses: list[int] = []

    def ask(door: Door) -> None:
        with door.client() as http:
            statuses.extend(http.get("/v1/users/me").status_code for _ in range(BURST // 2))

    threads = [threading.Thread(target=ask, args=(door,)) for door in doors * 3]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert Counter(statuses) == {200: BURST, 429: 2 * BURST}


def test_who_is_refused_by_one_is_refused_by_the_other(doors: tuple[Door, Door]) -> None:
    with doors[0].client() as http:
        left = [int(http.get("/v1/users/me").headers["x-ratelimit-remaining"]) for _ in range(BURST)]
        assert left == list(range(BURST - 1, -1, -1))
    with doors[1].client() as http:
        refused = http.get("/v1/users/me")
        problem(refused, 429)
        assert int(refused.headers["retry-after"]) > 1000


def test_gateways_go_on_without_redis(shared: Server, doors: tuple[Door, Door]) -> None:
    with doors[0].client() as http:
        assert http.get("/v1/users/me").status_code == 200
        shared.stop()
        try:
            started = time.monotonic()
            assert [http.get("/v1/users/me").status_code for _ in range(20)] == [200] * 20
            assert time.monotonic() - started < 20 * 0.5 * PATIENCE, "a broken part is not waited for by everybody"
            ready = http.get("/ready").json()["checks"]
            assert "limits are this gateway's own" in ready["redis"]
        finally:
            shared.start()

        def back() -> bool:
            http.get("/v1/users/me")
            return bool(http.get("/ready").json()["checks"]["redis"] == "ok")

        until(back, "Redis is asked again", deadline_s=5, pause_s=0.5)
        assert int(http.get("/v1/users/me").headers["x-ratelimit-remaining"]) >= BURST - 15, "the empty Redis counts"


def test_a_revocation_is_known_at_once(doors: tuple[Door, Door], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.services.tokens.FRESH_S", 3600.0)  # so that it is told, and not found out
    with doors[0].client() as http:
        made = http.post("/v1/tokens", json={"name": "soon gone"}).json()
        with doors[1].client(made["token"]) as other:
            assert other.get("/v1/users/me").status_code == 200
            assert http.delete(f"/v1/tokens/{made['id']}").status_code == 204
            until(lambda: other.get("/v1/users/me").status_code == 401, "the key is dead", deadline_s=3)


def test_a_breaker_lets_one_try() -> None:
    now = [0.0]
    breaker = Breaker("a part", retry_s=1, clock=lambda: now[0])
    assert breaker.allows()
    assert breaker.allows()
    breaker.failed(OSError("gone"))
    assert not breaker.allows()
    assert breaker.why == "OSError: gone"
    now[0] = 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.why is None
