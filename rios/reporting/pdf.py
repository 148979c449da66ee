"""A page as PDF, by a Chromium of this machine; the same page gives the same bytes."""

from __future__ import annotations

import functools
import logging
import re
import shutil
import subprocess
from pathlib import Path

from rios.reporting.sandbox import BWRAP, apart, environment, kind
from rios.words.errors import InvalidRequest
from rios.words.foreign import opened_folder, read_plain

log = logging.getLogger(__name__)

_TIMEOUT_S = 120
_PAGE, _PRINTED = "page.html", "page.pdf"
_PRINTED_MAX = 64 << 20
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_HEADLESS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-crash-reporter", "--virtual-time-budget=20000",
)  # fmt: skip
_PRINTING = ("--no-pdf-header-footer", "--run-all-compositor-stages-before-draw")
_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")


@functools.cache
def browser() -> str | None:
    """The browser that prints, or None."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def drawn(page: Path, *wanted: str) -> subprocess.CompletedProcess[bytes]:
    """The browser's own exit status and output once it has drawn `page`, in a sandbox without a network.

    wanted: what it is to make of it. It may write to the page's folder alone. Raises FileNotFoundError where there is
    no browser, and TimeoutExpired.
    """
    found = browser()
    if found is None:
        raise FileNotFoundError("no browser is installed: chromium")
    folder = page.parent
    profile = folder / ".browser"
    command = apart([found, *_HEADLESS, f"--user-data-dir={profile}", *wanted, page.as_uri()], folder)
    surroundings = environment(folder)
    if kind() == BWRAP:
        # Its sockets: the path of one has 108 characters at most, and the sandbox has a /tmp of its own.
        surroundings["TMPDIR"] = "/tmp"  # noqa: S108
    return subprocess.run(
        command, env=surroundings, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S,
        check=False,
    )  # fmt: skip


def to_pdf(page: bytes, folder: Path) -> bytes | None:
    """`page` printed in the empty `folder`; None where no browser is there, or it fails (the log says why).

    folder: its own, so that what is read afterwards was not put there by whoever wrote the page.
    """
    if browser() is None:
        return None
    (folder / _PAGE).write_bytes(page)
    with opened_folder(folder) as opened:
        try:
            done = drawn(folder / _PAGE, *_PRINTING, f"--print-to-pdf={folder / _PRINTED}")
        except subprocess.TimeoutExpired:
            log.warning("a report has no PDF: the browser took too long", extra={"timeout_s": _TIMEOUT_S})
            return None
        try:
            printed = read_plain(opened, _PRINTED, bytes_max=_PRINTED_MAX)
        except (FileNotFoundError, InvalidRequest) as error:
            said = done.stderr[-300:].decode("utf-8", "replace")
            log.warning("a report has no PDF", extra={"status": done.returncode, "reason": f"{error}; {said}"})
            return None
    return _DATE.sub(rb"\g<1>19700101000000", printed)
