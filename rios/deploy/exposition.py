"""Metrics that an application says of itself: one number, or the text format of Prometheus.

The format is that of prometheus.io/docs/instrumenting/exposition_formats, "Text-based format", version 0.0.4. Samples
of one name that differ by their labels are added up. What comes from an application is a stranger's: it is short, and
what is no finite number is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rios.words.errors import InvalidRequest

TEXT_MAX = 1 << 20
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*\})?[ \t]+(\S+)")
_COUNTS = ("_total", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class Said:
    """A metric of one replica at one moment."""

    value: float
    is_counter: bool
    """Whether it only grows, so that what counts is by how much in a second."""


def taken(
    last: tuple[float, float] | None, said: Said, now: float, before: float | None
) -> tuple[float | None, tuple[float, float] | None]:
    """The value that counts, and what the next one of a counter is compared with."""
    if not said.is_counter:
        return said.value, None
    if last is None or said.value < last[1] or now <= last[0]:  # the first one, or a program that began anew
        return (None if last is None else before), (now, said.value)
    return (said.value - last[1]) / (now - last[0]), (now, said.value)


def read_metric(text: str, name: str = "") -> Said:
    """The metric called `name`, or ending in `*name` where it begins with a star; without a name, the one number.

    Raises InvalidRequest, which says what is there instead.
    """
    if not name:
        return Said(_finite(text.strip(), "the answer"), is_counter=False)
    kinds: dict[str, str] = {}
    found: list[float] = []
    names: set[str] = set()
    counts = False
    for line in text.splitlines():
        words = line.split()
        if line.startswith("#"):
            if len(words) == 4 and words[1] == "TYPE":
                kinds[words[2]] = words[3]
            continue
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        names.add(sample[1])
        if sample[1] == name or (name.startswith("*") and sample[1].endswith(name[1:])):
            found.append(_finite(sample[2], sample[1]))
            kind = kinds.get(sample[1])
            counts = counts or (sample[1].endswith(_COUNTS) if kind is None else kind == "counter")
    if not found:
        there = ", ".join(sorted(names)[:8]) or "no metric at all"
        raise InvalidRequest(f"there is no metric {name}; there is {there}")
    return Said(math.fsum(found), is_counter=counts)


def _finite(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequest(f"{what} is {text[:40]!r}, and no finite number")
    return value
