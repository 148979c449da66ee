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

from tests.lab.browser import LOAD_MS, command, execute, notebook, open_lab, run_all, said, shot, violations
from tests.lab.jupyter import Jupyter, jupyter
from tests.waiting import until

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
    # In the browser's own English it would be 07:52 AM.
    expect(network).to_have_text(re.compile(r"dieser Server · \d\d:\d\d$"), timeout=LOAD_MS)
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


# A generation that has ended, one that was cancelled, an application that fails, and a widget of each kind.
MADE = """
import json, pathlib, rios
net = rios.local(workers=1)
model = net.dmoe.deploy("demo", progress=False)
model.generate("It was a fine morning,", max_new_tokens=4)
widget = model.widget()
widget.prompt, widget.params = "Once upon a time", {"max_new_tokens": 10**6}
widget
"""
APP = """
app = net.deploy.create(name="kaputt", command=["false"], restart="never", resources={"cpu": 0.1, "memory": "64MiB"})
pathlib.Path("deployed").write_text("1")
app.widget()
"""
PANEL = """
pathlib.Path("shown.json").write_text("{}")
net.widget("hosts")
"""
STATES = ("failed", "done", "running", "queued", "serving", "lost", "stopped", "ready", "trunk", "stand-by")


@pytest.fixture(scope="module")
def worked(page: Page, german: Jupyter) -> Page:
    """Lab with a notebook that made a network of its own, and widgets of it."""
    run_all(page, notebook(german, "deutsch.ipynb", MADE, APP, PANEL))
    said(german, "shown.json")
    networks = page.get_by_label("Netz", exact=True)
    own = networks.locator("option").filter(has_text="deutsch.ipynb")
    expect(own).to_have_count(1, timeout=LOAD_MS)
    networks.select_option(own.get_attribute("value"))
    return page


def english(text: str) -> list[str]:
    """Names of states that nobody translated."""
    return [state for state in STATES if re.search(rf"(?<![\w.-]){state}(?![\w.-])", text)]


def test_states_are_german_in_the_panel(worked: Page) -> None:
    command(worked, "rios:jobs")
    jobs = worked.locator("#rios-sidebar .rios-jobs")
    expect(jobs).to_contain_text("kaputt", timeout=LOAD_MS)
    expect(jobs.get_by_role("img", name="fertig")).not_to_have_count(0, timeout=LOAD_MS)
    expect(jobs.get_by_role("img", name="fehlgeschlagen")).not_to_have_count(0, timeout=LOAD_MS)
    jobs.get_by_label("Gruppen").select_option("state")
    expect(jobs.locator(".rios-heading")).to_contain_text(["fertig", "fehlgeschlagen"])
    jobs.get_by_label("Gruppen").select_option("kind")
    expect(jobs.locator(".rios-heading")).to_contain_text(["Bereitstellung", "Erzeugung"])
    jobs.get_by_label("Gruppen").select_option("none")
    assert english(jobs.inner_text()) == []
    command(worked, "rios:hosts")
    hosts = worked.locator("#rios-sidebar .rios-hosts")
    expect(hosts).to_contain_text("bereit", timeout=LOAD_MS)
    hosts.get_by_role("button", name="demo").click()
    expect(hosts.locator(".rios-placement")).to_contain_text("Stamm · bereit")
    assert english(re.sub(r"(?s)<p class=.rios-explain.*", "", hosts.inner_html())) == []


def test_what_a_server_says_is_under_a_german_heading(worked: Page) -> None:
    command(worked, "rios:jobs")
    worked.get_by_role("option").filter(has_text="kaputt").click()
    detail = worked.locator("#rios-sidebar .rios-detail")
    why = detail.locator(".rios-outage")
    expect(why.locator("b")).to_have_text("Was schiefging")
    expect(why.locator("[lang=en]")).not_to_be_empty()
    shot(worked, "german-detail")
    detail.get_by_role("button", name="Alle Aufträge").click()


def test_widgets_speak_the_language_of_lab(worked: Page) -> None:
    generation = worked.locator(".jp-Notebook .rios-generation")
    expect(generation.get_by_role("button", name="Erzeugen")).to_be_visible(timeout=LOAD_MS)
    generation.get_by_role("button", name="Erzeugen").click()
    refused = generation.locator(".rios-outage")
    expect(refused.locator("b")).to_have_text("Abgelehnt")
    expect(refused.locator("[lang=en]")).to_contain_text("exceed the context")
    generation.get_by_label("Token", exact=True).fill("8")
    generation.get_by_role("button", name="Erzeugen").click()
    expect(generation.locator(".rios-figures")).to_contain_text("fertig · 8 von 8 Token", timeout=LOAD_MS)
    expect(generation.locator("li")).to_contain_text("Stamm")
    app = worked.locator(".jp-Notebook .rios-deployment")
    expect(app).to_contain_text("fehlgeschlagen", timeout=LOAD_MS)
    expect(app.locator(".rios-outage b")).to_have_text("Was schiefging")
    line = app.locator(".rios-line").filter(has_text="Eigentümer")

    def tops() -> list[float]:  # nothing while the view is drawn anew, for its saved copy changed
        boxes = [line.locator(one).bounding_box() for one in ("dt", "dd") if line.count()]
        return [box["y"] for box in boxes if box is not None]

    until(lambda: len(tops()) == 2, "the line of the owner", deadline_s=30, pause_s=0.2)
    dt, dd = tops()
    assert abs(dt - dd) < 8, "what is said of a thing stands beside its name"
    panel = worked.locator(".jp-Notebook .rios-columns")
    expect(panel).to_contain_text("bereit", timeout=LOAD_MS)
    for widget in (generation, panel):
        assert english(widget.inner_text()) == []
    panel.scroll_into_view_if_needed()
    shot(worked, "german-widgets")


def test_a_kernel_that_has_ended_is_told_of_in_german(worked: Page) -> None:
    """Nobody is there to translate for: these words are the panel's own."""
    execute(worked, "import os; os.kill(os.getpid(), 9)", wait=False)
    network = worked.locator(".rios-view-network")
    expect(network.locator("[role=alert] b")).to_contain_text(re.compile("Veraltet|Keine Antwort"), timeout=LOAD_MS)
