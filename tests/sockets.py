"""Where sockets were made: one that is left unclosed is found out in some later test, which says nothing of it."""

from __future__ import annotations

import re
import socket
import sys
from collections import defaultdict, deque
from types import FrameType
from typing import Any

_FRAMES, _KEPT = 12, 4
_UNCLOSED = re.compile(r"unclosed <\S*[Ss]ocket\S* fd=(\d+)")
_made: defaultdict[int, deque[list[str]]] = defaultdict(lambda: deque(maxlen=_KEPT))
"""By descriptor: where the last sockets were made that had it."""


def remember() -> None:
    """Note where each socket of this process is made, from now on."""
    first = socket.socket.__init__

    def noted(self: socket.socket, *args: Any, **more: Any) -> None:
        first(self, *args, **more)
        frame: FrameType | None = sys._getframe(1)
        places: list[str] = []
        while frame is not None and len(places) < _FRAMES:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        _made[self.fileno()].append(places)

    socket.socket.__init__ = noted  # type: ignore[method-assign]


def made_where(failure: str) -> str:
    """Where the unclosed sockets that a failure names may have been made, the last first; empty if it names none."""
    found = [
        "\n".join((f"a socket with descriptor {number}:", *places))
        for number in _UNCLOSED.findall(failure)
        for places in reversed(list(_made[int(number)]))
    ]
    return "\n\n".join(found)
