"""The lines of a deployment from the oldest on, in pages: each replica has a place of its own, for clocks differ."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from rios.deploy.runtimes.protocol import LogLine
from rios.words.display import Shown
from rios.words.errors import HostLost, NotFound

if TYPE_CHECKING:
    from rios.services.deployments.platform import Platform


@dataclass(frozen=True, slots=True)
class LinePage(Shown):
    """Lines, each with its replica's id: those of one in their order, of several by their hosts' clocks."""

    lines: list[tuple[str, LogLine]]
    places: dict[str, float]
    """Where each replica is read on from: the moment of its last line, by its host's clock (seconds since 1970)."""
    more: bool
    """Whether there are further lines at once."""


def lines_after(
    platform: Platform, app_id: str, places: Mapping[str, float], *, replica: str | None, limit: int
) -> LinePage:
    """The `limit` oldest lines of all replicas, or of one, that come after the places.

    Hosts that do not answer are left out; what is left out keeps its place. Raises HostLost where such a replica is
    asked for.
    """
    hosts, logged = platform.hosts.now(), platform.store.logged(app_id)
    # Of one that is not logged any more nothing comes: its place need not be kept.
    found, kept = list[tuple[str, LogLine]](), {one.id: places[one.id] for one in logged if one.id in places}
    for one in logged:
        host = hosts.get(one.host)
        if host is None or replica not in (None, one.id):
            continue
        try:
            lines = list(islice(host.logs(one.id, since=kept.get(one.id, 0.0)), limit + 1))
        except NotFound:
            continue
        except HostLost:
            if replica is not None:
                raise
            continue
        if lines:
            mine = ((one.id, line) for line in lines)
            found = list(islice(heapq.merge(found, mine, key=lambda pair: pair[1].at), limit + 1))
    page = found[:limit]
    return LinePage(page, {**kept, **{name: line.at for name, line in page}}, len(found) > limit)
