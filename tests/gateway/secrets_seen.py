"""Everything that is logged while tests run, searched for what must never be in a log."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rios.words.logs import JsonFormatter

SECRETS = re.compile(
    r"rios_[a-z]{2}_[\w-]{16,}"  # API keys, refresh tokens and what else a user could sign in with
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"  # access tokens
    r"|\$argon2|PRIVATE KEY|(?i:bearer) [\w.~+/-]{16,}|(?i:basic) [\w+/=]{16,}"
    r"|correct horse battery"  # the password of these tests
)
_FOR_BROWSERS = re.compile(r"et-cookie|[?&]code=rios_ac_").search
FILES: list[Path] = []
"""The logs of gateways that are processes of their own."""


_MARK = logging.getLogger("rios.search")
CANARY = "rios.canary"
"""What this logger says is meant to be found, and by the nearest search alone."""


class _Everything(logging.Handler):
    def __init__(self, *, canaries: bool) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(lambda record: canaries or record.name != CANARY)
        # A test that is a browser logs the cookies and the codes that it is given; no part of rios has any.
        self.addFilter(lambda record: not (record.name.startswith("httpcore2") and _FOR_BROWSERS(record.getMessage())))
        self.setFormatter(JsonFormatter())
        self.count = 0
        self.marks: list[str] = []
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self.count += 1
        if record.name == _MARK.name:
            self.marks.append(line)
        if SECRETS.search(line):
            self.found.append(f"{os.environ.get('PYTEST_CURRENT_TEST', '')}: {line}")


@contextmanager
def searched(*, canaries: bool = False) -> Iterator[list[str]]:
    """Within, all loggers of this process are heard, those of rios at DEBUG, and each line is searched when it is said;
    at the end the files of processes are, too. What is yielded are the marks of the search itself."""
    heard = _Everything(canaries=canaries)
    root, ours = logging.getLogger(), logging.getLogger("rios")
    level = ours.level
    for logger in (root, ours):  # ours passes nothing on once a command has configured it
        logger.addHandler(heard)
    ours.setLevel(logging.DEBUG)
    before = len(FILES)
    _MARK.debug("the search begins")
    try:
        yield heard.marks
    finally:
        _MARK.debug("the search ends")
        for logger in (root, ours):
            logger.removeHandler(heard)
        ours.setLevel(level)
    begin, end = (len([line for line in heard.marks if f"the search {word}" in line]) for word in ("begins", "ends"))
    assert begin, "not even the beginning of the search was heard"
    assert end, "not even the end of the search was heard: somebody has turned logs off meanwhile"
    lines = [f"{path}: {line}" for path in FILES[before:] for line in path.read_text(errors="replace").splitlines()]
    found = [f"{line[:300]} ..." for line in (*heard.found, *(line for line in lines if SECRETS.search(line)))]
    assert not found, f"{len(found)} lines of {heard.count + len(lines)} have a secret in them: {found[:3]}"
