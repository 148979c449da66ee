"""How many hosts a network should have, for who scales its Dask cluster from outside, such as Kubernetes' operator.

A preload of the scheduler: `dask scheduler --preload rios.dmoe.wanted`. Who asks `GET /api/v1/adaptive_target`, or by
Dask's own call of that name, is told by Dask how many workers its tasks need, and experts are served without tasks. By
this he is told what the requests need that trunks have, `RIOS_HOST_REQUESTS` for each host, as `rios.deploy.autoscale`
follows them; or what tasks need, where that is more. Dask's routes `/api/v1` are served then, which it leaves out by
itself: who reaches the port of the scheduler's pages can retire workers by them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from distributed import Scheduler
from distributed.http.utils import get_handlers
from tornado.ioloop import PeriodicCallback

from rios.deploy.autoscale import Scaler, Target
from rios.dmoe.control import welcomes
from rios.dmoe.membership import peers_of
from rios.words.config import Settings, settings

log = logging.getLogger(__name__)

now = time.monotonic
"""The clock of the scaler."""
LOOK_S = 2.0
_JOIN_S = 60.0
"""After a scheduler's start nothing is said for so long: hosts that were there come back meanwhile."""
_WINDOW_S = 300.0
"""A host takes its shards with it: fewer are wanted once they were too many for so long."""
_START_S = 60.0
_HOSTS_MAX = 100_000
_NAME = "rios-wanted"
_ROUTES = "distributed.http.scheduler.api"


def under_way(answers: Mapping[str, Mapping[str, Any]]) -> int:
    """The requests that trunks run or have waiting, by what hosts say of themselves. Those without money do nothing."""
    deployments = [one for said in answers.values() for one in said.get("deployments", {}).values()]
    trunks = [one["trunk"] for one in deployments if one.get("trunk")]
    return sum(int(trunk["running"]) + int(trunk["waiting"]) for trunk in trunks)


class Wanted:
    """Looks at the hosts of one scheduler, in its event loop."""

    def __init__(self, scheduler: Scheduler, options: Settings) -> None:
        self._scheduler, self._options = scheduler, options
        self._by_tasks = scheduler.adaptive_target
        bounds = Target(
            minimum=1,
            maximum=_HOSTS_MAX,
            per_replica=options.host_requests,
            window_s=_WINDOW_S,
            start_s=_START_S,
        )
        self._scaler = Scaler(bounds)
        self._began_s: float | None = None
        self._hosts = 0
        self._decided: deque[tuple[float, int]] = deque()
        """When, and how many hosts the load needed then, for the window."""

    def __repr__(self) -> str:
        return f"<Wanted: {self._hosts} hosts>"

    async def look(self) -> None:
        """Decide anew. While no host answers, what was decided stands."""
        workers = self._scheduler.identity(n_workers=-1)["workers"]
        peers = {name: peer for name, (peer, _) in peers_of(workers).items()}
        answers = await asyncio.to_thread(welcomes, peers, self._options, session="wanted")
        if not answers:
            return
        now_s = now()
        if self._began_s is None:
            self._began_s = now_s
        load = float(under_way(answers))
        hosts, why = self._scaler.decide(now_s, load=load, waiting=0.0, current=self._hosts)
        if now_s - self._began_s < _WINDOW_S:  # nobody knows yet for how long those that are there were too many
            hosts = max(hosts, self._hosts, len(peers))
        # Replicas go soon where nothing is under way; hosts do not.
        self._decided.append((now_s, hosts))
        while self._decided[0][0] < now_s - _WINDOW_S:
            self._decided.popleft()
        hosts = max(one for _, one in self._decided)
        if hosts != self._hosts:
            log.info("hosts are wanted", extra={"hosts": self._hosts, "then": hosts, "reason": why})
        self._hosts = hosts

    def target(self, target_duration: float | None = None) -> int:
        """In place of Dask's `Scheduler.adaptive_target`. Raises RuntimeError at first: nobody scales then."""
        if self._began_s is None or now() - self._began_s < _JOIN_S:
            raise RuntimeError(f"how many hosts are wanted is said {_JOIN_S:g} s after the first one came")
        by_tasks: int = self._by_tasks(target_duration)
        return max(self._hosts, by_tasks)


async def dask_setup(scheduler: Scheduler) -> None:
    """Called by Dask when a scheduler preloads this module."""
    wanted = Wanted(scheduler, settings())
    scheduler.adaptive_target = wanted.target  # type: ignore[method-assign]
    scheduler.handlers["adaptive_target"] = wanted.target
    scheduler.http_application.add_handlers(".*$", get_handlers(scheduler, [_ROUTES]))
    look = PeriodicCallback(wanted.look, LOOK_S * 1000)
    scheduler.periodic_callbacks[_NAME] = look  # which ends with it
    look.start()
