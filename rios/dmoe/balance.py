"""One step's expert groups divided over the hosts that hold them, so that the last host ends as early as possible.

Longest processing time first (Graham, "Bounds on multiprocessing timing anomalies", 1969), with what a host costs taken
from its measured cost model (host_cost.py); where groups are few, a bounded search goes on from there. Called for every
layer of every token: plain lists and local names, no objects and no numpy, which costs more than it saves at these
sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rios.dmoe.host_cost import HostCost, Rates

__all__ = ["HostCost", "Rates", "divide"]

# A few large groups are where the greedy choice is at its worst, and few enough to try what else there is; a visit of
# the search takes a third of a microsecond.
_SEARCH_GROUPS = 8
_SEARCH_ALWAYS = 6
_SEARCH_VISITS = 128
# With more groups than are always searched, hosts that end within this part of the last one's time of each other are
# left as they are. (Even is not best where one host is cheap per call and another per row; it is near it.)
_EVEN_ENOUGH = 0.05


def divide(
    rows: Sequence[int],
    candidates: Sequence[Sequence[int]],
    rates: Sequence[Rates],
    busy_s: Sequence[float],
    *,
    avoid: Collection[int] = (),
) -> list[int]:
    """The host for each group of rows; a group (all rows of one expert) is never split.

    rows[g]: rows of group g. candidates[g]: the hosts that hold its expert and are healthy, at least one; of equal
    choices the earlier wins, so list the local host first. rates[h]: `HostCost.rates` of host h: seconds per call, per
    group and per row. busy_s[h]: seconds from now until h can start (negative: a head start). avoid: hosts that get a
    group only where no other host holds it.
    """
    if avoid:
        candidates = [[host for host in hosts if host not in avoid] or hosts for hosts in candidates]
    ends = list(busy_s)
    opening = [rate[0] for rate in rates]  # a host's fixed cost, until its first group has paid it
    chosen = [0] * len(rows)
    open_groups: list[int] = []
    for group, hosts in enumerate(candidates):
        if len(hosts) == 1:
            host = hosts[0]
            _, per_group, per_row = rates[host]
            ends[host] += opening[host] + per_group + per_row * rows[group]
            opening[host] = 0.0
            chosen[group] = host
        else:
            open_groups.append(group)
    open_groups.sort(key=rows.__getitem__, reverse=True)
    for group in open_groups:
        count = rows[group]
        earliest = float("inf")
        best = -1
        for host in candidates[group]:
            _, per_group, per_row = rates[host]
            end = ends[host] + opening[host] + per_group + per_row * count
            if end < earliest:
                earliest = end
                best = host
        ends[best] = earliest
        opening[best] = 0.0
        chosen[group] = best
    if 1 < len(open_groups) <= _SEARCH_GROUPS:
        last = max(chosen, key=ends.__getitem__)
        uneven = ends[last] - min(ends) > _EVEN_ENOUGH * (ends[last] - busy_s[last])
        if uneven or len(open_groups) <= _SEARCH_ALWAYS:
            _search(chosen, open_groups, rows, candidates, rates, busy_s, ends[last])
    return chosen


def _search(
    chosen: list[int],
    open_groups: list[int],
    rows: Sequence[int],
    candidates: Sequence[Sequence[int]],
    rates: Sequence[Rates],
    busy_s: Sequence[float],
    latest: float,
) -> None:
    """Branch and bound, depth first, from the greedy choice, which ends at `latest`; improves `chosen` in place."""
    ends = list(busy_s)
    opening = [rate[0] for rate in rates]
    open_set = set(open_groups)
    for group, host in enumerate(chosen):
        if group not in open_set:
            ends[host] += opening[host] + rates[host][1] + rates[host][2] * rows[group]
            opening[host] = 0.0
    depth = len(open_groups)
    trial = [0] * depth
    visits = _SEARCH_VISITS

    def descend(at: int, until: float) -> None:
        """Place the groups from `at` on; `until` is when the last of the hosts used so far ends."""
        nonlocal latest, visits
        if at == depth:
            latest = until
            for group, host in zip(open_groups, trial, strict=True):
                chosen[group] = host
            return
        group = open_groups[at]
        count = rows[group]
        for host in candidates[group]:
            before, unopened = ends[host], opening[host]
            _, per_group, per_row = rates[host]
            end = before + unopened + per_group + per_row * count
            if end >= latest or visits <= 0:
                continue
            visits -= 1
            ends[host] = end
            opening[host] = 0.0
            trial[at] = host
            descend(at + 1, max(until, end))
            ends[host] = before
            opening[host] = unopened

    fixed = [ends[host] for group, host in enumerate(chosen) if group not in open_set]
    descend(0, max(fixed, default=-float("inf")))
