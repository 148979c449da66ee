"""Continuous batching: one thread, one loop; requests join and leave between steps.

    Sequence -> Batch.submit -> admit (a place in the KV cache) -> prefill in chunks -> decode -> finished
                                                                                        decode <-> paused

`step` is: take what arrived, admit what fits, and one chunk of prompts together with one token for everybody who has
read theirs. Whoever has the tokens that it is allowed is paused: in no step, and in its place until others need that.
"""

from __future__ import annotations

import collections
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rios.dmoe import device as devices
from rios.dmoe.dispatch import Dispatcher
from rios.dmoe.metering import packed, shares
from rios.dmoe.params import SamplingParams
from rios.dmoe.sampling import Choice, NoChoice, choose
from rios.dmoe.stopping import StopText
from rios.dmoe.trunk import Slot, Trunk
from rios.words.config import Settings
from rios.words.errors import InsufficientMemory, QueueFull, RiosError

log = logging.getLogger(__name__)

# Where nothing is to be done, hosts that have gone are looked for this often: sooner than what was lost comes back.
_IDLE_LOOK_S = 0.1


@dataclass(slots=True)
class Emission:
    """What one step has for one client: tokens, ends, and the shares of the replies that made them."""

    tokens: list[tuple[int, int]] = field(default_factory=list)  # (handle, token id)
    extras: dict[str, Any] = field(default_factory=dict)
    shares: bytes = b""
    """Records of `metering.SHARE`."""


@dataclass(slots=True, eq=False)
class Request:
    """One request in a trunk. `tokens` is the prompt and what a lost trunk had generated already."""

    client: object
    handle: int
    tokens: list[int]
    prompt_tokens: int
    params: SamplingParams
    seed: int
    eos: frozenset[int]
    metered_from: int = 0
    allowed: int = sys.maxsize  # new tokens that it may have by now
    stop: StopText | None = None
    slot: Slot | None = None
    done: int = 0  # tokens in the cache
    request_id: str = ""

    @property
    def generated(self) -> int:
        """New tokens so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def capacity(self) -> int:
        """Tokens the cache must hold for this request: the last one generated is never fed."""
        return max(self.prompt_tokens + self.params.max_new_tokens - 1, 1)


Emit = Callable[[object, Emission], None]


def _among(request: Request, cancelled: set[tuple[object, int | None]]) -> bool:
    return (request.client, request.handle) in cancelled or (request.client, None) in cancelled


def _about(request: Request) -> dict[str, Any]:
    """What a line of the log says of a request."""
    return {"request_id": request.request_id, "generated": request.generated}


class Batch:
    """The running batch of one trunk."""

    def __init__(self, trunk: Trunk, dispatcher: Dispatcher, settings: Settings, *, kv_bytes: int, emit: Emit) -> None:
        self.trunk = trunk
        self.dispatcher = dispatcher
        self.kv_budget_bytes = kv_bytes
        trunk.bound_cache(kv_bytes)
        self.steps = 0
        self.tokens = 0
        self.waiting: collections.deque[Request] = collections.deque()
        self.prefilling: list[Request] = []
        self.decoding: list[Request] = []
        self.paused: list[Request] = []  # those without a place come back through `waiting`
        self._settings = settings
        self._emit = emit
        self._inbox: collections.deque[Request] = collections.deque()
        self._together: dict[object, list[Request]] = {}  # by client: those that wait for the last of a list
        self._cancelled: set[tuple[object, int | None]] = set()  # (client, handle); without a handle, all of a client's
        self._allowed: dict[tuple[object, int], int] = {}
        self._lock = threading.Lock()  # of the four above, which other threads write
        self._wake = threading.Event()
        self._closed = False
        self._outgoing: dict[object, Emission] = {}
        self._thread = threading.Thread(target=self._loop, name=f"rios-trunk-{trunk.name}", daemon=True)
        self._thread.start()

    # --- from other threads ----------------------------------------------------------------------------------

    def submit(self, sequence: Request) -> None:
        """Queue a request, which waits for `begin`.

        Raises `QueueFull` or `InsufficientMemory` when it can never run here.
        """
        if self._queued() >= self._settings.max_queued:
            raise QueueFull(
                f"{self._settings.max_queued} requests wait already (RIOS_MAX_QUEUED); try again when some have ended"
            )
        need = self._need(sequence)
        if need > self.kv_budget_bytes:
            raise InsufficientMemory(
                f"{sequence.capacity} tokens of cache take {need:,} bytes, this trunk has {self.kv_budget_bytes:,}; "
                "ask for fewer tokens or deploy on a host with more memory"
            )
        with self._lock:
            self._together.setdefault(sequence.client, []).append(sequence)

    def begin(self, client: object) -> None:
        """What a client has submitted begins in one step: a list of prompts is read as one batch."""
        with self._lock:
            self._inbox.extend(self._together.pop(client, ()))
        self._wake.set()

    def _queued(self) -> int:
        with self._lock:
            return len(self.waiting) + len(self._inbox) + sum(map(len, self._together.values()))

    def allow(self, client: object, handle: int, tokens: int) -> None:
        """Let a request have up to `tokens` new tokens; never fewer than before."""
        with self._lock:
            self._allowed[client, handle] = max(tokens, self._allowed.get((client, handle), 0))
        self._wake.set()

    def cancel(self, client: object, handle: int | None = None) -> None:
        """End one request of a client, or all of them; their memory is freed before the next step."""
        with self._lock:
            self._cancelled.add((client, handle))
            if mine := self._together.pop(client, None):
                left = [request for request in mine if not _among(request, {(client, handle)})]
                if left:
                    self._together[client] = left
        self._wake.set()

    def close(self) -> None:
        """End the loop and free the caches."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=self._settings.experts_timeout_s + 5)

    # --- the loop --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _loop(self) -> None:
        while not self._closed:
            try:
                if not self.step():
                    self.dispatcher.look()
                    self._wake.wait(_IDLE_LOOK_S)
                    self._wake.clear()
            except RiosError as error:
                self._fail_all(error)
            except Exception as error:
                requests = [request.request_id for request in (*self.prefilling, *self.decoding)]
                log.exception("a step failed", extra={"trunk": self.trunk.name, "requests": requests})
                kind = InsufficientMemory if devices.out_of_memory(error) else RiosError
                self._fail_all(kind(f"the trunk of {self.trunk.name} failed: {error!r}"))
        for sequence in [*self.prefilling, *self.decoding, *self.paused]:
            self._leave(sequence)

    def step(self) -> bool:
        """One turn. False when there was nothing to do."""
        self._take()
        self._admit()
        work = [*self._chunk(), *((sequence, sequence.tokens[-1:]) for sequence in self.decoding)]
        if work:
            self._forward(work)
        self._flush()
        return bool(work)

    def _take(self) -> None:
        """What came from other threads. Only this thread moves requests, so none is between two queues meanwhile."""
        with self._lock:
            arrived, self._inbox = self._inbox, collections.deque()
            cancelled, self._cancelled = self._cancelled, set()
            allowed, self._allowed = self._allowed, {}
        for request in arrived:
            (self.waiting if request.generated < request.allowed else self.paused).append(request)
        if allowed:
            self._go_on(allowed)
        if cancelled:
            here = (*self.waiting, *self.prefilling, *self.decoding, *self.paused)
            for request in [request for request in here if _among(request, cancelled)]:
                log.info("request cancelled", extra=_about(request))
                self._leave(request)

    def _go_on(self, allowed: dict[tuple[object, int], int]) -> None:
        for request in (*self.waiting, *self.prefilling, *self.decoding, *self.paused):
            request.allowed = max(request.allowed, allowed.get((request.client, request.handle), 0))
        for request in [request for request in self.paused if request.generated < request.allowed]:
            self.paused.remove(request)
            if request.slot is None:
                self.waiting.append(request)
            else:
                self.decoding.append(request)

    def _need(self, sequence: Request) -> int:
        return self.trunk.kv_bytes_fixed + self.trunk.kv_bytes_per_token * sequence.capacity

    def _admit(self) -> None:
        """Give places to those who wait, in order, while cache and batch have room; who is paused gives up theirs."""
        if not self.waiting:
            return
        running = [*self.prefilling, *self.decoding]
        kept = [sequence for sequence in self.paused if sequence.slot is not None]
        while self.waiting:
            candidate = self.waiting[0]
            while not self._has_room(candidate, [*running, *kept]):
                if not kept:
                    return
                self._put_away(kept.pop(0))
            self.waiting.popleft()
            self.prefilling.append(candidate)  # first: whoever cannot be given a place is told so with the others
            candidate.slot = self.trunk.open(candidate.capacity)
            log.info("request begins", extra={**_about(candidate), "prompt_tokens": candidate.prompt_tokens})
            running.append(candidate)

    def _has_room(self, candidate: Request, others: Sequence[Request]) -> bool:
        if len(others) >= self._settings.max_running:
            return False
        # A shared cache is as long as its longest request in every row.
        longest = max(s.capacity for s in (*others, candidate))
        total = (len(others) + 1) * (self.trunk.kv_bytes_fixed + self.trunk.kv_bytes_per_token * longest)
        return not others or total <= self.kv_budget_bytes

    def _put_away(self, sequence: Request) -> None:
        """Take a paused request's place. It reads its tokens again when it goes on, and they count once."""
        assert sequence.slot is not None
        self.trunk.close(sequence.slot)
        sequence.slot, sequence.metered_from, sequence.done = None, max(sequence.metered_from, sequence.done), 0

    def _chunk(self) -> list[tuple[Request, list[int]]]:
        """At most `prefill_tokens` prompt tokens, oldest requests first."""
        left = self._settings.prefill_tokens
        work: list[tuple[Request, list[int]]] = []
        whole_above = self.trunk.whole_prompts_above
        for sequence in self.prefilling:
            wanted = len(sequence.tokens) - sequence.done
            if whole_above is not None and len(sequence.tokens) > whole_above:
                if work:
                    break
                work.append((sequence, sequence.tokens))
                break
            count = min(wanted, left)
            if count <= 0:
                break
            work.append((sequence, sequence.tokens[sequence.done : sequence.done + count]))
            left -= count
        return work

    def _forward(self, work: Sequence[tuple[Request, list[int]]]) -> None:
        """Run tokens of some requests through the trunk; those at their end get a new token."""
        dispatcher = self.dispatcher
        metered = None
        if any(sequence.metered_from > sequence.done for sequence, _ in work):
            metered = np.array([sequence.metered_from for sequence, _ in work], dtype=np.int32)
        dispatcher.begin(len(work), metered)
        logits = self.trunk.step([(sequence.slot, tokens) for sequence, tokens in work if sequence.slot is not None])
        self.steps += 1
        self._meter(work)
        if dispatcher.faults:
            self._blame(work)
        ready: list[int] = []
        for place, (sequence, tokens) in enumerate(work):
            sequence.done += len(tokens)
            if sequence.done == len(sequence.tokens):
                ready.append(place)
        if not ready:
            return
        chosen = choose(
            logits if len(ready) == len(work) else logits[ready],
            [work[place][0].params for place in ready],
            [work[place][0].tokens for place in ready],
            [len(work[place][0].tokens) for place in ready],
            [work[place][0].seed for place in ready],
        )
        for place, choice in zip(ready, chosen, strict=True):
            if isinstance(choice, NoChoice):
                self._fail(work[place][0], RiosError(f"no token can be chosen: {choice.why}"))
            else:
                self._advance(work[place][0], choice)

    def _advance(self, sequence: Request, choice: Choice) -> None:
        sequence.tokens.append(choice.token_id)
        self.tokens += 1
        if sequence in self.prefilling:
            self.prefilling.remove(sequence)
            self.decoding.append(sequence)
        out = self._outgoing.setdefault(sequence.client, Emission())
        out.tokens.append((sequence.handle, choice.token_id))
        if choice.logprob is not None:
            said = out.extras.setdefault("logprobs", {}).setdefault(str(sequence.handle), [])
            said.append([choice.logprob, choice.top])
        reason = self._finished(sequence, choice.token_id)
        if reason is not None:
            out.extras.setdefault("finished", {})[str(sequence.handle)] = reason
            self._leave(sequence)
            log.info("request answered", extra={**_about(sequence), "finish_reason": reason})
        elif sequence.generated >= sequence.allowed:
            self.decoding.remove(sequence)
            self.paused.append(sequence)

    def _finished(self, sequence: Request, token: int) -> str | None:
        params = sequence.params
        if (token in sequence.eos and not params.ignore_eos) or token in params.stop_token_ids:
            return "stop"
        if sequence.stop is not None and sequence.stop.push(token):
            return "stop"
        return "length" if sequence.generated >= params.max_new_tokens else None

    def _meter(self, work: Sequence[tuple[Request, list[int]]]) -> None:
        """Hand the shares of this step's replies to their clients."""
        replies = self.dispatcher.replies
        if not replies:
            return
        if len(work) == 1:
            sequence, tokens = work[0]
            self._owe(sequence.client, packed(replies, sequence.handle, sequence.done + len(tokens)))
            return
        handles = np.array([sequence.handle for sequence, _ in work], dtype=np.uint32)
        # Tokens in the cache after this step: a replay counts from there on.
        steps = np.array([sequence.done + len(tokens) for sequence, tokens in work], dtype=np.uint32)
        by_client: dict[object, list[int]] = {}
        for place, (sequence, _) in enumerate(work):
            by_client.setdefault(sequence.client, []).append(place)
        # Handles are the client's own numbers: places are unique, so the records carry those until they are sorted out.
        records = shares(replies, np.arange(len(work), dtype=np.uint32), steps)
        for client, places in by_client.items():
            mine = records if len(by_client) == 1 else records[np.isin(records["handle"], places)]
            mine = mine.copy()
            mine["handle"] = handles[mine["handle"]]
            self._owe(client, mine.tobytes())

    def _blame(self, work: Sequence[tuple[Request, list[int]]]) -> None:
        """Tell clients which hosts failed or were late in this step: all requests in it have waited for them."""
        for sequence, _ in work:
            out = self._outgoing.setdefault(sequence.client, Emission())
            out.extras.setdefault("faults", {})[str(sequence.handle)] = self.dispatcher.faults

    def _owe(self, client: object, records: bytes) -> None:
        self._outgoing.setdefault(client, Emission()).shares += records

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for client, emission in outgoing.items():
            self._emit(client, emission)

    def _leave(self, sequence: Request) -> None:
        """Free a request's place."""
        if sequence.slot is not None:
            self.trunk.close(sequence.slot)
            sequence.slot = None
        for queue in (self.waiting, self.prefilling, self.decoding, self.paused):
            if sequence in queue:
                queue.remove(sequence)

    def _fail_all(self, error: RiosError) -> None:
        """The step cannot be repeated for anybody in it: tell them, and go on with those who wait."""
        for sequence in [*self.prefilling, *self.decoding]:
            self._fail(sequence, error)
        self._flush()

    def _fail(self, sequence: Request, error: RiosError) -> None:
        out = self._outgoing.setdefault(sequence.client, Emission())
        failed = {"error": type(error).__name__, "message": str(error)}
        out.extras.setdefault("failed", {})[str(sequence.handle)] = failed
        log.warning("request failed", extra={**_about(sequence), "reason": str(error)})
        self._leave(sequence)

    def stats(self) -> dict[str, Any]:
        """Figures for metrics."""
        counters = self.dispatcher.counters
        return {
            "batched": self.trunk.batched,
            "unbatched_reason": self.trunk.unbatched_reason,
            "running": len(self.prefilling) + len(self.decoding),
            "waiting": self._queued(),
            "paused": len(self.paused),
            "steps": self.steps,
            "tokens": self.tokens,
            "kv_bytes": self.trunk.kv_bytes,
            "kv_budget_bytes": self.kv_budget_bytes,
            "calls": counters.calls,
            "hedges": counters.hedges,
            "failures": counters.failures,
            "first_choices": dict(counters.first_choices),
            "time": time.time(),
        }
