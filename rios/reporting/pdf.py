"""A page as PDF, by a Chromium of this machine; the same page gives the same bytes."""

from __future__ import annotations

import functools
import logging
import re
import shutil
import subprocess
from pathlib import Path

from rios.reporting.sandbox import apart, environment

log = logging.getLogger(__name__)

_TIMEOUT_S = 120
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HEADLESS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-crash-reporter", "--virtual-time-budget=20000",
)  # fmt: skip
"""How the browser draws a page: in a sandbox, without a window, without a network."""
_PRINTING = ("--no-pdf-header-footer", "--run-all-compositor-stages-before-draw")
_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")


@functools.cache
def browser() -> str | None:
    """The browser that prints, or None."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def to_pdf(page: Path, out: Path) -> bool:
    """Print `page` to `out` in the folder of both; False where no browser is there, or it fails (the log says why)."""
    found = browser()
    if found is None:
        return False
    folder = page.parent
    profile = folder / ".browser"
    command = [found, *HEADLESS, *_PRINTING, f"--user-data-dir={profile}", f"--print-to-pdf={out}", page.as_uri()]
    try:
        done = subprocess.run(
            apart(command, folder), env=environment(folder), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        log.warning("a report has no PDF: the browser took too long", extra={"timeout_s": _TIMEOUT_S})
        return False
    if not out.is_file():
        log.warning(
            "a report has no PDF",
            extra={"status": done.returncode, "reason": done.stderr[-300:].decode("utf-8", "replace")},
        )
        return False
    out.write_bytes(_DATE.sub(rb"\g<1>19700101000000", out.read_bytes()))
    return True
