"""Idempotency-Key: done once, answered alike, taken over when a gateway dies, and read by nobody else."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from rios.services.once import Answer, Begun, Once
from rios.storage.gateway_models import OnceRow
from rios.words.errors import LedgerUnavailable
from tests.gateway.servers import Door, problem


def _post(http: httpx2.Client, key: str, name: str = "one") -> httpx2.Response:
    return http.post("/v1/tokens", json={"name": name, "scopes": ["usage:read"]}, headers={"Idempotency-Key": key})


def _count(http: httpx2.Client, name: str) -> int:
    return len([one for one in http.get("/v1/tokens").json()["data"] if one["name"] == name])


def test_the_same_key_does_it_once(door: Door) -> None:
    with door.client() as http:
        first, again = _post(http, "k-1", "once"), _post(http, "k-1", "once")
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json(), "the secret too, which nothing else keeps"
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["content-type"] == first.headers["content-type"]
        assert _count(http, "once") == 1
        assert "x-request-id" in again.headers


def test_another_request_under_a_key_is_an_error(door: Door) -> None:
    with door.client() as http:
        assert _post(http, "k-2").status_code == 201
        assert problem(_post(http, "k-2", "other"), 409)["type"] == "urn:rios:error:AlreadyExists"
        headers = {"Idempotency-Key": "k-2"}
        problem(http.post("/v1/users", json={"login": "k2", "role": "viewer"}, headers=headers), 409)
        problem(_post(http, "k" * 201), 400)


def test_many_at_once_do_it_once(door: Door) -> None:
    found: list[Any] = []
    with door.client() as http:
        threads = [threading.Thread(target=lambda: found.append(_post(http, "k-3", "many").json())) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len(found) == 8
        assert all(one == found[0] for one in found)
        assert _count(http, "many") == 1


def test_what_failed_may_be_tried_again(door: Door) -> None:
    with door.client() as http:
        body = {"login": "k4", "role": "viewer"}
        made = http.post("/v1/users", json=body).json()
        problem(http.post("/v1/users", json=body, headers={"Idempotency-Key": "k-4"}), 409)
        assert http.delete(f"/v1/users/{made['id']}").status_code == 204
        assert http.post("/v1/users", json=body, headers={"Idempotency-Key": "k-4"}).status_code == 201


def test_an_answer_is_for_who_asked(door: Door) -> None:
    with door.client() as http:
        secret = _post(http, "k-5").json()["token"]
        other = http.post("/v1/tokens", json={"name": "other"}).json()["token"]
        ann = http.post("/v1/users", json={"login": "ann-k5", "role": "developer"}).json()["token"]
    with door.client(other) as http:
        assert "token that asked" in problem(_post(http, "k-5"), 409)["detail"]
    with door.client(ann) as http:
        assert _post(http, "k-5").status_code == 201, "another user's keys are others"
    with door.client("") as http:
        problem(_post(http, "k-5"), 401)
    with door.gate.tenancy.ledger.database.reading() as connection:
        kept = [bytes(found) for found in connection.scalars(select(OnceRow.answer))]
    assert kept
    assert not [one for one in kept if secret.encode() in one or b"rios_sk_" in one]


def test_what_a_dead_gateway_did_is_taken_over(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = door.gate.tenancy.ledger
    monkeypatch.setattr("rios.services.once._RENEW_S", 3600)  # it gives no sign of life
    monkeypatch.setattr("rios.services.once.LEASE_S", 3600)  # which is not noticed by itself
    dead = Once(ledger)
    begun = dead.begin("local", "k-6", "digest", token="t")
    assert dead.begin("local", "k-6", "digest", token="t") is None, "it is being done"
    living = Once(ledger)
    assert living.begin("local", "k-6", "digest", token="t") is None
    with ledger.database.writing() as connection:
        connection.execute(update(OnceRow).where(OnceRow.key == "k-6").values(lease_until=0))
    taken = living.begin("local", "k-6", "digest", token="t")
    assert taken is not None
    assert taken != begun
    dead.release(begun)  # it was not dead after all, and comes too late
    assert living.begin("local", "k-6", "digest", token="t") is None
    for one in (dead, living):
        one.close()


def test_what_goes_on_after_its_answer_is_taken_over_until_it_has_ended(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = door.gate.tenancy.ledger
    monkeypatch.setattr("rios.services.once._RENEW_S", 3600)
    monkeypatch.setattr("rios.services.once.LEASE_S", 3600)
    answer = Answer(status=201, headers=(), body=b"{}")

    def lapse(key: str) -> None:
        with ledger.database.writing() as connection:
            lapsed = update(OnceRow).where(OnceRow.key == key, OnceRow.lease_until < 2**52)
            connection.execute(lapsed.values(lease_until=0))

    dead, living = Once(ledger), Once(ledger)
    for key in ("under way", "ended", "ended early"):
        begun = dead.begin("local", key, "digest", token="t")
        assert isinstance(begun, Begun)
        if key == "ended early":
            dead.finish(begun)
        dead.done(begun, answer, token="t", goes_on=True)
        if key == "ended":
            dead.finish(begun)
        assert living.begin("local", key, "digest", token="t") == answer
        lapse(key)
        assert dead.begin("local", key, "digest", token="t") == answer, "who does it still does not do it twice"
        again = living.begin("local", key, "digest", token="t")
        assert isinstance(again, Begun) if key == "under way" else again == answer
    for one in (dead, living):
        one.close()


def test_an_answer_that_cannot_be_recorded_is_not_given(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("the ledger does not answer")

    with door.client() as http:
        with monkeypatch.context() as patched:
            patched.setattr(Once, "done", lost)
            refused = problem(_post(http, "k-9"), 503)
            assert refused["type"] == "urn:rios:error:LedgerUnavailable"
        assert _post(http, "k-9").status_code == 201, "it may be tried again"
