"""Money in the sidebar of a real JupyterLab: each deed of the wallet, and what is behind each of its amounts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.campaigns import ROOT
from tests.lab.browser import LOAD_MS, command, execute, said, shot, violations
from tests.lab.jupyter import Jupyter
from tests.lab.sidebar import closed, deed, line, wallet_of

# Used before this network was there, as a ledger of some age has it.
EARLIER = f"""
import datetime, random, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.reports import ledgers
now = datetime.datetime.now(datetime.UTC)
paid = {{}}
for days in (3, 17, 29):
    at = now - datetime.timedelta(days=days)
    some = [one for one in ledgers.charges(f"r{{days}}", 1, random.Random(days)) if one.record.resource == "tokens_out"]
    paid[at.date().isoformat()] = str(
        ledgers.use(net._purse.books.ledger, f"r{{days}}", "local", some, at=int(at.timestamp() * 1e6)))
write("paid.json", **paid)
"""

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]


def test_a_deposit_is_shown_asked_for_once_and_done_once(page: Page, server: Jupyter, first: dict[str, Any]) -> None:
    command(page, "rios:deposit")
    dialog = page.get_by_role("dialog", name="Deposit")
    dialog.get_by_label("Amount in ROS").fill("1.5e3")
    dialog.get_by_role("button", name="What will happen").click()
    expect(dialog.get_by_role("alert")).to_contain_text("is not an amount")
    dialog.get_by_label("Amount in ROS").fill("25.000000000000000001")
    dialog.get_by_role("button", name="What will happen").click()
    row = dialog.get_by_role("row").filter(has_text="Deposited")
    expect(row).to_contain_text("25.000000000000000001 ROS")
    assert not violations(page, ".rios-dialog")
    shot(page, "deposit")
    dialog.get_by_role("button", name="Deposit").dblclick()
    expect(dialog.get_by_role("status")).to_contain_text("has moved", timeout=LOAD_MS)
    dialog.get_by_role("button", name="Close").last.click()
    expect(line(page, "Deposited")).to_have_attribute("data-wei", "25000000000000000001")
    execute(page, "write('money.json', on_chain=str(net.wallet.on_chain), deposited=str(net.wallet.deposited))")
    money = said(server, "money.json")
    assert money["deposited"] == "25000000000000000001"
    expect(line(page, "On chain")).to_have_attribute("data-wei", money["on_chain"])


def test_a_budget_and_the_usage_behind_an_amount_with_its_proof(page: Page, first: dict[str, Any]) -> None:
    command(page, "rios:budget")
    dialog = page.get_by_role("dialog", name="Set a budget")
    dialog.get_by_label("Limit in ROS").fill("3")
    dialog.get_by_role("button", name="What will happen").click()
    expect(dialog).to_contain_text("refused before they start")
    dialog.get_by_role("button", name="Set a budget").click()
    dialog.get_by_role("button", name="Close").last.click()
    expect(wallet_of(page).get_by_role("meter", name=re.compile("Budget a month"))).to_be_visible()
    execute(page, "assert net.billing.budgets[0].limit_wei == 3 * 10**18; net.billing.settle()")
    line(page, "Today").click()
    dialog = page.get_by_role("dialog", name="Used today")
    expect(dialog).to_contain_text("records, together")
    dialog.get_by_role("button", name=re.compile("^Prove")).last.click()
    expect(dialog).to_contain_text("Every link that exists holds.", timeout=LOAD_MS)
    shot(page, "proof")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_withdrawing_settling_claiming_and_a_budget_taken_away(page: Page, first: dict[str, Any]) -> None:
    execute(page, "model.generate('And', max_new_tokens=4)")
    command(page, "rios:withdraw")
    closed(deed(page, "Withdraw", "5"))
    expect(line(page, "Deposited")).to_have_attribute("data-wei", re.compile(r"^(19|20)\d{18}$"))
    # An embedded chain has no delay; where there is one, a withdrawal waits, as this one that was only asked for.
    execute(
        page,
        "s = net._purse.settlement; s.chain.as_wallet('asked', 'RiosEscrow', 'requestWithdrawal', 10**18); s.sync()",
    )
    wallet_of(page).get_by_role("button", name="Finish the withdrawal").click()
    closed(deed(page, "Finish the withdrawal"))
    expect(wallet_of(page).get_by_role("button", name="Finish the withdrawal")).to_have_count(0)
    execute(page, "assert net.wallet.balance.withdrawing_wei == 0")
    wallet_of(page).get_by_role("button", name="Settle").click()
    closed(deed(page, "Settle"))
    before = line(page, "Claimed").get_attribute("data-wei")
    wallet_of(page).get_by_role("button", name="Claim earnings").click()
    dialog = deed(page, "Claim earnings")
    expect(dialog.get_by_role("status")).to_contain_text("ROS were paid")
    closed(dialog)
    expect(line(page, "Claimed")).not_to_have_attribute("data-wei", before or "")
    expect(line(page, "Claimable")).to_have_attribute("data-wei", "0")
    command(page, "rios:budget")
    closed(deed(page, "Set a budget", ""))
    expect(wallet_of(page).get_by_role("meter", name=re.compile("Budget a month"))).to_have_count(0)
    execute(page, "assert not net.billing.budgets; assert net.billing.reconcile().sound")


def test_what_is_behind_what_is_available_held_and_earned(page: Page, first: dict[str, Any]) -> None:
    for label, title, text in (
        ("Available", "Used in the last 30 days", "records, together"),
        ("Held", "Held for what goes on", "Nothing goes on|demo"),
        ("In all", "Earned by own workers", "worker-0"),
    ):
        line(page, label).click()
        dialog = page.get_by_role("dialog", name=title)
        expect(dialog).to_contain_text(re.compile(text))
        closed(dialog)


def test_on_a_slow_network_what_is_asked_for_says_so_and_the_rest_stays(page: Page, first: dict[str, Any]) -> None:
    held: list[Route] = []
    free: list[bool] = []
    page.route("**/rios/networks/**", lambda route: route.continue_() if free else held.append(route))
    command(page, "rios:refresh")
    line(page, "Today").click()
    dialog = page.get_by_role("dialog", name="Used today")
    expect(dialog.get_by_role("status")).to_have_text("Looking …")
    expect(line(page, "Available")).to_have_attribute("data-wei", re.compile(r"\d+"))
    expect(page.locator(".rios-view-network [role=alert]")).to_have_count(0)
    assert held, "nothing was asked for"
    free.append(True)
    for one in held:
        one.continue_()
    expect(dialog).to_contain_text("records, together")
    closed(dialog)
    page.unroute("**/rios/networks/**")


def test_each_of_the_last_30_days_opens_what_was_used_on_it(page: Page, server: Jupyter, first: dict[str, Any]) -> None:
    chart = wallet_of(page).get_by_role("group", name="Spent on each of the last 30 days")
    days = chart.get_by_role("button")
    expect(days).to_have_count(30)
    execute(page, EARLIER)
    paid = said(server, "paid.json")
    paid[(days.last.get_attribute("aria-label") or "")[:10]] = line(page, "Today").get_attribute("data-wei")
    dialog = page.get_by_role("dialog", name=re.compile(r"^\d{4}-"))
    assert len(paid) == 4
    for day, wei in paid.items():
        bar = chart.get_by_role("button", name=day)
        expect(bar.locator("span")).not_to_have_css("height", "0px")
        bar.click()
        expect(dialog.locator("p [data-wei]").first).to_have_attribute("data-wei", wei)
        closed(dialog)
    days.last.focus()
    page.keyboard.press("ArrowLeft")
    expect(days.nth(28)).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Nothing was used.")
    page.keyboard.press("Escape")
    expect(days.nth(28)).to_be_focused()


def test_the_keyboard_alone_deposits(page: Page, first: dict[str, Any]) -> None:
    before = int(line(page, "Deposited").get_attribute("data-wei") or "")
    page.keyboard.press("Control+Alt+w")
    expect(wallet_of(page).get_by_role("button", name="Copy the address")).to_be_focused()
    button = wallet_of(page).get_by_role("button", name="Deposit")
    for _ in range(10):
        if button.evaluate("node => node === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Deposit")
    expect(dialog.get_by_label("Amount in ROS")).to_be_focused()
    page.keyboard.insert_text("0.25")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Deposit")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("status")).to_contain_text("has moved", timeout=LOAD_MS)
    expect(dialog.get_by_role("button", name="Close").last).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    expect(line(page, "Deposited")).to_have_attribute("data-wei", str(before + 10**18 // 4))
