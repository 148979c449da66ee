"""The sidebar as a user sees it: where its rows, amounts, logs and dialogs are, and how its deeds are done."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.campaigns import ROOT
from tests.lab.browser import LOAD_MS, command

MADE = """
import json, pathlib, time, rios
net = rios.local(workers=2)
model = net.dmoe.deploy("demo", progress=False)
def write(name, **said):
    part = pathlib.Path(name + ".part")
    part.write_text(json.dumps(said))
    part.rename(name)
answer = model.generate("It was a fine morning,", max_new_tokens=24, seed=1)
rows = net.billing.usage(request_id=answer.request_id)
write("first.json", id=answer.request_id, wei=str(sum(rows.amount_wei)), tokens=len(answer.token_ids),
      available=str(net.wallet.available), address=net.wallet.address, text=answer.text)
"""

WIDGET = """
widget = model.widget()
widget.prompt, widget.params = "Once upon a time", {"max_new_tokens": 60}
widget
"""
"""Cells of a notebook that makes a network and generates once, and shows a widget."""


HOLD = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.holding import held_after
hold = held_after(5)
hold.__enter__()
"""
LET_GO = "hold.__exit__(None, None, None)"
"""Between them no generation of the notebook's process gets further than its first tokens, unless it is ended."""


def row_of(page: Page, request_id: str) -> Locator:
    """The row of a job."""
    return page.get_by_role("option").filter(has_text=request_id[:8])


def wallet_of(page: Page) -> Locator:
    """The wallet's section."""
    return page.locator(".rios-view-wallet")


def log_of(page: Page) -> Locator:
    """The log of the job that is open in the panel; a widget of the notebook has one too."""
    return page.locator(".rios-detail").get_by_role("log")


def line(page: Page, label: str) -> Locator:
    """The amount in a line of the wallet."""
    return wallet_of(page).locator(".rios-line").filter(has=page.get_by_text(label, exact=True)).locator("[data-wei]")


def deed(page: Page, name: str, amount: str | None = None) -> Locator:
    """A deed of the wallet as a user does it: its command, what will happen, yes; the dialog that says it is done."""
    dialog = page.get_by_role("dialog", name=name)
    if amount is not None:
        dialog.get_by_role("textbox").fill(amount)
        dialog.get_by_role("button", name="What will happen").click()
    dialog.get_by_role("button", name=name).click()
    expect(dialog.get_by_role("status")).to_contain_text("Done", timeout=LOAD_MS)
    return dialog


def closed(dialog: Locator) -> None:
    """Close a dialog by its own button."""
    dialog.get_by_role("button", name="Close").last.click()
    expect(dialog).to_have_count(0)


def notifications(page: Page) -> Locator:
    """Lab's list of what it has told, unfolded."""
    command(page, "apputils:display-notifications")
    expect(page.locator(".jp-Notification-Center")).to_be_visible()
    return page.locator(".jp-Notification-List li")
