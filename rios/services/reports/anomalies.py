"""Days that stand out: by the median of the days before and their median distance from it (Hampel's identifier)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rios.services.moments import moment_of
from rios.services.reports import documents as doc
from rios.services.reports.periods import DAY_US, Span

DAYS = 28
"""So many days before are looked at."""
KNOWN_MIN = 7
"""Of which something must be known about so many."""
SPREADS = 5
"""A day stands out that is farther from the median than so many median distances: 3.4 standard deviations of a normal
distribution, for which one is 1.4826 median distances (Hampel 1974, The influence curve and its role)."""
SHARE_BP, SHARE_WHOLE = 3_000, 10_000
"""And by no less than this share of the median: what is nearly the same every day may move a little."""
FLOOR_BP = 100
"""And by no less than this share of what all together cost on that day: what costs next to nothing is none either."""
SHOWN_MAX = 50


def anomalies(daily: Mapping[tuple[str, str], Mapping[int, int]], span: Span) -> Iterator[doc.Anomaly]:
    """The days of `span` that stand out, by all together, user, model and worker. The farthest first.

    daily: (what, key) to day number to net wei, with ("all", "") for the whole.
    """
    whole = daily.get(("all", ""), {})
    found = []
    for (by, key), days in daily.items():
        first = min(days, default=0)
        for day in span.days:
            start = max(first, day - DAYS)
            if day - start < KNOWN_MIN:
                continue
            past = sorted(days.get(one, 0) for one in range(start, day))
            usual = past[len(past) // 2]
            spread = sorted(abs(amount - usual) for amount in past)[len(past) // 2]
            net = days.get(day, 0)
            distance = abs(net - usual)
            least = max(
                SPREADS * spread, abs(usual) * SHARE_BP // SHARE_WHOLE, whole.get(day, 0) * FLOOR_BP // SHARE_WHOLE
            )
            if distance > least:
                found.append((-distance, by, key, day, net, usual, spread))
    for _, by, key, day, net, usual, spread in sorted(found)[:SHOWN_MAX]:
        yield doc.Anomaly(
            by=by, key=key, day=f"{moment_of(day * DAY_US):%Y-%m-%d}", net_wei=str(net), usual_wei=str(usual),
            spread_wei=str(spread),
        )  # fmt: skip
