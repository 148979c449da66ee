"""Reading the lines that `log_writer.py` wrote, while it goes on writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rios.deploy.runtimes.protocol import LogLine

_FOLLOW_EVERY_S = 0.1


def _parsed(raw: bytes) -> LogLine | None:
    at, _, rest = raw.rstrip(b"\n").partition(b" ")
    stream, _, text = rest.partition(b" ")
    try:
        kind = stream.decode()
        if kind in ("stdout", "stderr"):
            return LogLine(float(at), "stdout" if kind == "stdout" else "stderr", text.decode(errors="replace"))
    except ValueError:
        pass  # a line cut off by the end of its host
    return None


def read_lines(path: Path, since: float) -> Iterator[LogLine]:
    """The kept lines with `at` > since."""
    for part in (path.with_suffix(".1"), path):
        if part.exists():
            with part.open("rb") as file:
                for raw in file:
                    line = _parsed(raw)
                    if line is not None and line.at > since:
                        yield line


def follow_lines(path: Path, since: float, ended: Callable[[], bool]) -> Iterator[LogLine]:
    """The kept lines, and those to come until `ended` says so. Lines written faster than two files hold are lost."""
    seen = None
    while True:
        last = ended()
        now = (path.stat().st_ino, path.stat().st_size) if path.exists() else None
        if now != seen:
            seen = now
            for line in read_lines(path, since):
                since = line.at
                yield line
        if last:
            return
        time.sleep(_FOLLOW_EVERY_S)
