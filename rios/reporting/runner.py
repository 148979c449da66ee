"""One report executed: a job in, its files out. It needs no database and no network, so any machine may do it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios.reporting import execute
from rios.reporting.pdf import to_pdf
from rios.reporting.sandbox import PROCESS, apart, environment, kind
from rios.reporting.shelf import is_alive

OK, PARTIAL, FAILED = "ok", "partial", "failed"
_SAID_MAX = 2_000
_PREFIX = "rios-report-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is needed to execute a report, anywhere: it asks nobody for more."""

    name: str
    title: str
    source: bytes
    """The notebook."""
    data: bytes
    """What it reads from `data.json`."""
    parameters: Mapping[str, Any]
    cpu_s: int
    memory_bytes: int
    """Of addresses, which are several times what is in use."""
    timeout_s: float
    pdf: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a job."""

    state: str
    """"ok", "partial" (a page with a banner) or "failed"."""
    files: Mapping[str, bytes]
    """By extension: "html", "ipynb", and "pdf" where a browser was there."""
    error: str
    cpu_ns: int
    runtime: str
    """Where and how it was executed: "bubblewrap", "process"."""


Execute = Callable[[Job], Done]


def run_job(job: Job) -> Done:
    """Execute `job` on this machine, kept apart from all else that is on it."""
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as name:
        folder = Path(name).resolve()
        _prepare(folder, job)
        command = [sys.executable, "-m", "rios.reporting.execute", str(folder)]
        if kind() == PROCESS:
            command.append(str(os.getpid()))
        said = _run(apart(command, folder), folder, job.timeout_s)
        result = folder / execute.RESULT
        if not result.is_file():
            return Done(state=FAILED, files={}, error=said, cpu_ns=0, runtime=kind())
        found = json.loads(result.read_text())
        page, files = folder / execute.PAGE, {}
        if found["state"] != FAILED:
            files = {"html": page.read_bytes(), "ipynb": (folder / execute.NOTEBOOK).read_bytes()}
            printed = folder / "report.pdf"
            if job.pdf and found["state"] == OK and to_pdf(page, printed):
                files["pdf"] = printed.read_bytes()
        return Done(
            state=found["state"], files=files, error=found["error"], cpu_ns=int(found["cpu_ns"]), runtime=kind()
        )


def sweep() -> None:
    """Remove what jobs of processes that are gone left on this machine."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _prepare(folder: Path, job: Job) -> None:
    (folder / execute.SOURCE).write_bytes(job.source)
    (folder / execute.DATA).write_bytes(job.data)
    wanted = {
        "name": job.name, "title": job.title, "parameters": dict(job.parameters), "cell_timeout_s": job.timeout_s,
        "code": False, "cpu_s": job.cpu_s, "memory_bytes": job.memory_bytes,
    }  # fmt: skip
    (folder / execute.JOB).write_text(json.dumps(wanted))


def _run(command: list[str], folder: Path, timeout_s: float) -> str:
    """Run it to its end; what it said last, where it said nothing else."""
    try:
        done = subprocess.run(
            command, env=environment(folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it took more than {timeout_s:g} s"
    last = done.stderr.decode("utf-8", "replace").strip()[-_SAID_MAX:]
    return f"its process ended with status {done.returncode}; was memory or time short? {last}"
