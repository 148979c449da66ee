"""A layer's rows to the hosts that hold its experts, and back.

One `Dispatcher` serves one trunk, in the trunk's thread. For each layer it groups the rows by expert, divides whole
groups over the hosts so that all end together, sends each host what it needs in one frame, computes its own share
meanwhile, and waits. A host that errs, is silent beyond its deadline or has gone loses its groups to the next
replica; one slower than its usual 95th percentile gets a hedge. The first answer is used, the other thrown away.

A group is never split or merged on its way: the bits of a small matmul depend on how many rows it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from rios.dmoe.balance import HostCost
from rios.dmoe.combine import Combiner
from rios.dmoe.grouping import group
from rios.dmoe.layer_run import LayerRun
from rios.dmoe.link import State
from rios.dmoe.links import Links
from rios.dmoe.metering import Reply
from rios.dmoe.pairs import Pairs
from rios.words.config import Settings
from rios.words.errors import RiosError

if TYPE_CHECKING:
    from rios.dmoe.experts import ExpertStore
    from rios.dmoe.seam import StepContext

LOCAL_GUESS = (2e-5, 2e-4, 2e-5)  # like a remote host's, without the way there and back


@dataclass(slots=True)
class Counters:
    """What happened since the trunk started; for metrics and tests."""

    calls: int = 0
    hedges: int = 0
    failures: int = 0
    waits: int = 0
    first_choices: dict[str, int] = field(default_factory=dict)


class Dispatcher:
    """The `ExpertsFn` of a trunk."""

    def __init__(
        self,
        links: Links,
        local: ExpertStore | None,
        settings: Settings,
        *,
        name: str,
        num_experts: list[int],
        partial: bool = False,
        wire_dtype: torch.dtype | None = None,
    ) -> None:
        self.links = links
        self.local = local
        self.name = name
        self.hosts: list[str] = [name]  # indices of `Reply.host`
        self.replies: list[Reply] = []
        self.metered_from: npt.NDArray[np.int32] | None = None
        self.work_items = 1
        self.counters = Counters()
        self.faults: dict[str, list[int]] = {}
        """Of this step, by host: calls that failed, and calls that were so late that others were asked too."""
        self.load: list[npt.NDArray[np.int64]] = [np.zeros(count, dtype=np.int64) for count in num_experts]
        self.pairs = Pairs(num_experts)
        self._local_cost = HostCost(LOCAL_GUESS)
        self._settings = settings
        self._num_experts = num_experts
        self._partial = partial
        self._context: StepContext | None = None
        self._padded = False
        self._wire_dtype = wire_dtype
        self._host_index: dict[str, int] = {name: 0}

    def begin(self, work_items: int, metered_from: npt.NDArray[np.int32] | None) -> None:
        """Start a step of `work_items` requests; positions below `metered_from[i]` were accounted for earlier."""
        self.replies = []
        self.faults = {}
        self.pairs.begin()
        self.work_items = work_items
        self.metered_from = metered_from

    def __call__(
        self,
        layer: int,
        hidden: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor,
        context: StepContext,
    ) -> torch.Tensor:
        """Weighted sum of the experts' outputs: [tokens, hidden], the model's own combination order and dtype."""
        tokens, top_k = index.shape
        if context is not self._context:
            self._context, self._padded = context, bool((context.owner < 0).any())
        padded = self._padded
        chosen = index.cpu().numpy()
        groups = group(chosen, context.owner, self._num_experts[layer], padded=padded)
        self.load[layer][groups.experts] += groups.counts
        if self.pairs.counting:
            self.pairs.take(layer, chosen, context.owner)
        out = Combiner(hidden, weights, top_k, partial=self._partial, zero=padded or len(groups.slots) < tokens * top_k)
        LayerRun(self, layer, hidden, groups, context, out).run()
        return out.result()

    def look(self) -> None:
        """Between steps: what came late is thrown away, and a host that has gone is connected to again now, not when
        the next step asks it: a trunk that stands by has asked nobody for long when it takes over."""
        for link in self.links.links:
            if link.state is State.DOWN:
                continue
            try:
                link.drain()
            except RiosError as error:
                self.links.lose(link, str(error))

    def failed(self, host: str) -> None:
        """A call of this step failed."""
        self.counters.failures += 1
        self.faults.setdefault(host, [0, 0])[0] += 1

    def hedged(self, host: str) -> None:
        """A call of this step was so late that others are asked too."""
        self.counters.hedges += 1
        self.faults.setdefault(host, [0, 0])[1] += 1

    def host_index(self, name: str) -> int:
        """The small number of a host in `Reply.host`."""
        place = self._host_index.get(name)
        if place is None:
            place = self._host_index[name] = len(self.hosts)
            self.hosts.append(name)
        return place
