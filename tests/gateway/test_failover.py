"""Two gateways are one network; under load one of them is killed, and what they depend on stopped in turn."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from rios.billing.ledger.ledger import Ledger
from rios.words.money import WEI_PER_ROS
from tests.billing.chain.conftest import needs_npm
from tests.gateway.load import Load
from tests.gateway.servers import Door, problem, serves
from tests.gateway.services import Server
from tests.gateway.town import Town, town
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.needs("rabbitmqctl"), *needs_npm]
RECOVERY_S = 5.0
OUTAGE_S = 2.0
FROZEN_S, DEADLINE_S = 13.0, 16.0
"""The database's own deadline is ten seconds."""
NOTICED_S = 5.0
WITHOUT = {
    "chain": "deposits, settlement and claims wait",
    "scheduler": "nobody joins",
    "redis": "limits are this gateway's own",
    "broker": "events wait in the outbox",
    "database": "does not answer",
}


_TRIES = 5
"""A quick machine may have generated all of it before anybody could look, or say that it is to end."""
_JOB = {"model": "demo", "prompt": "It was", "ignore_eos": True}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, network: Door) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town"), network.network) as found:
        yield found


def test_two_gateways_are_one(pair: Town) -> None:
    first, second = pair.first, pair.second
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


def test_a_model_is_served_by_both(pair: Town) -> None:
    """Whatever is wanted of it at one of them is done by each, which answers from its own engine."""
    asked = {"model": "twin", "prompt": "It was", "max_tokens": 2, "temperature": 0}
    with pair.first.client() as one, pair.second.client() as other:

        def marks() -> set[tuple[str, int]]:
            rows = one.get("/v1/apps/twin/replicas").json()["data"]
            return {(row["host"], row["revision"]) for row in rows if row["state"] == "ready"}

        other.post("/v1/apps", json={"name": "twin", "model": "demo", "dtype": "float32"}).raise_for_status()
        for http in (one, other):
            serves(http, "twin")
        until(lambda: len(marks()) == 2, "both serve it", deadline_s=60)
        text = [http.post("/v1/completions", json=asked).json()["choices"][0]["text"] for http in (one, other)]
        assert text[0] == text[1]
        one.patch("/v1/apps/twin", json={"fields": {"dtype": "bfloat16"}}).raise_for_status()
        until(lambda: sorted(number for _, number in marks()) == [2, 2], "both are updated", deadline_s=120)
        other.post("/v1/apps/twin/rollback", json={}).raise_for_status()
        until(lambda: sorted(number for _, number in marks()) == [1, 1], "both are as before", deadline_s=120)
        one.post("/v1/apps/twin/pause").raise_for_status()
        for http in (one, other):
            until(lambda http=http: http.post("/v1/completions", json=asked).status_code == 503, deadline_s=30)  # type: ignore[misc]
        other.post("/v1/apps/twin/resume").raise_for_status()
        for http in (one, other):
            serves(http, "twin")
        assert other.delete("/v1/deployments/twin").status_code == 204
        problem(one.get("/v1/deployments/twin"), 404)
        until(lambda: one.get("/v1/apps/twin").status_code == 404, "nothing is left", deadline_s=60)


def test_a_job_is_at_both(pair: Town) -> None:
    """Made at one, it is read, followed from any piece and cancelled at the other."""
    with pair.first.client() as one, pair.second.client() as other:
        job = one.post("/v1/jobs", json={**_JOB, "max_new_tokens": 200, "logprobs": 1}).json()["id"]
        status = other.get(f"/v1/jobs/{job}/status").json()
        assert (status["here"], status["model"]) == (False, "demo")
        assert status["as_of"] <= time.time()
        followed = list(_followed(other, job, last=0))
        mine = one.get(f"/v1/jobs/{job}", params={"wait_s": 60}).json()
        theirs = other.get(f"/v1/jobs/{job}", params={"wait_s": 60}).json()
        assert (mine["here"], theirs["here"]) == (True, False)
        for name in ("id", "model", "status", "tokens", "result"):
            assert theirs[name] == mine[name], name
        assert followed[-1][1] == "done"
        assert [number for number, _, _ in followed[:-1]] == [str(place + 1) for place in range(len(followed) - 1)]
        assert followed == [*list(_followed(one, job, last=0))[:-1], followed[-1]], "piece by piece as its own has it"
        assert "".join(said["text"] for _, _, said in followed[:-1]) == mine["result"]["text"]
        assert list(_followed(other, job, last=5)) == followed[5:]
        for _ in range(_TRIES):
            job = other.post("/v1/jobs", json={**_JOB, "max_new_tokens": 480}).json()["id"]
            assert one.delete(f"/v1/jobs/{job}").status_code == 204
            if until(lambda job=job: _end_of(other, job), "it ends", deadline_s=10) == "cancelled":  # type: ignore[misc]
                break
        else:
            raise AssertionError("no job was cancelled before its end")
        until(lambda: _end_of(one, job) == "cancelled", "and says so", deadline_s=5)
        assert one.get(f"/v1/jobs/{job}/status").json()["tokens"] < 480
        assert problem(one.get(f"/v1/jobs/{job}"), 409)["type"].endswith(":Cancelled")
        made = one.post("/v1/users", json={"login": "eve", "role": "developer"}).json()
        with pair.second.client(made["token"]) as eve:
            problem(eve.get(f"/v1/jobs/{job}"), 404)
            problem(eve.delete(f"/v1/jobs/{job}"), 404)
            problem(eve.get(f"/v1/jobs/{job}/events"), 404)


def test_each_lists_the_jobs_of_both(pair: Town) -> None:
    with pair.first.client() as one, pair.second.client() as other:
        for _ in range(_TRIES):
            job = one.post("/v1/jobs", json={**_JOB, "max_new_tokens": 480}).json()["id"]
            seen = list(_changes(other, job))
            assert [view["state"] for view in seen if view["state"] not in ("queued", "running")] == ["done"]
            assert [view["tokens"] for view in seen] == sorted(view["tokens"] for view in seen)
            if any(0 < view["tokens"] < 480 for view in seen):
                break
        else:
            raise AssertionError("none of the generations was seen to advance")
        until(lambda: _view(other, job)["posted"], "its price", deadline_s=5)
        assert _view(other, job) == _view(one, job) == other.get(f"/v1/jobs/{job}/view").json()
        made = one.post("/v1/users", json={"login": "tom", "role": "developer"}).json()
        with pair.second.client(made["token"]) as tom:
            assert tom.get("/v1/jobs").json()["data"] == []
            problem(tom.get(f"/v1/jobs/{job}/view"), 404)
        elsewhere = problem(other.get(f"/v1/jobs/{job}/request"), 421)
        assert elsewhere["type"].endswith(":Elsewhere")
        assert one.get("/v1/jobs").json()["gateway"] in elsewhere["detail"], "it says where to ask"
        assert one.get(f"/v1/jobs/{job}/request").json()["prompt"] == "It was"


def test_generations_of_all_routes_are_listed_and_cancelled_at_both(pair: Town) -> None:
    with pair.first.client() as one, pair.second.client() as other:
        body = {"model": "demo", "prompt": "It was", "temperature": 0}
        answered = one.post("/v1/completions", json={**body, "max_tokens": 5}).json()
        name = answered["id"].rpartition("-")[2]
        until(lambda: _view(other, name).get("state") == "done", "it is listed, and its end", deadline_s=5)
        assert _view(other, name)["tokens"] == answered["usage"]["completion_tokens"]
        long = {**body, "max_tokens": 480, "stream": True, "logit_bias": {"0": -100}}
        for _ in range(_TRIES):
            with one.stream("POST", "/v1/completions", json=long) as answer:
                lines = answer.iter_lines()
                name = json.loads(next(lines).removeprefix("data: "))["id"].rpartition("-")[2]
                until(lambda name=name: _view(other, name), "it is listed while it runs", deadline_s=5)  # type: ignore[misc]
                assert other.delete(f"/v1/jobs/{name}").status_code == 204
                if any("error" in line for line in lines):
                    break
        else:
            raise AssertionError("no stream said that it was cancelled: all ended before")
        until(lambda: _view(other, name)["state"] == "cancelled", "and so does the list", deadline_s=5)
        for _ in range(_TRIES):
            job = other.post("/v1/jobs", json={**_JOB, "max_new_tokens": 480}).json()["id"]
            until(lambda job=job: _view(one, job), "it is listed", deadline_s=5)  # type: ignore[misc]
            assert one.delete(f"/v1/jobs/{job}").status_code == 204
            for http in (one, other):
                until(lambda http=http, job=job: not _running(http, job), "it ends", deadline_s=10)  # type: ignore[misc]
            if _view(one, job)["state"] == _view(other, job)["state"] == "cancelled":
                assert _view(one, job)["tokens"] < 480
                break
        else:
            raise AssertionError("no job was cancelled before its end")
        problem(one.delete("/v1/jobs/none"), 404)


def test_a_killed_gateway_loses_nothing_and_bills_nothing_twice(pair: Town, network: Door) -> None:
    """The second gateway is gone afterwards."""
    first, second = pair.first, pair.second
    with Ledger.open(pair.database) as ledger:
        before = {one.request_id for one in ledger.usage(user="local")}
    load = Load([first, second], users=4)
    load.start()
    until(lambda: len(load.answers) > 10, "the load runs", deadline_s=60)
    job = {**_JOB, "prompt": "It was a job", "max_new_tokens": 300}
    key = {"Idempotency-Key": "a-job"}
    worker = network.network.workers[0].pid
    os.kill(worker, signal.SIGSTOP)  # so that both are under way when their gateway is killed
    try:
        with second.client() as http:
            lost, other = (http.post("/v1/jobs", json=job, headers=one).json()["id"] for one in (key, {}))
        with first.client() as http:
            until(lambda: _view(http, other), "the other one lists it", deadline_s=20)
        second.process.send_signal(signal.SIGKILL)
    finally:
        os.kill(worker, signal.SIGCONT)
    killed_at = len(load.answers)
    until(lambda: len(load.answers) > killed_at + 20, "the other goes on", deadline_s=60)
    load.stop()
    with first.client() as http:
        _ends_as_lost(pair, other)
        until(lambda: _view(http, other)["state"] == "lost", "the list says so, too", deadline_s=5)
        assert (_view(http, other)["cost_wei"], _view(http, other)["posted"]) == ("0", True)
        found = until(lambda: _job(http, job, key, lost), "the job is begun anew", deadline_s=60)
        _ends_as_lost(pair, lost)
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
    with Ledger.open(pair.database) as ledger:
        _billed_once(ledger, load.answers, before)


@pytest.mark.parametrize("part", WITHOUT)
def test_a_part_is_stopped_under_load_and_comes_back(pair: Town, part: str) -> None:
    server, load = pair.parts[part], Load([pair.first], users=3, name=part)
    load.start()
    until(lambda: len(load.answers) > 5, "the load runs", deadline_s=60)
    with pair.first.client() as http:
        assert _deposit(http, f"before-{part}").status_code == 200
        server.stop()
        try:
            _goes_on(http, part)
            until(lambda: _checks(http).get(part) != "ok", "it is noticed", deadline_s=NOTICED_S)
            assert [name for name, said in _checks(http).items() if said != "ok"] == [part], "it says what is broken"
            assert WITHOUT[part] in _checks(http)[part], "and how the gateway does without"
            if part in ("chain", "database"):
                asked = time.monotonic()
                refused = problem(_deposit(http, f"after-{part}"), 503)
                assert time.monotonic() - asked < NOTICED_S * PATIENCE, "nobody waits for what is known not to answer"
                assert "did not answer" in refused["detail"] or "does not answer" in refused["detail"]
                kind = {"chain": "ChainUnavailable", "database": "LedgerUnavailable"}[part]
                assert refused["type"].rpartition(":")[2] == kind
        finally:  # also for the tests that follow
            server.start()
        back = time.monotonic()
        until(lambda: [at for at in load.times if at > back], "answers come again", deadline_s=RECOVERY_S)
        until(
            lambda: _well(http, part),
            f"{part} is used again",
            deadline_s=RECOVERY_S - (time.monotonic() - back) / PATIENCE,
        )
        until(lambda: _deposit(http, f"after-{part}").status_code == 200, "deposits again", deadline_s=RECOVERY_S)
    load.stop()
    for _, status, text in load.refusals:
        assert part == "database", f"without {part} the gateway goes on"
        assert status == 503
        said = json.loads(text)["error"]
        assert "the ledger in" in said["message"]
        assert "password" not in said["message"]
    _events_came(pair, part)
    with Ledger.open(pair.database) as ledger:
        until(lambda: ledger.balance("local").held_wei == 0, "nothing is held", deadline_s=15)
        wanted = {answer["id"].rpartition("-")[2] for answer in load.answers.values()}
        paid = {one.request_id for one in ledger.usage(user="local") if one.amount_wei > one.refunded_wei}
        assert wanted <= paid, "who got an answer paid for it"
        whole(ledger)


def test_a_frozen_database_is_not_waited_for(pair: Town) -> None:
    """It takes what is sent and says nothing. As many ask as there are threads: none is lost, and all are told."""
    database = cast(Server, pair.parts["database"])
    load, asked = Load([pair.first], users=3, name="frozen"), Load([pair.first], users=50, path="/v1/usage")
    load.start()
    until(lambda: len(load.answers) > 3, "the load runs", deadline_s=60)
    with pair.first.client() as http:
        database.freeze()
        frozen = time.monotonic()
        try:
            asked.start()
            while time.monotonic() < frozen + FROZEN_S:
                before = time.monotonic()
                assert http.get("/live").status_code == 200
                assert time.monotonic() - before < 2 * PATIENCE, "it lives, and says so at once"
                time.sleep(0.2)
            before = time.monotonic()
            refused = problem(http.get("/v1/usage"), 503)
            assert time.monotonic() - before < NOTICED_S * PATIENCE, "nobody waits for what is known to say nothing"
            assert refused["type"].endswith(":LedgerUnavailable")
            assert "did not answer" in _checks(http)["database"]
        finally:
            database.thaw()
        back = time.monotonic()
        for one in (asked, load):
            until(lambda one=one: [at for at in one.times if at > back], "answers again", deadline_s=RECOVERY_S)  # type: ignore[misc]
        asked.stop()
        load.stop()
        until(lambda: http.get("/ready").status_code == 200, "it is ready", deadline_s=RECOVERY_S)
    assert asked.refusals
    assert {status for _, status, _ in asked.refusals + load.refusals} == {503}
    assert max(asked.waits + load.waits) < DEADLINE_S * PATIENCE, "everybody was told in time"
    with Ledger.open(pair.database) as ledger:
        until(lambda: ledger.balance("local").held_wei == 0, "nothing is held", deadline_s=15)
        whole(ledger)


def test_the_books_agree_to_the_wei_after_all_of_it(pair: Town) -> None:
    with pair.first.client() as http:
        assert http.post("/v1/settlement").status_code == 200
        found = http.get("/v1/reconciliation").json()
        assert (found["sound"], found["difference_wei"]) == (True, "0"), found
    with Ledger.open(pair.database) as ledger:
        amounts = [int(event.args["amount"]) for event in ledger.chain_events(name="Deposited")]
        assert amounts == [WEI_PER_ROS] * 2 * len(WITHOUT), "what was refused is done once when it is asked for again"


def _view(http: Any, job: str) -> dict[str, Any]:
    """What the list says of a job; nothing where it is not there."""
    found = http.get("/v1/jobs", params={"limit": 1000}).json()["data"]
    return next((one for one in found if one["id"] == job), {})


def _end_of(http: Any, job: str) -> str:
    """How a job has ended; nothing while it has not."""
    status = str(http.get(f"/v1/jobs/{job}/status").json()["status"])
    return "" if status in ("queued", "running") else status


def _running(http: Any, job: str) -> bool:
    return _view(http, job)["ended_at"] is None


def _changes(http: Any, job: str) -> Iterator[dict[str, Any]]:
    """What the list says of a job until that has ended, by its long poll."""
    since, view, deadline = 0, {"state": "queued"}, time.monotonic() + 60 * PATIENCE
    while view["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, view
        found = http.get("/v1/jobs", params={"since": since, "wait_s": 10, "limit": 1000}).json()
        since = found["version"]
        for one in found["data"]:
            if one["id"] == job:
                yield (view := one)


def _followed(http: Any, job: str, *, last: int) -> Iterator[tuple[str, str, Any]]:
    """Id, name and data of each event after `last`."""
    headers = {"Last-Event-ID": str(last)} if last else {}
    with http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, fields[name] = line.partition(": ")
            else:
                yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
                fields = {}


def _ends_as_lost(found: Town, job: str) -> None:
    """The record of a job whose gateway was killed: lost, why, and nothing held or paid for it."""
    with found.first.client() as http:
        until(lambda: http.get(f"/v1/jobs/{job}/status").json()["status"] == "lost", "it is lost", deadline_s=15)
        said = http.get(f"/v1/jobs/{job}/status").json()
        assert int(said["money"]["cost_wei"]) == 0
        why = problem(http.get(f"/v1/jobs/{job}"), 503)
        assert why["type"].endswith(":GatewayLost")
        assert "the gateway that ran job" in why["detail"]
        number, name, last = list(_followed(http, job, last=0))[-1]
        assert (number, name, last["detail"]) == ("", "error", why["detail"])
    with Ledger.open(found.database) as ledger:
        usage = list(ledger.usage(request_id=job))
        assert sum(one.amount_wei - one.refunded_wei for one in usage) == 0


def _goes_on(http: Any, part: str) -> None:
    """What needs no broken part is served meanwhile."""
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
        assert made.status_code == 201, made.text
    if part == "chain":  # somebody has to need it before it is missed
        assert _deposit(http, "after-chain").status_code == 503


def _checks(http: Any) -> dict[str, str]:
    found: dict[str, str] = http.get("/ready").json()["checks"]
    return found


def _deposit(http: Any, key: str) -> Any:
    return http.post("/v1/wallet/deposits", json={"amount": "1 ROS"}, headers={"Idempotency-Key": key})


def _well(http: Any, part: str) -> bool:
    http.post("/v1/users", json={"login": f"well-{part}-{time.monotonic_ns()}", "role": "viewer"})
    return _checks(http)[part] == "ok"


def _events_came(found: Town, part: str) -> None:
    """What was made while or after a part was broken is told to the webhook, each once."""
    with found.first.client() as http:
        made = http.post("/v1/users", json={"login": f"after-{part}", "role": "viewer"}).json()["id"]
    until(lambda: made in [one["object"] for one in found.hook.events], "the event comes", deadline_s=10)
    ids = [one["id"] for one in found.hook.events]
    assert len(ids) == len(set(ids))


def _job(http: Any, job: dict[str, Any], key: dict[str, str], lost: str) -> str:
    """The id of the job that the key stands for, unless that is the lost one still."""
    made = http.post("/v1/jobs", json=job, headers=key)
    return "" if made.status_code == 503 or made.json()["id"] == lost else str(made.json()["id"])


def _again(http: Any, key: str) -> Any:
    body = {"model": "demo", "prompt": f"It was {key}", "max_tokens": 6, "temperature": 0}
    found = http.post("/v1/completions", json=body, headers={"Idempotency-Key": key})
    assert found.status_code == 200, found.text
    return found


def _billed_once(ledger: Ledger, answers: dict[str, Any], before: set[str]) -> None:
    """Whoever got an answer paid for it, and nobody paid for anything else since `before`."""
    wanted = {answer["id"].rpartition("-")[2] for answer in answers.values()}
    assert len(wanted) == len(answers)
    paid = {one.request_id for one in ledger.usage(user="local") if one.amount_wei > one.refunded_wei}
    assert wanted <= paid
    assert not paid - wanted - before
    until(lambda: ledger.balance("local").held_wei == 0, "nothing is held", deadline_s=10)
    whole(ledger)


def whole(ledger: Ledger) -> None:
    """The ledger is at 0 wei, and as it was posted."""
    found = ledger.totals()
    assert found.balances == found.stored
    assert sum(found.stored.values()) == 0
    assert found.broken_at is None
