"""Logs as container engines keep them: podman's `k8s-file` and Docker's `json-file`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rios.deploy.runtimes.protocol import LogLine

_FOLLOW_EVERY_S = 0.1


def seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time of up to nine decimals; 0.0 for the engines' "never", the year 1."""
    if text.startswith("0001-"):
        return 0.0
    whole, dot, rest = text.partition(".")
    if not dot:
        return datetime.fromisoformat(text).timestamp()
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] or "Z"
    base = datetime.fromisoformat(whole + zone).astimezone(UTC).timestamp()
    return base + float(f"0.{digits}")


def _parsed(raw: str) -> tuple[float, Literal["stdout", "stderr"], str, bool] | None:
    """(time, stream, text, whether the line ends with it) of a line of the file; None for one that is cut off."""
    try:
        if raw.startswith("{"):
            data = json.loads(raw)
            text = str(data["log"])
            stream: Literal["stdout", "stderr"] = "stdout" if data["stream"] == "stdout" else "stderr"
            return seconds(data["time"]), stream, text.rstrip("\n"), text.endswith("\n")
        at, name, tag, text = raw.rstrip("\n").split(" ", 3)
        return seconds(at), "stdout" if name == "stdout" else "stderr", text, tag == "F"
    except (ValueError, KeyError):
        return None


def read_lines(path: Path, since: float, *, ended: bool) -> Iterator[LogLine]:
    """The lines of a log file with `at` > since; parts of a line are put together. ended: nothing more will come."""
    begun = {"stdout": "", "stderr": ""}
    if not path.exists():
        return
    last = 0.0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for raw in file:
            parsed = _parsed(raw)
            if parsed is None:
                continue
            at, stream, text, ends = parsed
            begun[stream] += text
            if ends:
                # Two lines of one moment are two moments, so that `since` cannot lose one.
                last = max(at, last + 1e-6)
                if last > since:
                    yield LogLine(last, stream, begun[stream].rstrip("\r"))
                begun[stream] = ""
    for stream, text in (("stdout", begun["stdout"]), ("stderr", begun["stderr"])):
        if ended and text:
            last += 1e-6
            if last > since:
                yield LogLine(last, "stdout" if stream == "stdout" else "stderr", text)


def follow_lines(path: Path, since: float, ended: Callable[[], bool]) -> Iterator[LogLine]:
    """The lines that are there, and those to come until `ended` says so."""
    seen = None
    while True:
        last = ended()
        now = (path.stat().st_size if path.exists() else -1, last)
        if now != seen:
            seen = now
            for line in read_lines(path, since, ended=last):
                since = line.at
                yield line
        if last:
            return
        time.sleep(_FOLLOW_EVERY_S)
