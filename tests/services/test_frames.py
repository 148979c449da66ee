"""Amounts in frames are exact at both ends of what there can be, beside gaps too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rios.services.billing import USAGE_COLUMNS, Costs, usage_frame
from rios.services.wallet import earnings_frame

# The least, the most there can ever be, and what no machine's integers and floats hold.
AMOUNTS = (1, 10**27, 2**53 + 1, 2**63 - 1, 2**63, 2**64 + 1, -(2**63) - 1, 0)


def of_usage(amounts: tuple[int, ...]) -> list[Any]:
    rows = [tuple(amount if name == "amount_wei" else None for name in USAGE_COLUMNS) for amount in amounts]
    return list(usage_frame(rows)["amount_wei"])


def of_costs(amounts: tuple[int, ...]) -> list[Any]:
    return list(Costs("worker", {f"w{number}": amount for number, amount in enumerate(amounts)}).to_frame()["wei"])


def of_earnings(amounts: tuple[int, ...]) -> list[Any]:
    return list(earnings_frame({("w", "m", str(n)): amount for n, amount in enumerate(amounts)})["wei"])


@pytest.mark.parametrize("framed", [of_usage, of_costs, of_earnings])
@pytest.mark.parametrize("amounts", [AMOUNTS[:1], AMOUNTS[1:2], AMOUNTS[:2], AMOUNTS, ()], ids=str)
def test_amounts_stay_ints(framed: Callable[[tuple[int, ...]], list[Any]], amounts: tuple[int, ...]) -> None:
    found = framed(amounts)
    assert found == list(amounts)
    assert all(type(amount) is int for amount in found)


@pytest.mark.parametrize("epochs", [(1, None), (None, 1), (None, None), (1, 2), (None,), ()], ids=str)
def test_use_that_is_not_settled_has_no_epoch(epochs: tuple[int | None, ...]) -> None:
    values = {"epoch": None, "quantity": 2**63, "amount_wei": 1}
    rows = [tuple({**values, "epoch": epoch}.get(name) for name in USAGE_COLUMNS) for epoch in epochs]
    frame = usage_frame(rows)
    assert list(frame["epoch"]) == list(epochs)
    assert [type(epoch) for epoch in frame["epoch"]] == [type(epoch) for epoch in epochs]
    assert all(type(quantity) is int for quantity in frame["quantity"])
    json.dumps(frame.to_dict(orient="records"), allow_nan=False)
