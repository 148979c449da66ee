"""What goes wrong on the way of one request: trunks that are lost, hosts that fail or are late, and where it stalls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rios.words.errors import Cancelled, RiosError
from rios.words.events import Fault

TRUNK_LOST, HOST_FAILED, HEDGED, STALLED, FAILED = "trunk lost", "host failed", "hedged", "stalled", "failed"
_HOSTS_MAX = 256
"""A trunk names the hosts, and might name any number."""
_NAME_MAX = 200


@dataclass(slots=True)
class _Seen:
    count: int = 0
    longest_us: int = 0


class Faults:
    """Those of one request, as its client sees them. Not safe for threads: its job has a lock."""

    __slots__ = ("_last", "_seen", "_stall_s")

    def __init__(self, stall_s: float) -> None:
        """stall_s: a longer wait between two tokens is a stall."""
        self._stall_s = stall_s
        self._last: float | None = None
        self._seen: dict[tuple[str, str], _Seen] = {}

    def tokens(self, now: float) -> None:
        """Tokens came, at a moment of the performance counter."""
        if self._last is not None and now - self._last > self._stall_s:
            self._add(STALLED, "", longest_us=int((now - self._last) * 1e6))
        self._last = now

    def rests(self) -> None:
        """It waited for money, which is no stall."""
        self._last = None

    def lost(self, trunk: str) -> None:
        """Its trunk was lost, and another one goes on."""
        self._add(TRUNK_LOST, trunk)

    def hosts(self, said: Mapping[str, Sequence[int]]) -> None:
        """In a step of it calls to these hosts failed, or were so late that others were asked too: how many of each.

        Raises TypeError or ValueError for what a trunk does not say.
        """
        for name, (failed, hedged) in said.items():
            for kind, count in ((HOST_FAILED, failed), (HEDGED, hedged)):
                if int(count) > 0 and len(self._seen) < _HOSTS_MAX:
                    self._add(kind, name[:_NAME_MAX])

    def found(self, error: RiosError | None) -> tuple[Fault, ...]:
        """All of them, when the request has ended; with what ended it, where nobody wanted that."""
        if error is not None and not isinstance(error, Cancelled):
            self._add(FAILED, type(error).__name__)
        return tuple(
            Fault(kind=kind, about=about, count=seen.count, longest_us=seen.longest_us)
            for (kind, about), seen in sorted(self._seen.items())
        )

    def _add(self, kind: str, about: str, *, longest_us: int = 0) -> None:
        seen = self._seen.setdefault((kind, about), _Seen())
        seen.count += 1
        seen.longest_us = max(seen.longest_us, longest_us)
