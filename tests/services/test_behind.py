"""The amounts of a panel and what it shows behind them are the same to the wei, refunds and attempts included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rios.services.desk import Desk
from rios.services.purse import Purse
from rios.words.errors import NotFound
from tests.services.earning import earn, owner, purse_of

PAGE = b"<p>a report</p>"


@pytest.fixture(scope="module")
def purse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Purse]:
    """A purse that has paid for two generations, and for two attempts at a report."""
    with purse_of(home=tmp_path_factory.mktemp("behind")) as found:
        for name, wei in (("one", 700), ("two", 90), ("report-x:1", 8), ("report-x:2", 6), ("report-y:1", 5)):
            earn(found, name, {owner(1): wei})
        yield found


@pytest.fixture(scope="module")
def desk(purse: Purse) -> Iterator[Desk]:
    """A panel of it, with a report that was tried twice."""

    def file(run_id: str, kind: str) -> bytes:
        if (run_id, kind) != ("report-x", "html"):
            raise NotFound("there is none")
        return PAGE

    history = [SimpleNamespace(attempt=2), SimpleNamespace(attempt=1)]
    reports = SimpleNamespace(history=lambda *, run_id: history if run_id == "report-x" else [], file=file)
    net: Any = SimpleNamespace(billing=purse.billing, earnings=purse.earnings.of(owner(1)), reports=reports)
    found = Desk(lambda: net, kind="local")
    yield found
    found.close()


def _behind(desk: Desk, **given: str) -> dict[str, Any]:
    status, found = desk.ask("GET", "usage", given)
    assert status == 200, found
    return dict(found)


@pytest.mark.parametrize(
    ("given", "amounts"),
    [
        ({}, [5, 6, 8, 90, 700]),
        ({"job": "one"}, [700]),
        ({"request_id": "two"}, [90]),
        ({"job": "report-x"}, [6, 8]),
        ({"job": "report-none"}, []),
        ({"job": "app-none"}, []),
    ],
)
def test_each_job_has_its_own_usage(desk: Desk, given: dict[str, str], amounts: list[int]) -> None:
    found = _behind(desk, **given)
    assert sorted(int(row["amount_wei"]) for row in found["rows"]) == amounts
    assert (found["count"], found["total_wei"], found["refunded_wei"]) == (len(amounts), str(sum(amounts)), "0")


def test_what_was_given_back_is_taken_off_as_in_the_amount(desk: Desk, purse: Purse) -> None:
    (record,) = _behind(desk, job="two")["rows"]
    purse.billing.refund(record["usage_id"], "a test", amount="30 wei")
    found = _behind(desk, job="two")
    assert (found["total_wei"], found["refunded_wei"]) == ("60", "30")
    spend = desk.panel.section("spend")["data"]
    today = _behind(desk, since=spend["days"][-1]["day"])
    assert today["total_wei"] == spend["today_wei"] == "779"
    assert today["refunded_wei"] == "30"


def test_a_budget_says_since_when_its_usage_counts(desk: Desk, purse: Purse) -> None:
    for period in ("day", "total"):
        purse.billing.budget("1 ROS", period=period)
    budgets = {one["period"]: one for one in desk.panel.section("spend")["data"]["budgets"]}
    assert budgets["total"]["since"] == ""
    assert _behind(desk, since=budgets["day"]["since"])["count"] == 5


def test_what_was_earned_is_shown_by_what_it_was_for(desk: Desk) -> None:
    status, found = desk.ask("GET", "earned", {})
    assert status == 200
    assert sum(int(line["wei"]) for line in found["lines"]) == 809
    assert {line["worker"] for line in found["lines"]} == {f"worker-of-{owner(1)}"}


def test_a_file_comes_under_rules_that_keep_its_scripts_off_this_address(desk: Desk) -> None:
    status, content, headers = desk.file({"id": "report-x"})
    assert (status, content) == (200, PAGE)
    assert headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")
    assert headers["Content-Disposition"].startswith("attachment")
    for given, wanted in (({"id": "report-y"}, 404), ({"id": "one"}, 404), ({}, 400)):
        status, content, headers = desk.file(given)
        assert status == wanted
        assert headers["Content-Type"] == "application/json"
        assert json.loads(content)["detail"]
