"""The commands about money, on a home of their own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rios.cli import app
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import RiosError
from rios.words.ids import check_address
from rios.words.money import WEI_PER_ROS

OWNER = check_address("0x" + "a1" * 20)


def run(home: Path | None, *arguments: str, code: int = 0, typed: str | None = None) -> str:
    """What a command prints, on standard output or, where it fails, as its error."""
    settings.cache_clear()
    levels = {name: logging.getLogger(name).level for name in ("rios", "distributed")}
    try:
        place = {"RIOS_HOME": None if home is None else str(home)}
        done = CliRunner().invoke(app, list(arguments), env=place, input=typed)
    finally:
        settings.cache_clear()
        for name, level in levels.items():  # a command is a process; here others come after it
            logging.getLogger(name).setLevel(level)
    assert done.exit_code == code, done.output
    return str(done.exception) if isinstance(done.exception, RiosError) else done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def as_json(home: Path, *arguments: str) -> Any:
    return json.loads(run(home, *arguments, "--json"))


def test_without_a_home_it_says_what_to_do() -> None:
    assert "RIOS_HOME" in run(None, "wallet", code=1)


def test_deposit_and_withdraw(home: Path) -> None:
    assert "1000 ROS" in run(home, "wallet")
    assert as_json(home, "wallet", "deposit", "25 ROS")["deposited_wei"] == str(25 * 10**18)
    assert as_json(home, "wallet", "withdraw", "5 ROS")["on_chain_wei"] == str(980 * 10**18)
    assert as_json(home, "wallet")["withdrawing_wei"] == "0"
    for end in ("finish", "cancel"):
        assert "no withdrawal waits" in run(home, "wallet", end, code=1)
    assert "write" in run(home, "wallet", "deposit", "much", code=1)


def test_generate_settle_prove_verify_claim(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as environment:
        environment.setenv("RIOS_OWNER", OWNER)
        run(home, "generate", "It was a fine morning,", "--max-new-tokens", "3", "--workers", "1")
    rows = as_json(home, "usage")
    total = sum(int(row["amount_wei"]) for row in rows)
    assert as_json(home, "costs") == {"demo": str(total)}
    assert int(as_json(home, "settle")["total_wei"]) == total
    usage_id = rows[0]["usage_id"]
    assert as_json(home, "prove", usage_id)["verified"]
    file = tmp_path / "proof.json"
    said = run(home, "export", usage_id, str(file))
    settlement = json.loads((home / "contracts.json").read_text())["settlement"]
    assert f"--settlement {settlement}" in said
    assert run(home, "verify", str(file)).endswith("\nverified\n")
    assert "NOT verified" in run(home, "verify", str(file), "--settlement", OWNER, code=1)
    monkeypatch.setenv("RIOS_CONTRACTS", str(tmp_path / "nowhere.json"))  # nothing says which is the network's
    assert f"NOT verified yet: it agrees with settlement {settlement}" in run(home, "verify", str(file), code=3)
    unnamed = json.loads(run(home, "verify", str(file), "--json", code=3))
    assert (unnamed["verified"], settlement in unnamed["against"]) == (False, True)
    monkeypatch.delenv("RIOS_CONTRACTS")
    file.write_text(file.read_text().replace(usage_id, usage_id[::-1]))
    assert "NOT verified" in run(home, "verify", str(file), code=1)
    assert as_json(home, "claim")["paid_wei"] == "0"
    assert not as_json(home, "claim", "--all")["paid"]  # it is less than 1 ROS
    paid = as_json(home, "claim", OWNER.lower())
    assert paid["address"] == OWNER
    done = as_json(home, "claim", "--all", "--min", "1 wei")
    assert OWNER not in done["paid"]
    assert int(paid["paid_wei"]) + int(done["total_wei"]) == total
    assert "total" in run(home, "claim", "--all")
    assert as_json(home, "reconcile")["difference_wei"] == "0"
    draft = as_json(home, "invoice", rows[0]["time"][:7])
    assert (draft["number"], draft["total_wei"]) == (None, str(total))
    assert "draft" in run(home, "invoice", rows[0]["time"][:7])
    part = [as_json(home, "refund", usage_id, "slow", "--amount", "1 wei", "--key", key) for key in ("a", "b", "a")]
    assert [note["number"] for note in part] == [1, 2, 1]
    assert int(as_json(home, "refund", usage_id, "wrong model")["amount_wei"]) == int(rows[0]["amount_wei"]) - 2


def test_claims_that_contradict_themselves(home: Path) -> None:
    assert "--all" in run(home, "claim", OWNER, "--all", code=1)
    assert "--min" in run(home, "claim", "--min", "1 ROS", code=1)
    assert "the owner" in run(home, "claim", "0x12", code=1)


def test_votes(home: Path, tmp_path: Path) -> None:
    book = as_json(home, "price-book")
    file = tmp_path / "book.json"
    file.write_text(json.dumps({**book, "version": 1, "minimum_wei": "1000000"}))
    for step, state in (("propose", "pending"), ("vote", "active"), ("execute", "executed")):
        assert as_json(home, "govern", step, str(file))["state"] == state
    assert as_json(home, "price-book")["minimum_wei"] == "1000000"
    change = "payout_min_wei=0.5 ROS"
    for step, state in (("propose", "pending"), ("vote", "active"), ("execute", "executed")):
        found = as_json(home, "govern", step, change)
        assert (found["state"], found["parameter"], found["value"]) == (state, "payout_min_wei", str(WEI_PER_ROS // 2))
    shown = {one["name"]: one for one in as_json(home, "govern", "parameters")}
    assert (shown["payout_min_wei"]["by"], shown["unbonding_delay_s"]["by"]) == ("vote", "fixed")


def test_discounts(home: Path) -> None:
    given = as_json(home, "discount", "research", "--since", "2026-11-01")
    assert (given["discount"], given["user"], given["until"]) == ("research", "local", None)
    ended = as_json(home, "discount", "research", "--since", "2026-11-01", "--until", "2026-11-02")
    assert as_json(home, "discounts") == [ended]


def test_keys_are_for_their_owner_alone(home: Path) -> None:
    files = [path for path in (home / "keys").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"keys", "operator", "wallet"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    with Purse(settings().model_copy(update={"home": home})) as purse:
        assert purse.wallet.address in repr(purse.wallet)
