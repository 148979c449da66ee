"""One layer's rows on their way: sent, computed, waited for, hedged and sent again, until each group is answered."""

from __future__ import annotations

import logging
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from rios.dmoe.balance import divide
from rios.dmoe.calls import PARTIAL, SLOTS, decode_result, encode_exec, weighted_sum
from rios.dmoe.combine import Combiner
from rios.dmoe.grouping import Groups
from rios.dmoe.link import Link, State
from rios.dmoe.metering import Reply
from rios.dmoe.shm import give_way
from rios.dmoe.tensors import indices
from rios.dmoe.wire import Frame, Kind
from rios.words.errors import DeadlineExceeded, ExpertsUnavailable, HostLost, ProtocolError

if TYPE_CHECKING:
    from rios.dmoe.dispatch import Dispatcher
    from rios.dmoe.seam import StepContext

log = logging.getLogger(__name__)

LOCAL = 0  # the trunk's own host among the candidates; links follow
# A host that was not chosen for so many layers in a row is asked for one group that somebody else computes as well: a
# sixth of the layers at most, on a core that had nothing to do. Three times in a row, because the first call only wakes
# it up: what a host costs that is asked in every layer shows in those that follow.
PASSED_OVER = 16
IN_A_ROW = 3


@dataclass(slots=True)
class Call:
    """Groups under way to one host."""

    link: Link
    groups: list[int]
    slots: npt.NDArray[np.int64]
    sent: npt.NDArray[np.int64]  # the distinct tokens sent, ascending
    wire_bytes: int
    started: float
    hedge_at: float
    deadline: float
    late: bool = False  # beyond what is usual: others are asked as well
    hedged: bool = False  # and all of it is under way to others
    looked: bool = False  # for its answer, in vain so far


class LayerRun:
    """One layer's rows on their way."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        layer: int,
        hidden: torch.Tensor,
        groups: Groups,
        context: StepContext,
        out: Combiner,
    ) -> None:
        self.d = dispatcher
        self.layer = layer
        self.hidden = hidden
        self.groups = groups
        self.context = context
        self.out = out
        self.left = set(range(len(groups.experts)))
        self.calls: list[Call] = []
        self._failing_since: float | None = None
        """The first failure since something was accepted last."""
        self._pause_s = 0.0

    def run(self) -> None:
        """Until every group has been answered, or `ExpertsUnavailable`."""
        if not self.left:
            return
        self._send(list(self.left), avoid=frozenset())
        while self.left:
            if not self.calls:
                self._wait_for_holders()
            else:
                self._collect()
            self._check_patience()
        for call in self.calls:
            call.link.abandon()
        self._probe()

    # --- sending ---------------------------------------------------------------------------------------------

    def _send(self, wanted: list[int], avoid: frozenset[Link], *, first: bool = True) -> None:
        """Divide groups over idle holders, start the remote ones, then compute the local share.

        Groups without an idle holder stay in `left` without a call.
        """
        d = self.d
        chosen, candidates, links = self._options(wanted, avoid)
        costs = [d._local_cost, *(link.cost for link in links)]
        if not chosen:
            return
        if len(costs) == 1:
            shares = {LOCAL: chosen}
        else:
            shares = {}
            # This thread waits for whoever is last, so its own host is never avoided: were it slow, all would be.
            slow = [place for place, cost in enumerate(costs) if cost.slow and place != LOCAL]
            placed = divide(
                [self.groups.counts[g] for g in chosen],
                candidates,
                [cost.rates for cost in costs],
                [0.0] * len(costs),
                avoid=slow,
            )
            for g, place in zip(chosen, placed, strict=True):
                shares.setdefault(place, []).append(g)
            if LOCAL not in shares:
                d._local_cost.pass_over()
            for place, link in enumerate(links, start=1):
                link.passed_over = 0 if place in shares else link.passed_over + 1
        for place, mine in shares.items():
            if place != LOCAL:
                link = links[place - 1]
                if first:
                    d.counters.first_choices[link.name] = d.counters.first_choices.get(link.name, 0) + 1
                self._start(link, mine)
        if LOCAL in shares:
            self._compute(shares[LOCAL])

    def _options(
        self, wanted: list[int], avoid: frozenset[Link]
    ) -> tuple[list[int], list[tuple[int, ...]], list[Link]]:
        """Groups that somebody idle holds, who could compute each (LOCAL, or 1 + a place in the links), the links."""
        d, experts = self.d, self.groups.experts
        table = d.links.table[self.layer]
        held = d.local.held(self.layer) if d.local is not None else ()
        places: dict[Link, int] = {}
        candidates: list[tuple[int, ...]] = []
        chosen: list[int] = []
        for g in wanted:
            options: list[int] = [LOCAL] if experts[g] in held else []
            for link in table[experts[g]]:
                if link.state is State.BUSY and link.abandoned:
                    self._drain(link)
                if link.state is State.READY and link not in avoid:
                    options.append(places.setdefault(link, len(places) + 1))
            if options:
                chosen.append(g)
                candidates.append(tuple(options))
        return chosen, candidates, list(places)

    def _slots(self, mine: list[int]) -> npt.NDArray[np.int64]:
        groups = self.groups
        if len(mine) == len(groups.experts):
            return groups.slots
        return np.concatenate([groups.slots[groups.starts[g] : groups.starts[g + 1]] for g in mine])

    def _start(self, link: Link, mine: list[int], *, counts: bool = True) -> None:
        """Send groups to one host; each token travels at most once."""
        d, groups, hidden = self.d, self.groups, self.hidden
        slots = self._slots(mine)
        rows = slots // self.out.top_k
        tokens = hidden.shape[0]
        if tokens == 1:
            sent, slot_rows, payload = np.zeros(1, dtype=np.int64), rows, hidden
        else:
            sent, slot_rows = np.unique(rows, return_inverse=True)
            payload = hidden if len(sent) == tokens else hidden.index_select(0, indices(sent, hidden))
        if d._wire_dtype is not None:
            payload = payload.to(d._wire_dtype)
        meta, bodies = encode_exec(
            deployment=link.handle,
            layer=self.layer,
            experts=np.array([groups.experts[g] for g in mine], dtype=np.int32),
            counts=np.array([groups.counts[g] for g in mine], dtype=np.int32),
            slot_rows=slot_rows.astype(np.int32),
            hidden=payload,
            weights=self.out.flat_weights(slots) if d._partial else None,
        )
        timeout = d._settings.call_timeout_s
        hedge = max(d._settings.hedge_floor_s, link.cost.hedge_after_s(len(mine), len(slots)))
        started = time.perf_counter()
        # A long prefill on a slow host is not a frozen host: the deadline grows with what the work usually takes, and
        # with what it took in vain while nobody else could be asked.
        link.deadline = started + max(timeout, 4 * hedge, link.allowed_s)
        try:
            link.send(meta, bodies, (len(mine), len(slots)))
        except HostLost as error:
            self._fail(link, str(error))
            return
        d.counters.calls += 1
        if not counts:
            link.abandon()
            return
        call = Call(
            link,
            mine,
            slots,
            sent,
            len(meta) + sum(len(body) for body in bodies),
            started,
            started + min(hedge, timeout),
            link.deadline,
        )
        self.calls.append(call)

    def _compute(self, mine: list[int]) -> None:
        """The local share, in this thread. Where an expert was dropped since it was chosen, the groups stay `left`."""
        d, groups = self.d, self.groups
        assert d.local is not None
        slots = self._slots(mine)
        rows = slots // self.out.top_k
        counts = [groups.counts[g] for g in mine]
        started = time.perf_counter()
        slot_rows = indices(rows, self.hidden)
        try:
            output = d.local.compute(self.layer, self.hidden, slot_rows, [groups.experts[g] for g in mine], counts)
        except ExpertsUnavailable as error:
            log.info("chosen and dropped", extra={"host": d.name, "layer": self.layer, "reason": str(error)})
            return
        if d._partial:
            sent, inverse = np.unique(rows, return_inverse=True)
            output = weighted_sum(output, indices(inverse, output), self.out.flat_weights(slots), len(sent))
        else:
            sent = rows
        self.out.put(slots, sent, output)
        seconds = time.perf_counter() - started
        d._local_cost.observe(len(mine), len(slots), seconds)
        self._accept(d.name, mine, rows, int(seconds * 1e9), 0)

    # --- receiving -------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Wait for the next event of the calls under way: an answer, a failure, a hedge or a deadline."""
        d = self.d
        began = time.perf_counter()
        spin_until = began + d.links.spin_us * 1e-6
        turns = 0
        while True:
            for call in self.calls:
                if self._look(call):
                    return
            turns += 1
            if turns & 7:
                continue
            give_way(time.perf_counter() - began)
            now = time.perf_counter()
            for call in self.calls:
                if now >= call.deadline:
                    self.calls.remove(call)
                    self._fail(call.link, f"no answer for {now - call.started:.2f} s (RIOS_CALL_TIMEOUT_S)")
                    self._resend()
                    if not self._asked_of_nobody().isdisjoint(call.groups):
                        call.link.allowed_s = min(2 * (now - call.started), d._settings.experts_timeout_s)
                    return
                if now >= call.hedge_at and not call.hedged:
                    self._hedge(call)
                    return
            if now >= spin_until:
                self._sleep(min(min(c.deadline if c.hedged else c.hedge_at for c in self.calls) - now, 0.05))

    def _sleep(self, seconds: float) -> None:
        """Block until a socket has something to say."""
        poller = select.poll()
        for call in self.calls:
            call.link.sleeps(True)
            if (fd := call.link.fileno()) >= 0:
                poller.register(fd, select.POLLIN)
        try:
            if not any(call.link.arrived() for call in self.calls):
                poller.poll(max(0, int(seconds * 1000)) + 1)
        finally:
            for call in self.calls:
                call.link.sleeps(False)
                call.link.look_at_socket()

    def _look(self, call: Call) -> bool:
        """Take the call's answer if it is there. True when something changed."""
        try:
            frame = call.link.poll()
            if frame is None:
                call.looked = True
                return False
            self.calls.remove(call)
            self._take(call, frame)
        except (HostLost, ProtocolError, DeadlineExceeded) as error:  # the last: half a frame, and then nothing
            if call in self.calls:
                self.calls.remove(call)
            self._fail(call.link, str(error))
            self._resend()
        return True

    def _take(self, call: Call, frame: Frame) -> None:
        d = self.d
        if frame.kind is Kind.ERROR:
            self._refused(call, frame)
            return
        now = time.perf_counter()
        rows = len(call.sent) if d._partial else len(call.slots)
        output, compute_ns = decode_result(
            frame, rows=rows, width=self.hidden.shape[1], mode=PARTIAL if d._partial else SLOTS
        )
        # An answer that lay there at the first look came while this thread computed its own share: how long it took is
        # then what the host says and the usual way there and back.
        if call.looked:
            call.link.overhead_s += 0.1 * (max(now - call.started - compute_ns * 1e-9, 0.0) - call.link.overhead_s)
            seconds = now - call.started
        else:
            call.link.took_at_most(now - call.started - compute_ns * 1e-9)
            seconds = compute_ns * 1e-9 + call.link.overhead_s
        call.link.cost.observe(len(call.groups), len(call.slots), seconds)
        call.link.allowed_s = 0.0
        if not self.left.issuperset(call.groups):
            # A hedge answered some of these groups first: an answer is used whole or not at all.
            self._resend()
            return
        self.out.put(call.slots, call.sent, output)
        wire_bytes = call.wire_bytes + len(frame.meta) + len(frame.body)
        self._accept(call.link.name, call.groups, call.slots // self.out.top_k, compute_ns, wire_bytes)

    def _accept(
        self, host: str, mine: list[int], rows: npt.NDArray[np.int64], compute_ns: int, wire_bytes: int
    ) -> None:
        """Tick groups off and keep what the reply measured."""
        d, context = self.d, self.context
        self.left.difference_update(mine)
        self._failing_since, self._pause_s = None, 0.0
        counted: npt.NDArray[np.int64] | tuple[int]
        if d.work_items == 1 and d.metered_from is None:
            counted = (len(rows),)
        else:
            owners = context.owner[rows]
            if d.metered_from is not None:
                owners = owners[context.position[rows] >= d.metered_from[owners]]
            counted = np.bincount(owners, minlength=d.work_items)
        d.replies.append(Reply(self.layer, d.host_index(host), compute_ns, wire_bytes, counted))

    def _refused(self, call: Call, frame: Frame) -> None:
        """The host answered with an error: it lacks the experts, or ran out of memory."""
        said = frame.json()
        if said.get("error") == "NotHeld":
            try:
                experts = [int(expert) for expert in said["experts"]]
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                raise ProtocolError(f"an ERROR frame that cannot be read: {error!r}") from error
            self.d.links.forget(call.link, self.layer, experts)
            self.d.counters.failures += 1  # experts move: no fault of the host
        else:
            call.link.last_error = str(said.get("message"))
            log.warning("call refused", extra={"host": call.link.name, "reason": call.link.last_error})
            # It would refuse again at once, some thousand times a second.
            self._pause_s = min(max(2 * self._pause_s, 0.01), 0.5)
            self._fails()
            call.link.cost.observe(len(call.groups), len(call.slots), self.d._settings.call_timeout_s)
            self.d.failed(call.link.name)
        self._resend(avoid=call.link)

    # --- when something is wrong -----------------------------------------------------------------------------

    def _fails(self) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()

    def _check_patience(self) -> None:
        """Raise ExpertsUnavailable where the holders have only failed for as long as one waits for holders."""
        if not self.left or self._failing_since is None:
            return
        if time.monotonic() - self._failing_since >= self.d._settings.experts_timeout_s:
            for call in self.calls:
                call.link.abandon()
            raise ExpertsUnavailable(self._unavailable())

    def _fail(self, link: Link, reason: str) -> None:
        self._fails()
        self.d.failed(link.name)
        self.d.links.lose(link, reason)

    def _resend(self, *, avoid: Link | None = None) -> None:
        """Groups of a failed call, and all others that nobody is computing, go to the next replica.

        Where nobody can be asked now, the late calls are there to try again: what they had asked of others may be lost.
        """
        if wanted := self._asked_of_nobody():
            self._send(sorted(wanted), avoid=frozenset((avoid,)) if avoid else frozenset(), first=False)
        if self._asked_of_nobody():
            again = time.perf_counter() + max(self.d._settings.hedge_floor_s, self._pause_s)
            for call in self.calls:
                if call.late:
                    call.hedged, call.hedge_at = False, again

    def _hedge(self, call: Call) -> None:
        """Ask other holders as well; the slow one stays under way and may still answer first.

        Those that are busy with their own part of the layer are asked when they have done it, and those that were lost
        when they are connected again: for what they were asked too.
        """
        call.late = True
        before = len(self.left), len(self.calls)
        if wanted := self._asked_of_nobody():
            self._send(sorted(wanted), avoid=frozenset(other.link for other in self.calls), first=False)
        if (len(self.left), len(self.calls)) != before:
            self.d.hedged(call.link.name)
            call.link.cost.observe(len(call.groups), len(call.slots), time.perf_counter() - call.started)
        if self._asked_of_nobody():
            call.hedge_at = time.perf_counter() + self.d._settings.hedge_floor_s
        else:
            call.hedged = True
        if not self.left.intersection(call.groups) and call in self.calls:
            self.calls.remove(call)
            call.link.abandon()

    def _asked_of_nobody(self) -> set[int]:
        """Groups that are under way to nobody, but for those that are late."""
        return self.left.difference(*(call.groups for call in self.calls if not call.late))

    def _drain(self, link: Link) -> None:
        """Throw a late answer away if it has come by now."""
        try:
            link.drain()
            now = time.perf_counter()
            if link.state is State.BUSY and now >= link.deadline:
                self._fail(link, f"no answer for {now - link.busy_since:.2f} s (RIOS_CALL_TIMEOUT_S)")
        except (HostLost, ProtocolError, DeadlineExceeded) as error:
            self._fail(link, str(error))

    def _wait_for_holders(self) -> None:
        """No idle host holds the groups that are left: wait for one, up to the deadline."""
        d = self.d
        d.counters.waits += 1
        self._fails()
        if self._pause_s:
            time.sleep(self._pause_s)
        while not self.calls:
            self._send(list(self.left), avoid=frozenset(), first=False)
            if self.calls or not self.left:
                return
            self._check_patience()
            d.links.changed.clear()
            d.links.changed.wait(0.01)

    def _unavailable(self) -> str:
        experts = sorted(self.groups.experts[g] for g in self.left)
        hosts = ", ".join(f"{link.name} ({link.state.value}: {link.last_error})" for link in self.d.links.links)
        return (
            f"layer {self.layer}: no live host answers for experts {experts} after "
            f"{self.d._settings.experts_timeout_s:g} s (RIOS_EXPERTS_TIMEOUT_S); hosts: {hosts or 'none'}. "
            "Add a worker, or deploy with replicas=2"
        )

    def _probe(self) -> None:
        """Now and then ask a host that is thought slow or dear, without waiting for it, so that it can come back."""
        now = time.monotonic()
        for link in self.d.links.links:
            if link.abandoned:
                self._drain(link)
            if link.state is not State.READY:
                continue
            if link.probe_at > now if link.cost.slow else link.passed_over < PASSED_OVER:
                continue
            link.probe_at = now + self.d._settings.probe_s
            if link.cost.slow or link.passed_over >= PASSED_OVER + IN_A_ROW - 1:
                link.passed_over = 0
            held = link.held.get(self.layer, frozenset())
            mine = [g for g, expert in enumerate(self.groups.experts) if expert in held][:1]
            if mine:
                self._start(link, mine, counts=False)
