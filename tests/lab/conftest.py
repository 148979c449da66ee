"""One Jupyter Server for all tests of the panels, a browser for each module; a front end that is stale is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.lab.browser import chromium, command, notebook, open_lab, run_all, said
from tests.lab.jupyter import Jupyter, jupyter
from tests.lab.sidebar import MADE, WIDGET
from tests.reports import notebooks


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium. Not longer than a module: while Playwright runs, this thread has a running event loop."""
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A Jupyter Server of its own."""
    with jupyter(tmp_path_factory.mktemp("jupyter")) as one:
        yield one


@pytest.fixture(scope="module")
def heard() -> list[str]:
    """All that came to the browser: bodies of answers, and frames of sockets."""
    return []


@pytest.fixture(scope="module")
def page(browser: Any, server: Jupyter, heard: list[str]) -> Iterator[Page]:
    """Lab, with a notebook that made a network and generated once."""
    for session in server.ask("GET", "/api/sessions").json():  # those of another module
        server.ask("DELETE", f"/api/sessions/{session['id']}")
    (server.work / "first.json").unlink(missing_ok=True)
    page = open_lab(browser, server, heard=heard, permissions=["clipboard-read", "clipboard-write"])
    command(page, "rios:jobs")
    expect(page.locator(".rios-empty")).to_contain_text("rios.local()")
    for name in ("cost", "small"):  # a folder with a notebook of costs is one of reports
        notebooks.write(server.work / "reports", name, *notebooks.SMALL)
    run_all(page, notebook(server, "first.ipynb", MADE, WIDGET))
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def first(page: Page, server: Jupyter) -> dict[str, Any]:
    """What the notebook says of its first generation."""
    return said(server, "first.json")
