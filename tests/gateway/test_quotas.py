"""Quotas of a day: what an admin allows is not exceeded by a token or a wei, and what was not needed comes back."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.servers import Door, problem
from tests.waiting import until

BODY = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


@pytest.fixture
def ann(network: Door) -> Iterator[tuple[str, str]]:
    """Id and token of somebody with money and without quota."""
    with network.client() as http:
        made = http.post("/v1/users", json={"login": f"ann-{uuid.uuid4().hex[:12]}", "role": "developer"}).json()
        headers = {"Idempotency-Key": made["id"]}
        assert http.post(f"/v1/users/{made['id']}/credit", json={"amount": "5 ROS"}, headers=headers).is_success
        yield made["id"], made["token"]


def _quota(network: Door, user_id: str, **quota: Any) -> None:
    with network.client() as http:
        assert http.put(f"/v1/users/{user_id}/quota", json=quota).status_code == 204


def test_tokens_are_counted_to_the_last(network: Door, ann: tuple[str, str]) -> None:
    user_id, token = ann
    with network.client(token) as http:
        first = http.post("/v1/completions", json=BODY)
        assert first.status_code == 200, first.text
        used = first.json()["usage"]["total_tokens"]
        most = first.json()["usage"]["prompt_tokens"] + BODY["max_tokens"]
        _quota(network, user_id, tokens=used + most)
        assert http.post("/v1/completions", json=BODY).status_code == 200
        until(lambda: http.get(f"/v1/users/{user_id}/quota").json()["used_tokens"] == used, "the rest", deadline_s=5)
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(http.post("/v1/completions", json=BODY).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert min(statuses) == 200
        assert set(statuses) <= {200, 429}
        refused = http.post("/v1/completions", json={**BODY, "max_tokens": most + 1})
        assert refused.status_code == 429
        assert "quota" in refused.json()["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 86400
        found = http.get(f"/v1/users/{user_id}/quota").json()
        assert found["used_tokens"] <= found["tokens"]
        problem(http.put(f"/v1/users/{user_id}/quota", json={}), 403)
    _quota(network, user_id)
    with network.client(token) as http:
        assert http.post("/v1/completions", json=BODY).status_code == 200


def test_money_is_bounded_whatever_the_users_own_budget(network: Door, ann: tuple[str, str]) -> None:
    user_id, token = ann
    _quota(network, user_id, spend="0.000000000000000001 ROS")
    with network.client(token) as http:
        assert http.put("/v1/budgets/day", json={"limit": "5 ROS"}).status_code == 204
        refused = http.post("/v1/completions", json=BODY)
        assert refused.status_code == 402
        assert refused.json()["error"]["code"] == "budget_exceeded"
        assert http.get(f"/v1/users/{user_id}/quota").json()["spend_wei"] == "1"
    _quota(network, user_id, spend="5 ROS")
    with network.client(token) as http:
        assert http.post("/v1/completions", json=BODY).status_code == 200


def test_anothers_quota_is_not_there(network: Door, ann: tuple[str, str]) -> None:
    with network.client() as http:
        made = http.post("/v1/organisations", json={"name": f"o-{ann[0]}", "admin": f"a-{ann[0]}"}).json()
    with network.client(made["token"]) as http:
        problem(http.get(f"/v1/users/{ann[0]}/quota"), 404)
        problem(http.put(f"/v1/users/{ann[0]}/quota", json={"tokens": 0}), 404)


def test_a_token_can_be_forbidden_and_forced(network: Door) -> None:
    with network.client() as http:
        plain = http.post("/v1/completions", json={**BODY, "max_tokens": 1, "logprobs": 1}).json()["choices"][0]
        asked = {"model": "demo", "prompt": BODY["prompt"], "max_new_tokens": 1}
        job = http.post("/v1/jobs", json=asked).json()
        first = http.get(f"/v1/jobs/{job['id']}", params={"wait_s": 30}).json()["result"]["token_ids"][0]
        other = http.post("/v1/completions", json={**BODY, "max_tokens": 1, "logit_bias": {str(first): -100}}).json()
        assert other["choices"][0]["text"] != plain["text"]
        job = http.post("/v1/jobs", json={**asked, "max_new_tokens": 3, "logit_bias": [[7, 100]]}).json()
        forced = http.get(f"/v1/jobs/{job['id']}", params={"wait_s": 30}).json()["result"]["token_ids"]
        assert forced == [7, 7, 7]
        for wrong in ({"x": 1}, {"1": 101}, {"9999999": 1}, {"-1": 1}):
            assert http.post("/v1/completions", json={**BODY, "logit_bias": wrong}).status_code == 400
