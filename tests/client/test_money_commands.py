"""The commands about money where RIOS_URL names a gateway: they are about its money, whatever home there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import Both
from tests.client.test_commands import call

PROMPT = "It was a fine morning,"
ROS = 10**18


@pytest.fixture(scope="module")
def there(both: Both) -> dict[str, str]:
    """Who talks to the gateway, with a model that something was used of."""
    with both.connect() as network:
        network.dmoe.deploy("demo", name="paid", dtype="float32", progress=False)
        network.dmoe.model("paid").generate(PROMPT, max_new_tokens=3)
    return {"RIOS_URL": both.url, "RIOS_TOKEN": both.token}


def test_a_gateways_money_is_meant(both: Both, there: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"

    def said(*arguments: str) -> Any:
        return json.loads(call(*arguments, "--json", home=home, **there))

    before = both.local.wallet.balance.deposited_wei
    assert said("wallet")["deposited_wei"] == str(before)
    assert said("wallet", "deposit", "3 ROS")["deposited_wei"] == str(before + 3 * ROS)
    assert both.local.wallet.balance.deposited_wei == before + 3 * ROS
    row = said("usage")[-1]
    assert row["model"] == "paid"
    assert int(said("costs")["paid"]) > 0
    assert said("settle")["root"].startswith("0x")
    written = call("export", row["usage_id"], str(tmp_path / "proof.json"), home=home, **there)
    assert json.loads((tmp_path / "proof.json").read_text())["settlement"] in written
    assert said("price-book")["version"] == both.local.billing.price_book.version
    assert int(said("invoice", row["time"][:7])["total_wei"]) > 0
    assert int(said("refund", row["usage_id"], "slow", "--amount", "1 wei")["amount_wei"]) == 1
    assert said("claim", both.local.wallet.address)["address"] == both.local.wallet.address
    assert not home.exists(), "nothing of it was about this home"


def test_a_gateways_models_are_shown(there: dict[str, str], tmp_path: Path) -> None:
    rows = json.loads(call("models", "--json", home=tmp_path, **there))
    (paid,) = (row for row in rows if row["model"] == "paid")
    assert paid["experts"] > 0
    assert paid["hosts"]
