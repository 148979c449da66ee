"""The panel's pictures in README.md: `python -m tests.lab.pictures` takes them anew, in light and dark."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.campaigns import ROOT
from tests.lab.browser import LOAD_MS, chromium, command, execute, notebook, open_lab, run_all
from tests.lab.jupyter import jupyter
from tests.lab.sidebar import closed, deed

INTO = ROOT / "docs" / "assets"
SIZE = {"width": 1280, "height": 922}
"""The wallet is seen down to what is under its chart."""
SIDEBAR = 0.25
"""Of the width."""
CELLS = (
    """import rios
net = rios.local(workers=2)
model = net.dmoe.deploy("demo", progress=False)
model.generate("It was a fine morning,", max_new_tokens=24, seed=1)""",
    """widget = model.widget()
widget.prompt, widget.params = "Once upon a time", {"max_new_tokens": 60}
widget""",
)
PAST = f"""
import datetime, random, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.reports import ledgers
now, chance = datetime.datetime.now(datetime.UTC), random.Random(5)
for days in range(1, 30):
    at = now - datetime.timedelta(days=days)
    for n in range(1 if at.weekday() > 4 else chance.randrange(2, 6)):
        used = ledgers.charges(f"r{{days}}-{{n}}", 1, chance)
        tokens = [one for one in used if one.record.resource.startswith("tokens")]
        ledgers.use(net._purse.books.ledger, f"r{{days}}-{{n}}", "local", tokens, at=int(at.timestamp() * 1e6))
"""
"""A month of use, so that the chart has something to show."""


def main(into: Path = INTO) -> None:
    """As the module says."""
    with tempfile.TemporaryDirectory() as folder, jupyter(Path(folder)) as server, chromium() as browser:
        page = open_lab(browser, server)
        page.set_viewport_size(SIZE)
        command(page, "rios:jobs")
        run_all(page, notebook(server, "quickstart.ipynb", *CELLS))
        widget = page.locator(".jp-Notebook .rios-generation")
        expect(widget).to_be_visible(timeout=LOAD_MS)
        page.evaluate("share => window.jupyterapp.shell._hsplitPanel.setRelativeSizes([share, 1 - share, 0])", SIDEBAR)
        execute(page, PAST)
        for prompt, tokens in (("And it came to pass", 40), ("In the beginning", 90)):
            execute(page, f"model.generate({prompt!r}, max_new_tokens={tokens})")
        command(page, "rios:deposit")
        closed(deed(page, "Deposit", "25"))
        command(page, "rios:budget")
        closed(deed(page, "Set a budget", "40"))
        widget.get_by_role("button", name="Generate").click()
        expect(widget.locator(".rios-figures")).to_contain_text("60 of 60 tokens")
        execute(page, "job = model.submit('Once upon a time', max_new_tokens=480, ignore_eos=True)")
        expect(page.locator(".Toastify__toast")).to_have_count(0)  # what it tells of would cover the notebook
        for theme in ("Light", "Dark"):
            command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
            page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=f"JupyterLab {theme}")
            page.wait_for_timeout(1_000)  # colours fade
            page.screenshot(path=into / f"panel-{theme.lower()}.png")


if __name__ == "__main__":
    main()
