"""Two gateways on one PostgreSQL and one Redis are one network; one of them may be killed at any moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import rios
from rios.billing.ledger.ledger import Ledger
from tests.gateway.load import Load
from tests.gateway.pairs import joined
from tests.gateway.servers import Door, deploy, problem, serves
from tests.gateway.services import redis_server, running
from tests.storage.databases import drop_database, new_database
from tests.waiting import until

pytestmark = pytest.mark.needs("redis-server")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Door, Door, str]]:
    """Two gateways that serve the demo model, and the URL of their database."""
    folder = tmp_path_factory.mktemp("pair")
    url = new_database("postgres", folder)
    with ExitStack() as stack:
        shared = stack.enter_context(running(redis_server(folder / "redis")))
        network = stack.enter_context(rios.local(workers=1, home=folder / "cluster"))
        arguments = ("--database", url, "--redis", shared.url)
        doors = [
            stack.enter_context(joined(folder / "home", network.address, *arguments, log=folder / f"{name}.log"))
            for name in ("first", "second")
        ]
        deploy(doors[0])
        with doors[1].client() as http:
            until(lambda: http.get("/v1/deployments/demo").status_code == 200, "the other sees it", deadline_s=10)
            serves(http, "demo")
        yield doors[0], doors[1], url
    drop_database(url)


def test_two_gateways_are_one(pair: tuple[Door, Door, str]) -> None:
    first, second, _ = pair
    body = {"model": "demo", "prompt": "Once", "max_tokens": 5, "temperature": 0}
    with first.client() as one, second.client() as other:
        key = {"Idempotency-Key": "both"}
        answered = one.post("/v1/completions", json=body, headers=key).json()
        again = other.post("/v1/completions", json=body, headers=key)
        assert (again.json(), again.headers["idempotent-replayed"]) == (answered, "true")
        problem_ = other.post("/v1/completions", json={**body, "max_tokens": 6}, headers=key)
        assert problem_.status_code == 409
        request_id = answered["id"].rpartition("-")[2]
        usage = [http.get("/v1/usage", params={"request_id": request_id}).json()["data"] for http in (one, other)]
        assert usage[0]
        assert usage[0] == usage[1]
        made = one.post("/v1/users", json={"login": "ann", "role": "viewer"}).json()
        assert other.get(f"/v1/users/{made['id']}").json()["login"] == "ann"
        assert other.delete(f"/v1/users/{made['id']}").status_code == 204
        with first.client(made["token"]) as ann:
            until(lambda: ann.get("/v1/users/me").status_code == 401, "ann is closed", deadline_s=5)
        assert one.delete("/v1/deployments/none").status_code == 404
        problem(other.get("/v1/deployments/none"), 404)


def test_a_killed_gateway_loses_nothing_and_bills_nothing_twice(pair: tuple[Door, Door, str]) -> None:
    """Last of this module: the second gateway is gone afterwards."""
    first, second, url = pair
    load = Load([first, second], users=4)
    load.start()
    job = {"model": "demo", "prompt": "It was a job", "max_new_tokens": 300, "ignore_eos": True}
    key = {"Idempotency-Key": "a-job"}
    with second.client() as http:
        lost = http.post("/v1/jobs", json=job, headers=key).json()["id"]
    until(lambda: len(load.answers) > 10, "the load runs", deadline_s=60)
    second.process.send_signal(signal.SIGKILL)
    killed_at = len(load.answers)
    until(lambda: len(load.answers) > killed_at + 20, "the other goes on", deadline_s=60)
    load.stop()
    with first.client() as http:
        problem(http.get(f"/v1/jobs/{lost}"), 404)
        found = until(lambda: _job(http, job, key, lost), "the job is begun anew", deadline_s=60)
        again = http.get(f"/v1/jobs/{found}", params={"wait_s": 60}).json()
        assert again["result"]["usage"]["completion_tokens"] == 300
    load.answers["a-job"] = {"id": f"job-{found}"}
    with first.client() as http:
        for name, answer in load.answers.items():
            if name == "a-job":
                continue
            again = _again(http, name)
            assert again.headers["idempotent-replayed"] == "true"
            assert again.json() == answer, "what was accepted is not lost"
    with Ledger.open(url) as ledger:
        _billed_once(ledger, load.answers)


def _job(http: Any, job: dict[str, Any], key: dict[str, str], lost: str) -> str:
    """The id of the job that the key stands for, unless that is the lost one still."""
    made = http.post("/v1/jobs", json=job, headers=key)
    return "" if made.status_code == 503 or made.json()["id"] == lost else str(made.json()["id"])


def _again(http: Any, key: str) -> Any:
    body = {"model": "demo", "prompt": f"It was {key}", "max_tokens": 6, "temperature": 0}
    found = http.post("/v1/completions", json=body, headers={"Idempotency-Key": key})
    assert found.status_code == 200, found.text
    return found


def _billed_once(ledger: Ledger, answers: dict[str, Any]) -> None:
    """Whoever got an answer paid for it, and nobody paid for anything else of the load."""
    wanted = {answer["id"].rpartition("-")[2] for answer in answers.values()}
    assert len(wanted) == len(answers)
    paid = {one.request_id for one in ledger.usage(user="local") if one.amount_wei > one.refunded_wei}
    assert wanted <= paid
    others = paid - wanted
    assert len(others) <= 1, f"only what the other test asked for: {others}"
    until(lambda: ledger.balance("local").held_wei == 0, "nothing is held", deadline_s=10)
    whole(ledger)


def whole(ledger: Ledger) -> None:
    """The ledger is at 0 wei, and as it was posted."""
    found = ledger.totals()
    assert found.balances == found.stored
    assert sum(found.stored.values()) == 0
    assert found.broken_at is None
