"""Chromium, as a user of JupyterLab has it: the page, and what the tests do in it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.campaigns import ROOT
from tests.lab.jupyter import Jupyter
from tests.waiting import until

LOAD_MS = 120_000
ACT_MS = 60_000
"""On a busy machine; nothing here measures."""
expect.set_options(timeout=ACT_MS)
SHOTS = ROOT / ".make" / "shots"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


class Workplace(Protocol):
    """A user's folder of notebooks, as its Jupyter Server shows it."""

    work: Path


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser for as long as the block runs."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is not installed: make system"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_lab(
    browser: Any,
    server: Jupyter,
    *,
    path: str = "/lab",
    token: bool = True,
    heard: list[str] | None = None,
    **options: Any,
) -> Page:
    """A page with JupyterLab ready in it, in a context of its own: cookies are not shared.

    heard: takes all that comes to it from then on, as of `hear`.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page: Page = context.new_page()
    if heard is not None:
        hear(page, heard)
    page.set_default_timeout(ACT_MS)
    page.goto(f"{server.url}{path}{f'?token={server.token}' if token else ''}", timeout=LOAD_MS)
    ready(page)
    return page


def hear(page: Page, heard: list[str]) -> None:
    """Keep what comes to a page: each frame of its sockets, with its address, and each answer of the server half."""

    def opened(socket: Any) -> None:
        socket.on("framereceived", lambda frame: heard.append(f"{socket.url} {frame!s}"))

    def answered(response: Any) -> None:
        if "/rios/" in response.url:
            with contextlib.suppress(PlaywrightError):  # of a page that was left meanwhile
                heard.append(f"{response.url} {response.headers} {response.text()}")

    page.on("websocket", opened)
    page.on("response", answered)


def ready(page: Page) -> None:
    """Wait until Lab is there, and the sidebar with it."""
    page.wait_for_selector("#jp-main-dock-panel", timeout=LOAD_MS)
    page.wait_for_function("window.jupyterapp?.commands?.hasCommand('rios:wallet')", timeout=LOAD_MS)
    page.evaluate("window.jupyterapp.restored")


def command(page: Page, name: str, **args: Any) -> None:
    """Execute a command of Lab, without waiting for its end."""
    page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, args])


def notebook(server: Workplace, name: str, *cells: str) -> str:
    """A notebook with these cells in the server's folder; its path there."""
    made = [
        {"cell_type": "code", "id": f"c{place}", "source": cell, "metadata": {}, "outputs": [], "execution_count": None}
        for place, cell in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    said = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (server.work / name).write_text(json.dumps(said))
    return name


def run_all(page: Page, path: str) -> None:
    """Open a notebook and start all of its cells."""
    page.evaluate(
        """async path => {
            const app = window.jupyterapp;
            const widget = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
            await widget.context.ready;
            await widget.context.sessionContext.ready;
            app.commands.execute('notebook:run-all-cells');
        }""",
        path,
    )


def said(server: Workplace, name: str, deadline_s: float = 120.0) -> dict[str, Any]:
    """What a notebook wrote into a JSON file beside it."""
    file = server.work / name
    until(file.exists, f"{name} written by the notebook", deadline_s=deadline_s, pause_s=0.1)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def shot(page: Page, name: str) -> Path:
    """Keep a picture."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path)
    return path


def execute(page: Page, code: str, *, wait: bool = True) -> dict[str, Any]:
    """Execute code in the kernel of the notebook in front, once it has one; what it replied, where it is waited for."""
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.context?.sessionContext", timeout=LOAD_MS)
    found: dict[str, Any] = page.evaluate(
        """async ([code, wait]) => {
            const { sessionContext } = window.jupyterapp.shell.currentWidget.context;
            await sessionContext.ready;
            const future = sessionContext.session.kernel.requestExecute({code});
            if (!wait) { return {}; }
            const reply = await future.done;
            return reply.content;
        }""",
        [code, wait],
    )
    assert not wait or found["status"] == "ok", found
    return found


def kept(page: Page, text: str) -> None:
    """Wait until Lab has written of its state what it shows again after a reload, which it does with a delay."""
    state = "async () => JSON.stringify(await window.jupyterapp.serviceManager.workspaces.list())"
    until(lambda: text in str(page.evaluate(state)), f"{text} in Lab's state", deadline_s=60, pause_s=0.2)


def ten_thousand_jobs(page: Page) -> None:
    """Have the network of the notebook in front, whose name is `net`, know so many, and wait until they are listed."""
    execute(
        page,
        """import dataclasses
entries = net.jobs._entries
one = next(entry for entry in entries.values() if entry.view.state == 'done')
with net.jobs._changed:
    for number in range(10_000 - len(entries)):
        view = dataclasses.replace(one.view, id=f'{number:032x}', name=f'needle-{number}', started_at=1e9 + number)
        net.jobs._version += 1
        entries[view.id] = dataclasses.replace(one, view=view, touched=net.jobs._version)
    net.jobs._changed.notify_all()""",
    )
    expect(page.locator(".rios-count")).to_contain_text(re.compile(r"(1000\d) of \1"), timeout=LOAD_MS)


def scrolled(jobs: Locator) -> float:
    """Scroll through all rows and back: the median of milliseconds until a step is drawn. None of them is empty."""
    steps: list[float] = jobs.evaluate(
        """async list => {
            const drawn = () => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
            const all = [];
            for (const place of [...Array(20).keys(), ...Array(20).keys()].map((n, at) => at < 20 ? n : 19 - n)) {
                const begun = performance.now();
                list.scrollTop = (list.scrollHeight * place) / 20;
                await drawn();
                all.push(performance.now() - begun);
                const box = list.getBoundingClientRect();
                const there = document.elementFromPoint(box.x + box.width / 3, box.y + box.height / 2);
                if (!there?.closest('[role=option]')) { throw new Error(`nothing is drawn at ${list.scrollTop}`); }
            }
            return all;
        }"""
    )
    return sorted(steps)[len(steps) // 2]


def violations(page: Page, *selectors: str) -> list[str]:
    """What axe finds wrong within these elements: rule and place."""
    if not page.evaluate("typeof window.axe === 'object'"):
        page.evaluate((ROOT / "extension" / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate(
        """async selectors => {
            const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'];
            const rules = {region: {enabled: false}};
            const result = await axe.run({include: selectors}, {runOnly: {type: 'tag', values: tags}, rules});
            return result.violations.flatMap(one => one.nodes.map(
                node => `${one.id}: ${node.target.join(' ')}: ${node.failureSummary}`));
        }""",
        list(selectors),
    )
    return [str(one) for one in found]
