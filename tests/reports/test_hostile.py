"""Notebooks that attack who runs them: what they leave in their folder is read by who sees the whole host."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from rios.billing.ledger.ledger import Ledger
from rios.reporting.execute import FILE_MAX
from rios.reporting.runner import Done, Job, Say, run_job
from rios.reporting.sandbox import BWRAP, PACKAGE, apart, environment, kind
from rios.services.reports.making import CPU_S
from rios.services.reports.values import RunState
from tests.reports.conftest import Make, quick

# Some of these hang a process that does not defend itself.
pytestmark = pytest.mark.timeout(300)

SECRET = "the passphrase of the host is hunter2"
# It writes what comes of it itself, and ends who executes it, so that nobody writes over that.
FORGED = """
import json, os, signal
from pathlib import Path
said = SAID
for name, text in {"report.html": "<p>page</p>", "report.ipynb": "{}", "result.json": json.dumps(said)}.items():
    Path(name).write_text(text)
ATTACK
os.kill(os.getppid(), signal.SIGKILL)
"""
SAID = {"state": "ok", "error": "", "cpu_ns": 1}


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host, which a notebook does not see."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return path


def job_of(code: str, *, printed: bool = False) -> Job:
    source = nbformat.writes(new_notebook(cells=[new_code_cell(code)])).encode()
    return Job(
        name="evil", title="evil", source=source, data=b"{}", parameters={}, cpu_s=60, memory_bytes=8 << 30,
        timeout_s=60.0, pdf=printed,
    )  # fmt: skip


def run(attack: str, *, said: object = SAID, printed: bool = False) -> Done:
    """What comes of a notebook that forges its result and then does `attack`."""
    return run_job(job_of(FORGED.replace("ATTACK", attack).replace("SAID", repr(said)), printed=printed))


def test_what_is_forged_is_a_result_like_another() -> None:
    """So the attacks below are attacks, and do not fail for a reason of their own."""
    done = run("")
    assert (done.state, done.files) == ("ok", {"html": b"<p>page</p>", "ipynb": b"{}"})


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("report.html", "os.symlink(SECRET, NAME)"),
        ("report.ipynb", "os.symlink(SECRET, NAME)"),
        ("result.json", "os.symlink(SECRET, NAME)"),
        ("report.html", "os.mkfifo(NAME)"),
        ("result.json", "os.mkfifo(NAME)"),
        ("report.html", "os.mkdir(NAME)"),
        ("report.html", "os.link('data.json', NAME)"),
        ("result.json", "Path(NAME).write_bytes(bytes(1 << 20))"),
    ],
)
def test_nothing_but_a_plain_file_is_read(secret: Path, name: str, attack: str) -> None:
    done = run(f"os.unlink({name!r}); " + attack.replace("NAME", repr(name)).replace("SECRET", repr(str(secret))))
    assert (done.state, done.files) == ("failed", {})
    assert name in done.error
    assert SECRET not in done.error


def test_no_file_is_endless() -> None:
    done = run_job(job_of(f"with open('report.html', 'wb') as file: file.truncate({FILE_MAX + 1})"))
    assert done.state == "partial"
    assert "File too large" in done.error
    assert len(done.files["html"]) < FILE_MAX


@pytest.mark.parametrize(
    "said",
    [
        {"state": "paid", "error": "", "cpu_ns": 1},
        {"state": "ok", "error": "", "cpu_ns": -(10**18)},
        {"state": "ok", "error": "", "cpu_ns": 1, "runtime": "trusted"},
        {"state": "ok"},
        ["ok"],
    ],
)
def test_a_result_that_is_none_is_not_believed(said: object) -> None:
    done = run("", said=said)
    assert (done.state, done.files, done.cpu_ns) == ("failed", {}, 0)
    assert "no result" in done.error


def test_a_folder_as_deep_as_can_be_is_taken_away() -> None:
    """`_nothing_is_left` sees to it."""
    dig = "for _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')"
    assert run(dig).state == "ok"


@pytest.mark.needs("bwrap")
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("attack", ["os.symlink(SECRET, NAME)", "os.mkfifo(NAME)"])
def test_what_is_printed_is_no_file_of_the_notebook(secret: Path, attack: str) -> None:
    done = run(attack.replace("NAME", "'report.pdf'").replace("SECRET", repr(str(secret))), printed=True)
    assert done.files["pdf"].startswith(b"%PDF-")
    assert secret.read_text() == SECRET


CLIMB = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def writable(place):
    libc.mount(b"none", place.encode(), None, 0x20 | 0x1000, None)  # MS_REMOUNT | MS_BIND
    return not os.statvfs(place).f_flag & os.ST_RDONLY
found = {"able": int(next(line for line in open("/proc/self/status") if line.startswith("CapEff")).split()[1], 16)}
found["at once"] = [place for place in PLACES if writable(place)]
libc.unshare(0x10000000 | 0x00020000)  # a user and a mount namespace, in which it may do anything
found["in a namespace"] = [place for place in PLACES if writable(place)]
found["kernel"] = [name for name in ("sysrq-trigger", "sys/kernel/core_pattern") if os.access(f"/proc/{name}", os.W_OK)]
print(json.dumps(found))
"""


@pytest.mark.needs("bwrap")
def test_what_is_read_only_stays_so(tmp_path: Path) -> None:
    """Also where the service is root, and so is what it runs apart."""
    assert kind() == BWRAP
    places = ["/usr", sys.prefix, str(PACKAGE)]
    command = apart([sys.executable, "-c", CLIMB.replace("PLACES", repr(places))], tmp_path)
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == {"able": 0, "at once": [], "in a namespace": [], "kernel": []}


def test_it_costs_no_more_than_was_held_for(make: Make, ledger: Ledger) -> None:
    """Else its end could not be posted, and it would be made again and again."""

    def endless(job: Job, say: Say) -> Done:
        return dataclasses.replace(quick(job, say), cpu_ns=10**30)

    before = ledger.balance("local")
    past = make(execute=endless).run("cost", "2026-11-27", owner="local")
    assert (past.state, past.cpu_ns) == (RunState.OK, CPU_S * 10**9)
    after = ledger.balance("local")
    assert after.held_wei == before.held_wei
    assert before.available_wei - after.available_wei == past.cost_wei > 0
