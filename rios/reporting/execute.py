"""Execute one report in its folder: `python -m rios.reporting.execute FOLDER [PARENT]`, kept apart from all else.

The folder has `job.json` (what is wanted), `source.ipynb` and `data.json`; afterwards also `report.ipynb`,
`report.html` and `result.json`. The same folder gives the same bytes. What it is at goes to standard
output, line by line.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from rios.reporting.run import execute, jupyter_in, without_traces
from rios.reporting.sandbox import die_with
from rios.words.errors import RiosError

JOB, SOURCE, DATA, RESULT = "job.json", "source.ipynb", "data.json", "result.json"
NOTEBOOK, PAGE = "report.ipynb", "report.html"
FILE_MAX = 64 << 20
"""Bytes of any one file in the folder; a page with plotly.js has five million."""
ERROR_MAX = 4_000
"""Characters that are told of what went wrong."""


def run_in(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What became of it: state "ok", "partial" (a page with a banner) or "failed", and why."""
    import nbformat

    from rios.reporting.html import to_html

    error = ""
    executed = folder / NOTEBOOK
    with jupyter_in(folder / ".jupyter"):
        try:
            execute(folder / SOURCE, executed, job["parameters"], cell_timeout_s=job["cell_timeout_s"], say=_say)
        except RiosError as found:
            error = str(found).replace(SOURCE, f"{job['name']}.ipynb")
    if not executed.exists():
        return {"state": "failed", "error": error[:ERROR_MAX]}
    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    without_traces(notebook)
    executed.write_text(nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
    banner = f"This report is not complete and must not be relied on. {error}" if error else ""
    (folder / PAGE).write_text(to_html(notebook, job["title"], code=job["code"], banner=banner))
    return {"state": "partial" if error else "ok", "error": error[:ERROR_MAX]}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    folder = Path(sys.argv[1])
    if sys.argv[2:]:
        die_with(int(sys.argv[2]))
    job = json.loads((folder / JOB).read_text())
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_s"], job["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MAX, FILE_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    result = run_in(folder, job)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result["cpu_ns"] = sum(int((one.ru_utime + one.ru_stime) * 10**9) for one in used)
    (folder / RESULT).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
