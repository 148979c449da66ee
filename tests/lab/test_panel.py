"""The panels in a real JupyterLab and a real browser, with a network that a notebook made, workers, and money."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.lab.browser import (
    LOAD_MS,
    command,
    execute,
    kept,
    ready,
    said,
    scrolled,
    shot,
    ten_thousand_jobs,
    violations,
)
from tests.lab.jupyter import Jupyter
from tests.lab.sidebar import HOLD, LET_GO, closed, line, log_of, notifications, row_of, wallet_of
from tests.waiting import stop, until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]

COMMANDS = [
    f"rios:{name}"
    for name in (
        "wallet", "jobs", "hosts", "start", "connect", "refresh", "deposit", "withdraw", "settle", "claim", "budget",
        "copy-address",
    )
]  # fmt: skip
FROZEN_MS = 40_000
"""Within this the panel says of what is frozen that it does not answer."""
MISSED = "Error displaying widget: model not found"
"""Where the browser is busy, ipywidgets says so for good of a model that comes when it has just stopped looking: after
two seconds (`get_model` of its manager). With a twelfth of a processor, one reload in six; a further one helps."""
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>'
# A server that writes a line each second, and answers.
APP = """
app = net.deploy.create(
    name="web", port=8000, grace=1, resources={"cpu": 0.2, "memory": "64MiB"},
    command=["python3", "-uc", "import http.server, threading, time\\n"
             "def tick():\\n  while True: print('tick <b>', flush=True); time.sleep(1)\\n"
             "threading.Thread(target=tick, daemon=True).start()\\n"
             "http.server.test(http.server.SimpleHTTPRequestHandler, port=8000, bind='0.0.0.0')"])
app.wait()
"""
# What a button has said since, however short: Lab may be busy with something else for longer.
SEEN = """button => {
    const note = () => { button.dataset.seen = `${button.dataset.seen ?? ''} ${button.textContent}`; };
    new MutationObserver(note).observe(button, {childList: true, characterData: true, subtree: true});
}"""
GPUS = """
import dataclasses
from rios.services import panel
plain = panel.worker_of
gpus = {"worker-0": {"percent": 87, "used_bytes": 60 << 30, "total_bytes": 80 << 30},
        "worker-1": {"error": "NVML was not found"}}
panel.worker_of = lambda worker: plain(dataclasses.replace(worker, gpu=gpus[worker.name]))
"""
SMALL = """
made = net.reports.run("small", "today")
assert made.state == "ok", made
write("report.json", id=made.id, wei=str(made.cost_wei), label=made.label)
"""


def test_a_generation_in_a_kernel_shows_with_its_cost(page: Page, first: dict[str, Any]) -> None:
    row = row_of(page, first["id"])
    expect(row).to_contain_text(f"{first['tokens']}/24 tokens")
    expect(row.locator(".rios-cost [data-wei]")).to_have_attribute("data-wei", first["wei"])
    expect(line(page, "Available")).to_have_attribute("data-wei", first["available"])
    expect(wallet_of(page)).to_contain_text(first["address"][:6])
    expect(line(page, "Today")).to_have_attribute("data-wei", first["wei"])
    shot(page, "light")
    row.click()
    detail = page.locator(".rios-detail")
    expect(detail.locator(".rios-line").filter(has_text="Tokens a second")).to_have_text(re.compile(r"\d\.\d$"))
    expect(detail.locator(".rios-line").filter(has_text="Owner")).to_contain_text("local")
    expect(detail.locator(".rios-line").filter(has_text="Hosts")).to_contain_text("worker-0")
    expect(log_of(page)).to_contain_text(f"It was a fine morning,{first['text']}")
    page.get_by_role("button", name="All jobs").click()


def test_a_job_shows_while_it_runs_and_is_cancelled_from_the_panel(page: Page, first: dict[str, Any]) -> None:
    execute(page, HOLD)
    execute(page, "job = model.submit('Once upon a time', max_new_tokens=450, ignore_eos=True)")
    running = page.get_by_role("option").filter(has=page.get_by_role("img", name="running"), has_text="tokens")
    expect(running).to_be_visible()
    running.click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".rios-detail")).to_contain_text("cancelled")
    execute(page, "assert job.status == 'cancelled', job.status")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".rios-detail")).to_contain_text("running")
    expect(log_of(page)).to_contain_text("Once upon a time")
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".rios-detail")).to_contain_text("cancelled")
    execute(page, LET_GO)
    page.get_by_role("button", name="All jobs").click()
    expect(row_of(page, first["id"])).to_be_visible()


def test_jobs_are_found_sorted_and_grouped(page: Page, first: dict[str, Any]) -> None:
    """Of one that is done, two that were cancelled, and the deployment of the model."""
    rows = page.get_by_role("listbox", name="Jobs").get_by_role("option")
    expect(rows).to_have_count(4)
    page.get_by_label("Search jobs").fill(f"DEMO {first['id'][:8]}")
    expect(rows).to_have_count(1)
    page.get_by_label("Search jobs").fill("")
    page.get_by_label("State", exact=True).select_option("cancelled")
    expect(rows).to_have_count(2)
    expect(rows.get_by_role("img", name="cancelled")).to_have_count(2)
    page.get_by_label("State", exact=True).select_option("all")
    page.get_by_label("Order").select_option("oldest")
    expect(rows.nth(1)).to_contain_text(first["id"][:8])
    for order, wanted in (("cost", r".rios-cost [data-wei]"), ("tokens", ".rios-row-low")):
        page.get_by_label("Order").select_option(order)
        shown = [
            int((one.get_attribute("data-wei") or one.inner_text()).split("/")[0])
            for one in rows.filter(has_text="tokens").locator(wanted).all()
        ]
        assert shown == sorted(shown, reverse=True), order
        assert len(shown) == 3
    page.get_by_label("Order").select_option("newest")
    page.get_by_label("Groups").select_option("state")
    expect(page.locator("#rios-sidebar .rios-heading")).to_have_text(["cancelled · 2", "done · 1", "running · 1"])
    page.get_by_label("Groups").select_option("none")


def test_palette_menu_shortcuts_and_the_address(page: Page, first: dict[str, Any]) -> None:
    command(page, "apputils:activate-command-palette")
    page.locator("#modal-command-palette input").fill("Withdraw")
    page.locator(".lm-CommandPalette-item", has_text="Withdraw").first.click()
    dialog = page.get_by_role("dialog", name="Withdraw")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("menuitem", name="rios", exact=True).click()
    expect(page.locator(".lm-Menu-item[data-command^='rios:']")).to_have_count(len(COMMANDS))
    assert page.evaluate("names => names.filter(one => !window.jupyterapp.commands.label(one))", COMMANDS) == []
    page.locator(".lm-Menu-item", has_text="Copy the address of the wallet").click()
    assert page.evaluate("navigator.clipboard.readText()") == first["address"]
    page.evaluate("navigator.clipboard.writeText('')")
    copy = wallet_of(page).get_by_role("button", name="Copy the address")
    copy.evaluate(SEEN)
    copy.click()
    expect(copy).to_have_attribute("data-seen", re.compile("copied"))
    assert page.evaluate("navigator.clipboard.readText()") == first["address"]
    page.keyboard.press("Control+Alt+w")
    expect(copy).to_be_focused()
    page.keyboard.press("Control+Alt+j")
    expect(page.get_by_label("Search jobs")).to_be_focused()
    page.get_by_label("Groups").select_option("kind")
    expect(page.locator("#rios-sidebar .rios-heading").first).to_have_text(re.compile(r"(generation|deployment) · \d+"))
    page.get_by_label("Groups").select_option("none")


def test_no_key_or_token_of_rios_reaches_the_browser(page: Page, server: Jupyter, heard: list[str], first: Any) -> None:
    (file,) = server.runtime.glob("rios-network-*.json")
    key = json.loads(file.read_text())["key"]
    stores = page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")
    notebook_file = (server.work / "first.ipynb").read_text()
    for place, text in (("page", page.content()), ("stores", stores), ("url", page.url), ("notebook", notebook_file)):
        assert key not in text, place
    for part in ("/rios/stream", "/rios/networks", "/state"):
        assert [one for one in heard if part in one.split(" ", 1)[0]], f"nothing of {part} was seen"
    assert not [one for one in heard if key in one]


def test_a_deployment_shows_with_its_log_and_is_scaled_and_stopped(page: Page, first: dict[str, Any]) -> None:
    execute(page, APP)
    expect(page.locator(".rios-row").filter(has_text="deployment")).to_have_count(2)  # the model is one, too
    row = page.locator(".rios-row").filter(has=page.get_by_text("web", exact=True))
    expect(row).to_contain_text("1/1 ready")
    row.click()
    detail = page.locator(".rios-detail")
    expect(detail).to_contain_text("ready")
    expect(log_of(page)).to_contain_text("tick <b>")
    lines = log_of(page).locator("div")
    before = lines.count()
    expect(lines.nth(before + 1)).to_be_visible()  # it streams
    assert not violations(page, ".rios-detail")
    shot(page, "deployment")
    detail.get_by_label("Replicas wanted").fill("2")
    detail.get_by_role("button", name="Scale").click()
    expect(detail).to_contain_text("2 of 2 replicas ready")
    execute(page, "assert len(app.replicas) == 2, app.replicas")
    for press, phase in (("Pause", "paused"), ("Resume", "ready"), ("Restart", "ready")):
        detail.get_by_role("button", name=press, exact=True).click()
        expect(detail.locator(".rios-line").filter(has_text="State")).to_contain_text(phase)
    detail.get_by_role("button", name="Duplicate").click()
    expect(detail.locator("h3")).to_have_text("web-2")
    expect(detail).to_contain_text("1 of 1 replicas ready")
    execute(page, "net.deploy.get('web-2').delete()")
    page.get_by_role("button", name="All jobs").click()
    row.click()
    detail.get_by_role("button", name="Stop").click()
    execute(page, "assert app.status in ('ready', 'updating'), app.status")  # it is asked once more
    detail.get_by_role("button", name="Stop it").click()
    expect(detail).to_contain_text("stopped")
    expect(detail.get_by_role("button", name="Scale")).to_have_count(0)
    page.get_by_role("button", name="All jobs").click()


def test_a_report_shows_with_its_cost_and_is_made_again(page: Page, server: Jupyter, first: dict[str, Any]) -> None:
    execute(page, SMALL)
    made = said(server, "report.json")
    row = page.locator(".rios-row").filter(has_text=f"small {made['label']}")
    expect(row).to_contain_text("report · done")
    expect(row.locator("[data-wei]")).to_have_attribute("data-wei", made["wei"])
    page.get_by_label("Kind").select_option("report")
    expect(page.locator(".rios-row").filter(has_text="tokens")).to_have_count(0)
    page.get_by_label("Kind").select_option("all")
    row.click()
    expect(log_of(page)).to_contain_text("attempt 1")
    detail = page.locator(".rios-detail")
    with page.expect_download() as arrived:
        detail.get_by_role("link", name="page").click()
    assert arrived.value.path().read_bytes().lstrip().lower().startswith(b"<!doctype html")
    network = wallet_of(page).locator("[data-network]").get_attribute("data-network")
    file = server.ask("GET", f"/rios/networks/{network}/file", params={"id": made["id"], "kind": "html"})
    assert file.headers["content-security-policy"].startswith("sandbox allow-scripts;")
    assert file.headers["content-type"].startswith("text/html")
    detail.get_by_role("button", name=re.compile("Usage of this job")).click()
    dialog = page.get_by_role("dialog", name=re.compile("Usage of small"))
    expect(dialog.locator("p [data-wei]").first).to_have_attribute("data-wei", made["wei"])
    closed(dialog)
    detail.get_by_role("button", name="Open the notebook").click()
    expect(page.locator(".jp-NotebookPanel:visible")).to_have_count(1)
    page.get_by_role("button", name="Make it again").click()
    expect(log_of(page)).to_contain_text("attempt 2 ok")
    page.get_by_role("button", name="All jobs").click()


def test_a_widget_in_the_notebook_streams(page: Page, server: Jupyter, first: dict[str, Any]) -> None:
    widget = page.locator(".jp-Notebook .rios-generation")
    widget.get_by_role("button", name="Generate").click()
    expect(widget.locator(".rios-answer")).not_to_be_empty()
    expect(widget.locator(".rios-figures")).to_contain_text("60 of 60 tokens")
    execute(page, "assert widget.answer == model.generate('Once upon a time', max_new_tokens=60).text")
    execute(page, "write('streamed.json', text=widget.answer)")
    answer = said(server, "streamed.json")["text"]
    expect(page.locator(".jp-Notebook .rios-generation")).to_have_count(1)  # drawn anew when the answer was there

    def saved() -> bool:
        command(page, "docmanager:save")
        page.wait_for_timeout(500)
        cells = json.loads((server.work / "first.ipynb").read_text())["cells"]
        pages = [
            "".join(out["data"].get("text/html", "")) for cell in cells for out in cell["outputs"] if "data" in out
        ]
        return any(html.escape(answer) in one for one in pages)

    until(saved, "the answer in the saved notebook", deadline_s=30)


def test_a_cell_that_is_run_again_leaves_nothing_behind(page: Page, server: Jupyter, first: dict[str, Any]) -> None:
    """Each time the widget of the time before loses its view, and says so."""
    page.evaluate(
        """async source => {
            const app = window.jupyterapp;
            const notebook = app.shell.currentWidget.content;
            const cells = notebook.model.sharedModel;
            cells.addCell({cell_type: 'code', source});
            notebook.activeCellIndex = cells.cells.length - 1;
        }""",
        "net.widget('jobs')",
    )
    panel = page.locator(".jp-Notebook .rios-columns")
    for _ in range(4):
        command(page, "notebook:run-cell")
        expect(panel.locator(".rios-count")).to_contain_text("jobs", timeout=LOAD_MS)
        page.wait_for_timeout(300)
    execute(page, "import threading")
    number = iter(range(1000))

    def alone() -> bool:
        name = f"threads-{next(number)}.json"
        execute(page, f"write({name!r}, n=[one.name for one in threading.enumerate()].count('rios-widget'))")
        return bool(said(server, name)["n"] == 1)

    until(alone, "one widget that is told", deadline_s=30, pause_s=0.3)
    page.evaluate(
        """() => {
            const notebook = window.jupyterapp.shell.currentWidget.content;
            notebook.model.sharedModel.deleteCell(notebook.activeCellIndex);
        }"""
    )
    until(lambda: not alone(), "a widget that is told nothing after its cell went", deadline_s=30, pause_s=0.3)


def test_hosts_and_placement(page: Page, first: dict[str, Any]) -> None:
    command(page, "rios:hosts")
    hosts = page.locator(".rios-view-hosts")
    expect(hosts.get_by_text("worker-0", exact=True)).to_be_visible()
    hosts.get_by_role("button", name="demo").click()
    expect(hosts.get_by_role("meter", name="Load of worker-1")).to_be_visible()
    expect(hosts).to_contain_text("trunk")
    hosts.get_by_role("button", name="demo").click()


def test_load_and_memory_of_gpus_are_shown_and_why_there_are_none(page: Page, first: dict[str, Any]) -> None:
    """Of hosts that say they have some: what they say comes from their owners' machines."""
    command(page, "rios:hosts")
    execute(page, GPUS)
    hosts = page.locator(".rios-view-hosts")
    expect(hosts.get_by_role("meter", name="GPU load of worker-0")).to_have_attribute("aria-valuenow", "87")
    memory = hosts.get_by_role("meter", name="GPU memory of worker-0: 60.0 GiB of 80.0 GiB")
    expect(memory).to_have_attribute("aria-valuenow", "75")
    expect(hosts).to_contain_text("Its GPU gives no figures: NVML was not found")
    assert not violations(page, ".rios-view-hosts")
    shot(page, "hosts")
    execute(page, "panel.worker_of = plain")
    expect(hosts.get_by_role("meter", name="GPU load of worker-0")).to_have_count(0)


def test_a_worker_that_is_frozen_shows_as_lost_and_keeps_nothing_else_waiting(
    page: Page, server: Jupyter, first: dict[str, Any]
) -> None:
    execute(page, "write('hosts.json', pids={one.name: one.pid for one in net.workers}, trunk=model.placement.trunk)")
    hosts = said(server, "hosts.json")
    name, pid = next((name, pid) for name, pid in hosts["pids"].items() if name != hosts["trunk"])
    command(page, "rios:hosts")
    row = page.locator(".rios-view-hosts li").filter(has=page.get_by_text(name, exact=True)).first
    stop(pid)
    try:
        expect(row).to_contain_text("lost", timeout=FROZEN_MS)
        expect(page.locator(".rios-stale")).to_have_count(0)
        execute(page, "thawed = model.generate('And', max_new_tokens=2); write('thawed.json', id=thawed.request_id)")
        expect(row_of(page, said(server, "thawed.json")["id"])).to_contain_text("2/2 tokens")
    finally:
        with contextlib.suppress(ProcessLookupError):  # one that stays frozen is replaced
            os.kill(pid, signal.SIGCONT)
    expect(row).to_contain_text("serving", timeout=LOAD_MS)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast"])
def test_nothing_for_axe_to_find(page: Page, first: dict[str, Any], theme: str) -> None:
    command(page, "apputils:change-theme", theme=theme)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=theme)
    page.wait_for_timeout(500)  # colours fade
    assert not violations(page, ".rios-view")
    shot(page, theme.removeprefix("JupyterLab ").lower().replace(" ", "-"))


def test_scripts_in_names_and_prompts_are_text(page: Page, first: dict[str, Any]) -> None:
    execute(
        page,
        f"""evil = net.dmoe.deploy("demo", name={EVIL!r}, progress=False)
evil.generate({EVIL!r}, max_new_tokens=4)
evil.close()""",
    )
    # A generation is told of at its end, by the name of its model.
    told = notifications(page)
    expect(told.filter(has_text="is done").filter(has_text="onerror")).to_contain_text(EVIL)
    expect(page.locator(".jp-Notification-Center").locator("img[src=x], script")).to_have_count(0)
    page.get_by_title("Hide notifications").click()
    execute(page, f"widget.prompt, widget.params = {EVIL!r}, {{'max_new_tokens': 4}}; widget.start()")
    live = page.locator(".jp-Notebook .rios-generation")
    expect(live.locator(".rios-prompt")).to_have_text(EVIL)
    expect(live.locator(".rios-figures")).to_contain_text("4 of 4 tokens")
    expect(live.locator("img, script")).to_have_count(0)
    row = page.get_by_role("option").filter(has_text="onerror").first
    expect(row).to_contain_text(EVIL)
    row.click()
    expect(log_of(page)).to_contain_text(EVIL)
    page.get_by_role("button", name="All jobs").click()
    expect(page.locator("#rios-sidebar img, #rios-sidebar script")).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_a_widget_in_the_notebook_lives_on_after_a_reload(page: Page, first: dict[str, Any]) -> None:
    widget = page.locator(".jp-Notebook .rios-generation")
    answer = widget.locator(".rios-answer").inner_text()
    command(page, "docmanager:save")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=LOAD_MS)
    kept(page, "first.ipynb")
    shown = widget.locator(".rios-answer").or_(page.locator(".jp-Notebook").get_by_text(MISSED))
    for _ in range(3):
        page.reload(timeout=LOAD_MS)
        ready(page)
        expect(shown).to_be_visible(timeout=LOAD_MS)
        if shown.inner_text() != MISSED:
            break
    expect(widget.locator(".rios-answer")).to_have_text(answer)
    widget.get_by_label("demo").fill("And it came to pass")
    widget.get_by_role("button", name="Generate").click()
    expect(widget.locator(".rios-prompt")).to_have_text("And it came to pass")
    expect(widget.locator(".rios-figures")).to_contain_text("done")
    command(page, "rios:jobs")
    expect(row_of(page, first["id"])).to_be_visible()


def test_ten_thousand_jobs(page: Page, first: dict[str, Any]) -> None:
    ten_thousand_jobs(page)
    jobs = page.get_by_role("listbox", name="Jobs")
    assert jobs.get_by_role("option").count() < 60
    scrolled(jobs)  # none is empty; test_speed.py says how long it may take
    jobs.focus()
    page.keyboard.press("End")
    expect(jobs.get_by_role("option", selected=True)).to_contain_text("needle-0")
    page.keyboard.press("Enter")
    expect(page.locator(".rios-detail h3")).to_have_text("needle-0")
    page.keyboard.press("Enter")  # the way back has the focus
    page.get_by_label("Search jobs").fill("done needle-7777")
    expect(page.locator(".rios-count")).to_contain_text(re.compile(r"^1 of 1000\d"))
    expect(jobs.get_by_role("option")).to_contain_text("needle-7777")
    page.get_by_label("Search jobs").fill("")


def test_a_reload_restores_and_who_wants_no_notifications_gets_none(
    page: Page, server: Jupyter, first: dict[str, Any]
) -> None:
    never = {"raw": json.dumps({"notify": "never"})}
    assert server.ask("PUT", "/lab/api/settings/rios-lab:panel", json=never).is_success
    page.get_by_label("Order").select_option("tokens")
    kept(page, '"sort":"tokens"')
    page.reload(timeout=LOAD_MS)
    ready(page)
    expect(page.get_by_label("Order")).to_have_value("tokens", timeout=LOAD_MS)
    expect(line(page, "Available")).to_be_visible()
    page.evaluate("window.jupyterapp.shell.currentWidget.context.sessionContext.ready")
    execute(page, "quiet = model.generate('And', max_new_tokens=2); write('quiet.json', id=quiet.request_id)")
    quiet = said(server, "quiet.json")["id"]
    page.get_by_label("Search jobs").fill(quiet[:8])
    expect(row_of(page, quiet)).to_contain_text("2/2 tokens")
    page.wait_for_timeout(500)
    expect(notifications(page).filter(has_text="is done")).to_have_count(0)
    page.get_by_title("Hide notifications").click()
    assert server.ask("PUT", "/lab/api/settings/rios-lab:panel", json={"raw": "{}"}).is_success


def test_what_fails_is_told_of_by_who_wants_only_that(page: Page, server: Jupyter, first: dict[str, Any]) -> None:
    failed = {"raw": json.dumps({"notify": "failed"})}
    assert server.ask("PUT", "/lab/api/settings/rios-lab:panel", json=failed).is_success
    page.reload(timeout=LOAD_MS)
    ready(page)
    page.evaluate("window.jupyterapp.shell.currentWidget.context.sessionContext.ready")
    execute(page, "done = model.generate('And', max_new_tokens=2)")
    execute(page, "net.deploy.create(name='broken', command=['false'], restart='never', resources={'memory': '64MiB'})")
    told = notifications(page)
    expect(told.filter(has_text="broken failed")).to_have_count(1, timeout=LOAD_MS)
    expect(told.filter(has_text="is done")).to_have_count(0)
    command(page, "rios:wallet")
    told.get_by_role("button", name="Show").click()
    expect(page.get_by_label("Search jobs")).to_be_focused()
    page.get_by_label("Search jobs").fill("broken")
    expect(page.get_by_role("option").get_by_role("img", name="failed")).to_have_count(1)
    page.get_by_label("Search jobs").fill("")
    assert server.ask("PUT", "/lab/api/settings/rios-lab:panel", json={"raw": "{}"}).is_success


def test_a_network_whose_process_is_frozen_shows_old_figures_with_their_age(
    page: Page, server: Jupyter, first: dict[str, Any]
) -> None:
    (file,) = server.runtime.glob("rios-network-*.json")
    pid, notice = json.loads(file.read_text())["pid"], page.locator(".rios-stale")
    stop(pid)
    try:
        expect(notice).to_contain_text("has said nothing for 12 s: its process is stopped, or busy", timeout=FROZEN_MS)
        (age_s,) = re.findall(r"These figures are (\d+) s old", notice.inner_text())
        assert int(age_s) >= 12
        page.wait_for_timeout(6_000)  # the server says meanwhile that it is there, which is not the network's word
        expect(notice).to_be_visible()
        expect(page.get_by_role("button", name="Deposit")).to_be_disabled()
    finally:
        os.kill(pid, signal.SIGCONT)
    expect(notice).to_have_count(0, timeout=LOAD_MS)
    expect(page.get_by_role("button", name="Deposit")).to_be_enabled()


def test_an_outage_shows_old_figures_with_their_age_and_ends(page: Page, server: Jupyter, first: Any) -> None:
    widget = page.locator(".jp-Notebook .rios-generation")
    widget.get_by_label("demo").fill("Once upon a time")
    widget.get_by_label("tokens", exact=True).fill("400")
    execute(page, HOLD)
    widget.get_by_role("button", name="Generate").click()
    expect(widget.locator(".rios-figures")).to_contain_text("running")
    server.kill()
    expect(widget.get_by_role("alert")).to_contain_text("The kernel does not answer")
    expect(widget.get_by_role("button", name="Stop")).to_be_disabled()
    notice = page.locator(".rios-stale")
    expect(notice).to_contain_text(re.compile(r"These figures are \d+ (s|min) old"))
    expect(line(page, "Available")).to_have_attribute("data-wei", re.compile(r"^[1-9]\d{15,}$"))
    expect(page.get_by_role("button", name="Deposit")).to_be_disabled()
    shot(page, "stale")
    server.start()
    expect(page.locator(".rios-empty")).to_be_visible(timeout=LOAD_MS)  # the kernel went with its server
    command(page, "rios:start")  # by its command: what Lab says of its server covers the button
    expect(line(page, "Available")).to_have_attribute("data-wei", str(10 * 10**18), timeout=LOAD_MS)
    expect(page.locator(".rios-stale")).to_have_count(0)
    expect(page.get_by_role("button", name="Deposit")).to_be_enabled()


def test_who_is_signed_out_is_told_so(page: Page, server: Jupyter, first: Any) -> None:
    server.kill()
    server.token = "a" * 32  # the old one is worth nothing any more
    page.context.clear_cookies()
    server.start()
    expect(page.locator(".rios-forbidden")).to_contain_text("Signed out", timeout=LOAD_MS)
    expect(page.locator(".rios-sidebar [data-wei]")).to_have_count(0)
