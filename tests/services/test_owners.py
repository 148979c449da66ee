"""Who is paid: the owner that a worker announces, for as long as its host serves, and the local wallet else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

import rios
from rios import worker
from rios.services.accounting import pinned_terms
from rios.services.deployments import places
from rios.services.owners import Owners
from rios.words.config import settings
from rios.words.errors import BudgetExceeded, InvalidRequest, RiosError
from rios.words.ids import Address, check_address

PROMPT = "It was a fine morning,"
ANN = check_address("0x" + "a1" * 20)
BOB = check_address("0x" + "b2" * 20)
WALLET = check_address("0x" + "c3" * 20)
NOBODY = "0x" + "0" * 40


@pytest.fixture(scope="module")
def net() -> Iterator[rios.Network]:
    """A network of three workers: of Ann, of Bob, and of whoever has the wallet."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RIOS_OWNER", ANN.lower())
        with rios.local(workers=1, threads=1) as net:
            assert net.cluster is not None
            environment.setenv("RIOS_OWNER", BOB)
            net.cluster.add_worker("bobs")
            environment.delenv("RIOS_OWNER")
            environment.setenv("RIOS_ASK_BP", "12000")
            net.cluster.add_worker("ours")
            environment.delenv("RIOS_ASK_BP")
            net.wait_for_workers(3)
            yield net


@pytest.fixture(scope="module")
def model(net: rios.Network) -> Any:
    return net.dmoe.deploy("demo", replicas=1, progress=False)


def owners_of(net: rios.Network) -> dict[str, Address]:
    return {"worker-0": ANN, "bobs": BOB, "ours": net.wallet.address}


def test_each_owner_gets_nine_tenths_of_what_its_workers_did(net: rios.Network, model: Any) -> None:
    answer = model.generate(PROMPT, max_new_tokens=8)
    rows = list(net._purse.books.ledger.usage(request_id=answer.request_id))
    assert {row.worker: row.owner for row in rows if row.worker} == owners_of(net)
    for owner in owners_of(net).values():
        mine = [row for row in rows if row.owner == owner]
        # What is left over where a record's price does not divide by ten is less than a wei.
        assert all(0 <= row.amount_wei * 9 - row.worker_wei * 10 < 10 for row in mine)
        earned = net.earnings.of(owner)
        assert earned.now.earned_wei == sum(row.worker_wei for row in mine) > 0
        assert sum(earned.to_frame().wei) == earned.now.earned_wei
    assert net.earnings.owner == net.wallet.address


def test_a_worker_is_paid_what_it_asks(net: rios.Network, model: Any) -> None:
    """It is pinned at the hold, with the most that anybody asked; who pays sees the highest price before."""
    answer = model.generate(PROMPT, max_new_tokens=8)
    ledger = net._purse.books.ledger
    rows = list(ledger.usage(request_id=answer.request_id))
    asks = {row.worker: row.ask_bp for row in rows}
    assert asks == {"worker-0": 10_000, "bobs": 10_000, "ours": 12_000}
    terms = pinned_terms(ledger, rows[0].hold_id)
    assert (terms.ask_min_bp, terms.ask_max_bp) == (10_000, 12_000)
    prices = {row.worker: Fraction(row.price) for row in rows if row.resource == "expert"}
    assert prices["ours"] * 10 == prices["bobs"] * 12 > 0
    highest = net.billing.estimate(model, prompt_tokens=answer.usage.prompt_tokens, max_new_tokens=8).highest_wei
    with pytest.raises(BudgetExceeded, match=r"ask up to 120 % of the price book's prices.*max_price"):
        model.generate(PROMPT, max_new_tokens=8, max_price=highest - 1)
    again = model.generate(PROMPT, max_new_tokens=8, max_price=highest)
    assert again.token_ids == answer.token_ids


def test_each_owner_is_paid(net: rios.Network, model: Any) -> None:
    model.generate(PROMPT, max_new_tokens=3)
    net.billing.settle()
    chain = net._purse.settlement.chain
    for owner in (ANN, BOB):
        due = net.earnings.of(owner).now.claimable_wei
        assert net.earnings.of(owner).claim() == due > 0
        assert chain.tokens_of(owner) == due
        assert net.earnings.of(owner).now.claimable_wei == 0
    assert net.billing.reconcile().sound


def test_a_host_that_outlives_its_worker_keeps_its_owner(net: rios.Network, model: Any) -> None:
    """A Dask worker that died is announced no more, and its host serves on."""
    membership = net._membership
    os.kill(membership.hosts["bobs"][1]["worker_pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while "bobs" in membership.hosts:
        assert time.monotonic() < deadline
        membership.refresh()
    answer = model.generate(PROMPT, max_new_tokens=3)
    rows = net._purse.books.ledger.usage(request_id=answer.request_id)
    assert {row.worker: row.owner for row in rows if row.worker}["bobs"] == BOB


def test_who_was_paid_for_the_host_of_a_deployment_is_asked_of_the_ledger(
    net: rios.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "paid_before", lambda _store, host: BOB if host == "lost" else None)
    who = net._apps()._owner
    assert (who("lost"), who("never"), who("worker-0")) == (BOB, net.wallet.address, ANN)


@pytest.mark.parametrize(
    ("said", "paid"),
    [(None, WALLET), ("", WALLET), (ANN.lower(), ANN), (ANN, ANN), ("0x12", WALLET), (17, WALLET), (NOBODY, WALLET)],
)
def test_what_a_worker_announces_is_checked(said: object, paid: Address) -> None:
    owners = Owners(lambda: {"a": (None, {"owner": said})}, wallet=lambda: WALLET)
    assert owners("a") == paid
    assert owners("b") == WALLET


@pytest.mark.parametrize(
    ("said", "ask_bp"),
    [
        (None, 10_000),
        (9_000, 9_000),
        (0, 0),
        (-1, 10_000),
        (True, 10_000),
        ("9", 10_000),
        (1.5, 10_000),
        (2**70, 10_000),
    ],
)
def test_what_a_worker_asks_is_checked(said: object, ask_bp: int) -> None:
    hosts: dict[str, tuple[object, dict[str, Any]]] = {"a": (None, {"ask_bp": said})}
    owners = Owners(lambda: hosts, wallet=lambda: WALLET)
    assert (owners.ask_bp("a"), owners.ask_bp("b")) == (ask_bp, 10_000)
    hosts.clear()
    assert owners.ask_bp("a") == ask_bp, "a host that outlives its worker"


def test_who_announces_another_owner_has_that_from_then_on() -> None:
    hosts: dict[str, tuple[object, dict[str, Any]]] = {"a": (None, {"owner": ANN})}
    owners = Owners(lambda: hosts, wallet=lambda: WALLET)
    owners.learn()
    hosts.clear()
    assert owners("a") == ANN
    hosts["a"] = (None, {"owner": BOB})
    assert owners("a") == BOB
    hosts["a"] = (None, {})
    assert owners("a") == WALLET


def test_who_was_paid_last_is_paid_for_a_host_that_was_not_announced_since() -> None:
    hosts: dict[str, tuple[object, dict[str, Any]]] = {"new": (None, {}), "moved": (None, {"owner": BOB})}
    asked: list[str] = []

    def before(name: str) -> Address | None:
        asked.append(name)
        return None if name == "never" else ANN

    owners = Owners(lambda: hosts, wallet=lambda: WALLET, before=before)
    said = {name: owners.lasting(name) for name in ("lost", "never", "new", "moved", "lost", "never")}
    assert said == {"lost": ANN, "never": WALLET, "new": WALLET, "moved": BOB}
    assert asked == ["lost", "never"], "once, and not for whom announces something"
    assert owners("lost") == WALLET
    hosts["lost"] = (None, {"owner": BOB})
    assert owners.lasting("lost") == BOB


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("0x12", "no address"), ("ann", "no address"), ("0xa" + ANN[3:], "checksum"), (NOBODY, "nobody")],
)
def test_a_worker_checks_its_owner(text: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "settings", lambda: settings().model_copy(update={"owner": text}))
    with pytest.raises(InvalidRequest, match=wrong) as error:
        worker._owner()
    assert "RIOS_OWNER" in str(error.value) or wrong == "nobody"


def test_a_worker_with_a_bad_owner_ends_and_says_why() -> None:
    with pytest.raises(RiosError, match="RIOS_OWNER '0x12' is no address"), rios.local(workers=1, owner="0x12"):
        pass
