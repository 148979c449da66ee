"""Lines of an instance in two files, of which the older is thrown away when the newer is full.

A line is `SECONDS STREAM TEXT`, with seconds since 1970 that never fall within an instance. `logs.py` reads them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

LINE_MAX = 1 << 14
"""Bytes; a longer line becomes several."""


class LogWriter:
    """Takes what two pipes deliver, and writes lines."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        self._path, self._keep = path, keep_bytes
        self._file: BinaryIO = path.open("ab")
        self._size = path.stat().st_size
        self._begun = {"stdout": b"", "stderr": b""}
        self._last = 0.0

    def feed(self, stream: str, data: bytes) -> None:
        """data: what was read; empty at the end of the stream, which ends its last line too."""
        text = self._begun[stream] + data
        *lines, rest = text.split(b"\n")
        while len(rest) > LINE_MAX:
            lines.append(rest[:LINE_MAX])
            rest = rest[LINE_MAX:]
        if not data and rest:
            lines.append(rest)
            rest = b""
        self._begun[stream] = rest
        for line in lines:
            for start in range(0, max(len(line), 1), LINE_MAX):
                self._write(stream, line[start : start + LINE_MAX])
        self._file.flush()

    def _write(self, stream: str, line: bytes) -> None:
        self._last = max(time.time(), self._last + 1e-6)
        record = f"{self._last:.6f} {stream} ".encode() + line.rstrip(b"\r") + b"\n"
        if self._size + len(record) > self._keep:
            self._file.close()
            self._path.replace(self._path.with_suffix(".1"))
            self._file = self._path.open("wb")
            self._size = 0
        self._file.write(record)
        self._size += len(record)
