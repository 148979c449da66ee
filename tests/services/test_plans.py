"""A plan moves money once, also where nobody was told how its deed ended."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rios.services import plans as module
from rios.services.network_chain import NetworkChain
from rios.services.panel import Panel
from rios.services.plans import Plans
from rios.services.purse import Purse
from rios.words.errors import ChainUnavailable, InvalidRequest, NotFound
from rios.words.money import WEI_PER_ROS
from tests.services.earning import purse_of


@pytest.fixture(scope="module")
def purse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Purse]:
    """A wallet of 1000 ROS on an embedded chain."""
    with purse_of(home=tmp_path_factory.mktemp("plans")) as found:
        yield found


@pytest.fixture
def plans(purse: Purse) -> Plans:
    """The plans of a panel of it."""
    net = SimpleNamespace(wallet=purse.wallet, billing=purse.billing, earnings=purse.earnings)
    return Plans(Panel(lambda: net, kind="local"))


@pytest.fixture
def unclear(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While this is not empty, nobody is told that what was sent is in a block."""
    failing = [True]
    send = NetworkChain.as_wallet

    def fails(chain: NetworkChain, key: str, contract: str, function: str, *arguments: Any, **more: Any) -> Any:
        receipt = send(chain, key, contract, function, *arguments, **more)
        if failing and function in ("deposit", "withdraw"):
            raise ChainUnavailable("the node went away after it was sent")
        return receipt

    monkeypatch.setattr(NetworkChain, "as_wallet", fails)
    return failing


def _held(purse: Purse) -> tuple[int, int]:
    purse.settlement.sync()
    return purse.wallet.on_chain, purse.wallet.deposited


def test_a_second_press_after_an_unclear_failure_moves_nothing_twice(
    purse: Purse, plans: Plans, unclear: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chain, deposited = _held(purse)
    for action, wei in (("deposit", 5 * WEI_PER_ROS), ("withdraw", -2 * WEI_PER_ROS)):
        unclear[:] = [True]
        plan = plans.plan(action, {"amount": f"{abs(wei)} wei"})["plan"]
        for _ in range(2):
            with pytest.raises(ChainUnavailable):
                plans.act(plan)
        monkeypatch.setattr(module, "PLAN_S", -1.0)  # what was begun is never too old to be finished
        unclear.clear()
        assert plans.act(plan) == plans.act(plan) == {"plan": plan, "said": "moved"}
        monkeypatch.setattr(module, "PLAN_S", 600.0)
        on_chain, deposited = on_chain - wei, deposited + wei
        assert _held(purse) == (on_chain, deposited), action


def test_an_old_plan_that_was_not_begun_is_not_done(
    purse: Purse, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _held(purse)
    plan = plans.plan("deposit", {"amount": "1 ROS"})["plan"]
    monkeypatch.setattr(module, "PLAN_S", -1.0)
    with pytest.raises(NotFound, match="too long ago"):
        plans.act(plan)
    assert _held(purse) == before


def test_a_plan_that_was_begun_is_not_forgotten_for_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    unclear = [True]

    def deposit(wei: int, *, key: str) -> None:
        if unclear:
            raise ChainUnavailable("the node went away after it was sent")

    net = SimpleNamespace(wallet=SimpleNamespace(on_chain=10, deposited=10, deposit=deposit))
    plans = Plans(Panel(lambda: net, kind="local"))

    def plan() -> str:
        return str(plans.plan("deposit", {"amount": "1 wei"})["plan"])

    begun, looked_at = plan(), plan()
    with pytest.raises(ChainUnavailable):
        plans.act(begun)
    later = [plan() for _ in range(3)]
    unclear.clear()
    assert plans.act(begun)["said"] == "moved"
    with pytest.raises(NotFound):
        plans.act(looked_at)
    assert plans.act(later[-1])["said"] == "moved"
    for _ in range(3):
        plan()
    with pytest.raises(NotFound):  # whoever asked has had the answer
        plans.act(begun)


def test_without_a_withdrawal_there_is_none_to_finish(plans: Plans) -> None:
    with pytest.raises(InvalidRequest, match="no withdrawal waits"):
        plans.plan("finish_withdrawal", {})


def test_a_wallet_is_told_the_plan_as_its_key() -> None:
    """Behind a gateway that is the idempotency key: a request that is sent again is answered as the first."""
    heard: list[tuple[str, str]] = []
    wallet = SimpleNamespace(
        on_chain=10,
        deposited=10,
        balance=SimpleNamespace(withdrawing_wei=4),
        deposit=lambda wei, *, key: heard.append(("deposit", key)),
        withdraw=lambda wei, *, key: heard.append(("withdraw", key)),
        finish_withdrawal=lambda *, key: heard.append(("finish_withdrawal", key)),
    )
    found = Plans(Panel(lambda: SimpleNamespace(wallet=wallet), kind="remote"))
    wanted = []
    for action, given in (
        ("deposit", {"amount": "1 wei"}),
        ("withdraw", {"amount": "1 wei"}),
        ("finish_withdrawal", {}),
    ):
        plan = found.plan(action, given)["plan"]
        found.act(plan)
        wanted.append((action, plan))
    assert heard == wanted
