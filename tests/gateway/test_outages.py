"""Redis, the broker and the database killed and started in turn under load: clear errors, and soon all is well."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

import rios
from rios.billing.ledger.ledger import Ledger
from tests.gateway.hooks import Told, told
from tests.gateway.load import Load
from tests.gateway.pairs import joined
from tests.gateway.servers import Door, deploy
from tests.gateway.services import Server, postgres_server, rabbitmq_server, redis_server, running
from tests.gateway.test_failover import whole
from tests.waiting import until

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.needs("rabbitmqctl")]
RECOVERY_S = 5.0
OUTAGE_S = 3.0


@dataclass
class Town:
    """A gateway with all that it depends on."""

    door: Door
    hook: Told
    parts: dict[str, Server]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A gateway that serves the demo model on real servers, and a webhook."""
    folder = tmp_path_factory.mktemp("town")
    with ExitStack() as stack:
        parts = {
            "redis": stack.enter_context(running(redis_server(folder / "redis"))),
            "broker": stack.enter_context(running(rabbitmq_server(folder / "rabbit"))),
            "database": stack.enter_context(postgres_server()),
        }
        hook = stack.enter_context(told())
        network = stack.enter_context(rios.local(workers=1, home=folder / "cluster"))
        urls = ("--database", parts["database"].url, "--redis", parts["redis"].url, "--broker", parts["broker"].url)
        door = stack.enter_context(
            joined(
                folder / "home", network.address, *urls, log=folder / "log", RIOS_GATEWAY_WEBHOOK_NETWORKS="127.0.0.0/8"
            )
        )
        deploy(door)
        with door.client() as http:
            assert http.post("/v1/webhooks", json={"url": hook.url, "events": ["user."]}).status_code == 201
        yield Town(door, hook, parts)


@pytest.mark.parametrize("part", ["redis", "broker", "database"])
def test_a_part_dies_under_load_and_comes_back(town: Town, part: str) -> None:
    server, load = town.parts[part], Load([town.door], users=3, name=part)
    load.start()
    until(lambda: len(load.answers) > 5, "the load runs", deadline_s=60)
    with town.door.client() as http:
        server.stop()
        stopped = time.monotonic()
        while time.monotonic() < stopped + OUTAGE_S:
            assert http.get("/live").status_code == 200
            # Who asks is known for seconds; then the database has to be asked whether that was revoked.
            models = http.get("/v1/models")
            assert models.status_code in ((200, 503) if part == "database" else (200,)), models.text
            time.sleep(0.1)
        if part == "database":
            assert http.get("/v1/usage").status_code == 503
        else:
            made = http.post("/v1/users", json={"login": f"during-{part}", "role": "viewer"})
            assert made.status_code == 201, "what needs no broken part goes on"
        until(lambda: http.get("/ready").json()["checks"][part] != "ok", "it is noticed", deadline_s=RECOVERY_S)
        checks = http.get("/ready").json()["checks"]
        assert [name for name, said in checks.items() if said != "ok"] == [part], "it says what is broken"
        server.start()
        back = time.monotonic()
        until(lambda: [at for at in load.times if at > back], "answers come again", deadline_s=RECOVERY_S)
        until(lambda: _well(town.door, part), f"{part} is used again", deadline_s=RECOVERY_S)
        recovered_s = time.monotonic() - back
    load.stop()
    for _, status, text in load.refusals:
        assert part == "database", "without Redis and broker the gateway goes on"
        assert status == 503
        said = json.loads(text)["error"]
        assert "the ledger in" in said["message"]
        assert "password" not in said["message"]
    assert recovered_s < RECOVERY_S
    _events_came(town, part)
    with Ledger.open(town.parts["database"].url) as ledger:
        until(lambda: ledger.balance("local").held_wei == 0, "nothing is held", deadline_s=15)
        wanted = {answer["id"].rpartition("-")[2] for answer in load.answers.values()}
        paid = {one.request_id for one in ledger.usage(user="local") if one.amount_wei > one.refunded_wei}
        assert wanted <= paid, "who got an answer paid for it"
        whole(ledger)


def _well(door: Door, part: str) -> bool:
    with door.client() as http:
        http.post("/v1/users", json={"login": f"well-{part}-{time.monotonic_ns()}", "role": "viewer"})
        return bool(http.get("/ready").json()["checks"][part] == "ok")


def _events_came(town: Town, part: str) -> None:
    """What was made while or after a part was broken is told to the webhook, each once."""
    with town.door.client() as http:
        made = http.post("/v1/users", json={"login": f"after-{part}", "role": "viewer"}).json()["id"]
    until(lambda: made in [one["object"] for one in town.hook.events], "the event comes", deadline_s=10)
    ids = [one["id"] for one in town.hook.events]
    assert len(ids) == len(set(ids))
