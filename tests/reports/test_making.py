"""Reports made for real: executed apart, printed, published, and opened by a browser without a network."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from rios.accounts.store import AccountStore
from rios.billing.ledger.ledger import Ledger
from rios.reporting.pdf import drawn
from rios.reporting.runner import Done, Job, Say, run_job
from rios.reporting.sandbox import BWRAP, kind
from rios.reporting.templates import Templates
from rios.services.reports.reports import Reports
from rios.services.reports.values import Past, RunState
from rios.services.webhooks import Webhooks
from tests.billing.clock import Clock
from tests.campaigns import ROOT
from tests.reporting.test_html import Requests
from tests.reports import notebooks
from tests.reports.conftest import NOW
from tests.reports.ledgers import OWNERS, charges, moment, use

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def printed(job: Job, say: Say) -> Done:
    """One of these reports is printed, which takes as long as to execute it; that is enough."""
    return run_job(dataclasses.replace(job, pdf=job.name == "cost"), say)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def reports(home: Path, month: Path) -> Iterator[Reports]:
    """Reports over a ledger in which somebody's deployment has the name of a script."""
    shutil.copy(month, home / "ledger.sqlite")
    clock = Clock()
    clock.now_us = NOW
    with Ledger.open(f"sqlite:///{home / 'ledger.sqlite'}", clock=clock) as ledger:
        use(ledger, "evil", "local", charges("evil", 1, Random(1)), at=moment("2026-11-27T10:00"), deployment=EVIL)
        store = AccountStore(ledger.database, lambda run: ledger.transact(lambda batch: run(batch.connection)))
        with Reports(
            ledger, home / "out", Templates([home / "mine", ROOT / "reports"]), execute=printed,
            webhooks=Webhooks(store, ledger, home=home), payee=lambda: OWNERS[0],
        ) as found:  # fmt: skip
            yield found


@pytest.fixture(scope="module")
def made(reports: Reports) -> Past:
    """The cost report of a day."""
    return reports.run("cost", "2026-11-27", owner="local")


def path_of(reports: Reports, past: Past, kind: str) -> Path:
    name = next(one for one in past.files if one.endswith(f".{kind}"))
    return reports.shelf.out / past.folder / name


def test_its_totals_are_the_ledgers(reports: Reports, made: Past) -> None:
    assert (made.state, made.version, made.error) == (RunState.OK, 1, "")
    document = json.loads(path_of(reports, made, "json").read_text())
    ledger = reports._ledger
    since, until = moment("2026-11-27"), moment("2026-11-28")
    posted = sum(e.amount_wei for e in ledger.entries(up_to=made.height) if e.kind == "usage" and since <= e.at < until)
    assert int(document["totals"]["cost_wei"]) == posted
    assert document["ledger"]["height"] == made.height


def test_its_own_cost_is_on_the_bill(reports: Reports, made: Past) -> None:
    used = list(reports._ledger.usage(deployment="reports", request_id=f"{made.run_id}:{made.attempt}"))
    assert [(one.resource, one.quantity, one.amount_wei) for one in used] == [("cpu", made.cpu_ns, made.cost_wei)]
    assert made.cost_wei > 0
    assert used[0].user_id == "local"
    assert reports._ledger.balance("local").held_wei == 0


def test_again_is_nothing_and_by_force_the_same_bytes(reports: Reports, made: Past) -> None:
    before = {path.name: path.read_bytes() for path in (reports.shelf.out / made.folder).iterdir()}
    again = reports.run("cost", "2026-11-27", owner="local")
    assert again == made, "a second run is none"
    assert reports._ledger.head()[0] > (made.height or 0), "its own price was posted: the ledger has moved"
    forced = reports.run("cost", "2026-11-27", owner="local", force=True)
    assert (forced.state, forced.key, forced.files, forced.folder) == (RunState.OK, made.key, made.files, made.folder)
    assert forced.seq == made.seq + 1
    assert {path.name: path.read_bytes() for path in (reports.shelf.out / made.folder).iterdir()} == before


@pytest.mark.needs("chromium")
def test_a_browser_without_a_network_shows_every_chart(reports: Reports, made: Past, tmp_path: Path) -> None:
    page = path_of(reports, made, "html")
    text = page.read_text()
    assert Requests(text).found == []
    shutil.copy(page, tmp_path / "page.html")
    assert kind() == BWRAP, "no network there"
    done = drawn(tmp_path / "page.html", "--dump-dom")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    shown = done.stdout.decode()
    wanted = text.count("Plotly.newPlot('rios-plot-")
    assert wanted == 4
    for number in range(wanted):
        found = re.search(rf'id="rios-plot-{number}"[^>]*class="[^"]*js-plotly-plot', shown)
        assert found, f"chart {number} is not there"
    assert shown.count('class="main-svg"') >= wanted
    # Whatever a name looks like, it is a name.
    assert "<title>cost 2026-11-27</title>" in shown
    assert "<img" not in shown.replace("&lt;img", "")
    assert "&lt;img src=x" in text


@pytest.mark.needs("chromium")
def test_it_is_printed(reports: Reports, made: Past) -> None:
    assert path_of(reports, made, "pdf").read_bytes().startswith(b"%PDF-")


def test_nothing_of_this_machine_is_in_it(reports: Reports, made: Past, home: Path) -> None:
    for name in made.files:
        content = (reports.shelf.out / made.folder / name).read_bytes()
        assert str(home).encode() not in content, name
        assert b"/tmp/" not in content or name.endswith((".html", ".pdf")), name


def test_a_report_that_fails_is_kept_with_a_banner(reports: Reports, home: Path) -> None:
    notebooks.write(home / "mine", "fails", notebooks.SMALL[0], "print('so far')\nassert 1 == 2, 'the books differ'")
    past = reports.run("fails", "2026-11-27", owner="local")
    assert past.state == RunState.PARTIAL
    assert past.version is None
    assert re.fullmatch(r"fails\.ipynb, cell \[\d\]: AssertionError: the books differ", past.error)
    text = path_of(reports, past, "html").read_text()
    assert "must not be relied on" in text
    assert "so far" in text
    assert reports.shelf.latest("fails") is None
    notebooks.write(home / "mine", "fails", notebooks.SMALL[0], "print('so far')")
    mended = reports.run("fails", "2026-11-27", owner="local")
    assert (mended.state, mended.version, mended.height) == (RunState.OK, 1, past.height)
    assert [one.state for one in reports.store.history(name="fails")] == [RunState.OK, RunState.PARTIAL]


SPY = """
import os, pathlib, socket
found = {}
try:
    socket.create_connection(("127.0.0.1", PORT), timeout=3)
    found["network"] = True
except OSError:
    found["network"] = False
for name in SECRETS:
    found[name] = pathlib.Path(name).exists()
for name in ("/etc/rios-was-here", "/usr/rios-was-here", rios.__path__[0] + "/was-here"):
    try:
        pathlib.Path(name).write_text("x")
        found[name] = True
    except OSError:
        found[name] = False
found["environment"] = sorted(name for name in os.environ if name.startswith("RIOS_") or "SECRET" in name)
assert not any(found.values()), found
print("kept apart")
"""


@pytest.mark.needs("bwrap")
def test_a_notebook_sees_no_network_no_secret_and_no_disk(
    reports: Reports, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("RIOS_WALLET_PASSPHRASE", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        secrets = [str(home / "ledger.sqlite"), str(home / "keys"), "/root/.ssh", str(ROOT / ".git")]
        spy = SPY.replace("PORT", str(port)).replace("SECRETS", repr(secrets))
        notebooks.write(home / "mine", "spy", "import rios", spy)
        past = reports.run("spy", "2026-11-27", owner="local")
    assert past.error == ""
    assert (past.state, past.runtime) == (RunState.OK, BWRAP)


def test_time_is_bounded() -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    source = nbformat.writes(new_notebook(cells=[new_code_cell("while True: pass")])).encode()
    job = Job(
        name="slow",
        title="slow",
        source=source,
        data=b"{}",
        parameters={},
        cpu_s=60,
        memory_bytes=8 << 30,
        timeout_s=4.0,
    )
    done = run_job(job)
    assert done.state in ("partial", "failed")
    assert "more than 4 s" in done.error
    starved = run_job(dataclasses.replace(job, cpu_s=1, timeout_s=60.0))
    # Each process has so much: its kernel's end leaves a page that says so, its own none.
    why = {"failed": "time short", "partial": "its Python process ended"}
    assert why[starved.state] in starved.error
