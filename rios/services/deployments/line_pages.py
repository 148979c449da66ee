"""The lines of a deployment from the oldest on, in pages: each replica has a place of its own, for clocks differ."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from rios.deploy.runtimes.protocol import LogLine
from rios.words.display import Shown
from rios.words.errors import HostLost, NotFound

if TYPE_CHECKING:
    from rios.services.deployments.platform import Platform
    from rios.services.deployments.values import Replica


@dataclass(frozen=True, slots=True)
class LinePage(Shown):
    """Lines, each with its replica's id: those of one in their order, of several by their hosts' clocks."""

    lines: list[tuple[str, LogLine]]
    places: dict[str, float]
    """Where each replica is read on from: the moment of its last line, by its host's clock (seconds since 1970)."""
    more: bool
    """Whether there are further lines at once."""


def read_each(
    platform: Platform,
    logged: Iterable[Replica],
    since: Callable[[str], float],
    *,
    replica: str | None,
    most: int | None = None,
) -> Iterator[list[tuple[str, LogLine]]]:
    """The lines of each replica, or of one, after a moment: so many at most, each with its replica's id.

    Hosts that do not answer are left out. Raises HostLost where such a replica is asked for.
    """
    hosts = platform.hosts.now()
    for one in logged:
        host = hosts.get(one.host)
        if host is None or replica not in (None, one.id):
            continue
        try:
            yield [(one.id, line) for line in islice(host.logs(one.id, since=since(one.id)), most)]
        except NotFound:
            continue
        except HostLost:
            if replica is not None:
                raise


def lines_after(
    platform: Platform, app_id: str, places: Mapping[str, float], *, replica: str | None, limit: int
) -> LinePage:
    """The `limit` oldest lines of all replicas, or of one, that come after the places.

    Hosts that do not answer are left out; what is left out keeps its place. Raises HostLost where such a replica is
    asked for.
    """
    logged = platform.store.logged(app_id)
    # Of one that is not logged any more nothing comes: its place need not be kept.
    found, kept = list[tuple[str, LogLine]](), {one.id: places[one.id] for one in logged if one.id in places}
    for mine in read_each(platform, logged, lambda name: kept.get(name, 0.0), replica=replica, most=limit + 1):
        found = list(islice(heapq.merge(found, mine, key=lambda pair: pair[1].at), limit + 1))
    page = found[:limit]
    return LinePage(page, {**kept, **{name: line.at for name, line in page}}, len(found) > limit)
