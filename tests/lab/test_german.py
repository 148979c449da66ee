"""Lab in German: the panel's own texts, its dates and its menu, where a language pack is installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.lab.browser import LOAD_MS, command, open_lab, shot, violations
from tests.lab.jupyter import Jupyter, jupyter

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]

LANGUAGE = "@jupyterlab/translation-extension:plugin"


def language_pack(folder: Path) -> Path:
    """A German for JupyterLab that has no words of its own: Lab offers a language where a pack of it is installed."""
    texts = folder / "german_pack" / "locale" / "de_DE" / "LC_MESSAGES"
    texts.mkdir(parents=True)
    (folder / "german_pack" / "__init__.py").touch()
    head = {"domain": "jupyterlab", "language": "de-DE", "plural_forms": "nplurals=2; plural=(n != 1);"}
    (texts / "jupyterlab.json").write_text(json.dumps({"": head}))
    about = folder / "german_pack-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: german-pack\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[jupyterlab.languagepack]\nde_DE = german_pack\n")
    return folder


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A Jupyter Server whose user chose German."""
    folder = tmp_path_factory.mktemp("german")
    path = os.pathsep.join(filter(None, (str(language_pack(folder / "pack")), os.environ.get("PYTHONPATH"))))
    with jupyter(folder / "lab", environment={**os.environ, "PYTHONPATH": path}) as one:
        chosen = {"raw": json.dumps({"locale": "de_DE"})}
        assert one.ask("PUT", f"/lab/api/settings/{LANGUAGE}", json=chosen).is_success
        yield one


@pytest.fixture(scope="module")
def page(browser: Any, german: Jupyter) -> Iterator[Page]:
    """Lab in a browser whose own language is English."""
    page = open_lab(browser, german, locale="en-US")
    command(page, "rios:jobs")
    yield page
    page.context.close()


def test_the_panel_speaks_german_and_so_do_its_dates(page: Page) -> None:
    empty = page.locator(".rios-empty")
    expect(empty).to_contain_text("Noch kein Netz.")
    assert empty.evaluate("node => getComputedStyle(node).textTransform") == "none", "a text is no title"
    titles = page.locator("#rios-sidebar .jp-AccordionPanel-title")
    expect(titles).to_have_text(["Wallet", "Aufträge", "Worker und Modelle"])
    page.get_by_role("button", name="Hier eines starten").click()
    network = page.get_by_label("Netz", exact=True).locator("option")
    # In the browser's own English it would be 7:52:08 AM.
    expect(network).to_have_text(re.compile(r"dieser Server · \d\d:\d\d:\d\d$"), timeout=LOAD_MS)
    expect(page.locator(".rios-view-wallet")).to_contain_text("Probeguthaben", timeout=LOAD_MS)


def test_a_section_that_is_unfolded_has_room(page: Page) -> None:
    command(page, "rios:hosts")
    hosts = page.locator(".rios-view-hosts")
    expect(hosts).to_contain_text("worker-1", timeout=LOAD_MS)
    page.wait_for_function("document.querySelector('.rios-view-hosts').clientHeight > 150")
    bottom = page.evaluate(
        """() => {
            const [whole, last] = ['#rios-sidebar', '.rios-view-hosts'].map(one => document.querySelector(one));
            return whole.getBoundingClientRect().bottom - last.getBoundingClientRect().bottom;
        }"""
    )
    assert abs(bottom) < 3, "the sections fill the sidebar after its head became lower"
    assert not violations(page, ".rios-view")
    shot(page, "german")


def test_the_menu_and_the_palette_are_german(page: Page) -> None:
    labels = page.evaluate(
        "['rios:wallet', 'rios:deposit', 'rios:budget'].map(id => window.jupyterapp.commands.label(id))"
    )
    assert labels == ["Wallet zeigen", "Einzahlen", "Budget setzen"]
