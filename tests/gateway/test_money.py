"""Money over HTTP: once for each key, and nobody's but one's own."""

from __future__ import annotations

from typing import Any

from tests.gateway.servers import Door, problem

ROS = 10**18


def user(network: Door, login: str, role: str = "developer") -> dict[str, Any]:
    with network.client() as http:
        found: dict[str, Any] = http.post("/v1/users", json={"login": login, "role": role}).json()
        credit = {"Idempotency-Key": login}
        http.post(f"/v1/users/{found['id']}/credit", json={"amount": "1 ROS"}, headers=credit).raise_for_status()
    return found


def deposited(http: Any) -> int:
    return int(http.get("/v1/wallet").json()["deposited_wei"])


def test_a_deposit_happens_once_for_each_key(network: Door) -> None:
    with network.client() as http:
        before, key = deposited(http), {"Idempotency-Key": "deposit-1"}
        first = http.post("/v1/wallet/deposits", json={"amount": "2 ROS"}, headers=key)
        again = http.post("/v1/wallet/deposits", json={"amount": "2 ROS"}, headers=key)
        assert first.json() == again.json()
        assert deposited(http) - before == 2 * ROS
        assert http.post("/v1/wallet/deposits", json={"amount": "3 ROS"}, headers=key).status_code == 409
        problem(http.post("/v1/wallet/deposits", json={"amount": "2 ROS"}), 400)
        back = {"Idempotency-Key": "back-1"}
        for _ in range(2):
            http.post("/v1/wallet/withdrawals", json={"amount": "1 ROS"}, headers=back).raise_for_status()
        assert deposited(http) - before == ROS
        actions = [one["action"] for one in http.get("/v1/audit", params={"limit": 500}).json()["data"]]
        assert {"wallet.deposit", "wallet.withdraw"} <= set(actions)


def test_nobody_else_has_the_networks_wallet(network: Door) -> None:
    made = user(network, "greedy")
    with network.client() as http:
        before = deposited(http)
    with network.client(made["token"]) as http:
        for path in ("/v1/wallet/deposits", "/v1/wallet/withdrawals"):
            refused = http.post(path, json={"amount": "1 ROS"}, headers={"Idempotency-Key": path})
            assert "first admin" in problem(refused, 403)["detail"]
        problem(http.post("/v1/wallet/withdrawals/finish", headers={"Idempotency-Key": "f"}), 403)
    with network.client() as http:
        assert deposited(http) == before


def test_what_concerns_all_is_for_admins_of_the_network(network: Door) -> None:
    made = user(network, "curious-too")
    with network.client(made["token"]) as http:
        done = http.post("/v1/completions", json={"model": "demo", "prompt": "It was", "max_tokens": 2}).json()
        usage = http.get("/v1/usage", params={"request_id": done["id"].removeprefix("cmpl-")}).json()["data"]
        mine = usage[0]["usage_id"]
        for method, path, body in (
            ("POST", "/v1/settlement", None),
            ("POST", "/v1/payouts", {}),
            ("GET", "/v1/reconciliation", None),
            ("PUT", f"/v1/usage/{mine}/refund", {"reason": "mine"}),
        ):
            problem(http.request(method, path, json=body), 403)
        owner = http.get(f"/v1/usage/{mine}/proof").json()["usage"]["owner"]
        problem(http.get("/v1/earnings"), 404)
        problem(http.get("/v1/earnings", params={"owner": owner}), 404)
        problem(http.get("/v1/earnings/lines", params={"owner": owner}), 404)
        problem(http.post("/v1/earnings/claims", json={"owner": owner}), 404)
    with network.client() as http:
        http.post("/v1/settlement").raise_for_status()
        assert int(http.get("/v1/earnings", params={"owner": owner}).json()["earned_wei"]) > 0
        proof = http.get(f"/v1/usage/{mine}/proof").json()
        assert proof["verified"]
        assert proof["export"]["account"] == owner
    with network.client(made["token"]) as http:
        own = http.get(f"/v1/usage/{mine}/proof").json()
        assert own["verified"]
        assert own["export"] is None, "it names other users' requests"
        assert http.get("/v1/deployments/demo/placement").json()["trunk_pid"] is None
        foreign = http.get("/v1/usage/none/proof")
        assert problem(foreign, 409)["type"] == "urn:rios:error:NotProvable"
