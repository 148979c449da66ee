"""The panels in a real JupyterLab and a real browser, with a network that a notebook made, workers, and money."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.lab.browser import command, notebook, open_lab, run_all, said, shot
from tests.lab.jupyter import Jupyter

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


@pytest.fixture(scope="module")
def page(browser: Any, server: Jupyter) -> Page:
    """Lab, with a notebook that made a network and generated once."""
    page = open_lab(browser, server)
    command(page, "rios:jobs")
    shot(page, "empty")
    run_all(page, notebook(server, "first.ipynb", MADE))
    return page


def test_a_generation_in_a_kernel_shows_with_its_cost(page: Page, server: Jupyter) -> None:
    found = said(server, "first.json")
    row = page.get_by_role("option").filter(has_text=found["id"][:8])
    expect(row).to_be_visible()
    expect(row).to_contain_text(f"{found['tokens']}/24 tokens")
    expect(row.locator(".rios-cost [data-wei]")).to_have_attribute("data-wei", found["wei"])
    shot(page, "first")
    wallet = page.locator(".rios-view-wallet")
    expect(wallet.locator(f"[data-wei='{found['available']}']")).to_be_visible()
    expect(wallet).to_contain_text(found["address"][:6])
