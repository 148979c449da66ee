"""One request as its caller holds it: wait for it, read it as it comes, or cancel it."""

from __future__ import annotations

import functools
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rios.dmoe.accountant import Accountant
from rios.dmoe.completion import Completion, HostUsage, Logprob, Piece, Timing, Usage
from rios.dmoe.faults import Faults
from rios.dmoe.metering import events
from rios.dmoe.params import SamplingParams, check_timeout
from rios.dmoe.pieces import Pieces
from rios.dmoe.stopping import cut
from rios.dmoe.tokenizer import Tokenizing
from rios.words.display import Shown
from rios.words.errors import Cancelled, DeadlineExceeded, ProtocolError, RiosError
from rios.words.events import Ended, Tab, UsageEvents, UsageSink

log = logging.getLogger(__name__)

T = TypeVar("T")

# A long request asks for more so many tokens before it has what is covered, or with half of a shorter step left: on a
# trunk of 500 tokens per second the ledger has 0.1 s to answer, and needs a hundredth of that.
_AHEAD_TOKENS = 64


class Job(Shown):
    """A submitted request. `status` is queued, running, paused, done, failed or cancelled.

    The tokens that have arrived are the truth: when a trunk is lost, another goes on from prompt and these. To its tab
    it is a `rios.words.events.Stream`.
    """

    def __init__(
        self,
        request_id: str,
        handle: int,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        seed: int,
        model: str,
        tokenizing: Tokenizing,
        cancel: Callable[[Job], None],
        allow: Callable[[Job], None] | None = None,
        sinks: Sequence[UsageSink] = (),
        tab: Tab | None = None,
        defer: Callable[[Callable[[], None]], None] | None = None,
        accountant: Accountant | None = None,
        stall_s: float = math.inf,
    ) -> None:
        """cancel, allow: tell the trunk that it was cancelled, or how much it is allowed by now.

        defer, accountant: who waits for the ledger instead of the thread that brings tokens. stall_s: a longer wait
        between two tokens is a fault.
        """
        self.request_id = request_id
        self.handle = handle
        self.prompt = tuple(prompt)
        self.params = params
        self.seed = seed
        self.replays = 0
        self.allowed = params.max_new_tokens if tab is None else tab.covered
        self.server: object = None  # the connection that is heard
        self.keeps: object = None  # what must live for as long as this does: the model and its network
        self._model = model
        self._tokenizing = tokenizing
        self._cancel = cancel
        self._allow = allow
        self._sinks = tuple(sinks)
        self._tab = tab
        self._defer = defer
        self._accountant = accountant
        self._accounted: Future[None] | None = None
        self._changed = threading.Condition()
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._finish: str | None = None
        self._error: RiosError | None = None
        self._started = time.perf_counter()
        self._first: float | None = None
        self._ended: float | None = None
        self._events: UsageEvents | None = None  # all of them, once it has ended and somebody asked
        self._shares: list[tuple[Sequence[str], npt.NDArray[np.void]]] = []
        self._ask_at = self._ask_next(0)
        self._no_more = False
        self._faults = Faults(stall_s)

    # --- for the caller --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Job {self.request_id[:8]} {self.status}, {len(self._ids)} of {self.params.max_new_tokens} tokens>"

    @property
    def status(self) -> str:
        """queued, running, paused (it waits for money), done, failed or cancelled."""
        if self._error is not None:
            return "cancelled" if isinstance(self._error, Cancelled) else "failed"
        if self._finish is not None:
            return "done"
        if self.paused:
            return "paused"
        return "running" if self._ids else "queued"

    @property
    def metered_from(self) -> int:
        """The position up to which its work is accounted for: a replay computes those before again."""
        return max((int(shares["step"].max()) for _, shares in self._shares), default=0)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """New tokens so far."""
        return tuple(self._ids)

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token, so far; None with fewer than two."""
        until = time.perf_counter() if self._ended is None else self._ended
        if self._first is None or len(self._ids) < 2 or until <= self._first:
            return None
        return (len(self._ids) - 1) / (until - self._first)

    @property
    def error(self) -> RiosError | None:
        """What ended it early."""
        return self._error

    @property
    def accounted(self) -> bool:
        """Whether it has ended, and its price was posted or never will be."""
        with self._changed:
            return self.ended and (self._accounted is None or self._accounted.done())

    def cancel(self) -> None:
        """End it; its memory is freed before the next step. No error if it has ended already."""
        self.abort(Cancelled(f"request {self.request_id} was cancelled"))

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole answer. Raises what went wrong, or `DeadlineExceeded` after `timeout` seconds."""
        timeout = check_timeout(timeout)
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, timeout):
                raise DeadlineExceeded(
                    f"request {self.request_id} has {len(self._ids)} of {self.params.max_new_tokens} tokens after "
                    f"{timeout:g} s; it goes on: wait again or cancel it"
                )
        self._wait_for_accounts()
        if self._error is not None:
            raise self._error
        return self._completion()

    def stream(self, timeout: float | None = None) -> Iterator[Piece]:
        """Pieces as they come; leaving the loop early cancels. `timeout` bounds the wait for each piece."""
        timeout = check_timeout(timeout)
        pieces = self.pieces()
        try:
            while True:
                with self._changed:
                    if not self._changed.wait_for(functools.partial(self._beyond, pieces.read), timeout):
                        raise DeadlineExceeded(f"request {self.request_id}: no token for {timeout:g} s")
                piece, ended = self.next_piece(pieces)
                if piece is not None:
                    yield piece
                if ended:
                    self._wait_for_accounts()
                    if self._error is not None:
                        raise self._error
                    return
        finally:
            if not self.ended:
                self.cancel()

    def pieces(self) -> Pieces:
        """For one reader, who has nothing of the answer yet."""
        return Pieces(self._tokenizing, self.params.stop)

    def next_piece(self, pieces: Pieces) -> tuple[Piece | None, bool]:
        """What a reader has not had yet of what is there, and whether that is all there will be. Does not wait."""
        with self._changed:
            ids, ended = self._ids[pieces.read :], self.ended
            logprobs = self._logprobs[pieces.read : pieces.read + len(ids)]
        return pieces.take(ids, logprobs, ended=ended), ended

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` whenever there is something new, and once now, from whatever thread; it must not wait."""
        with self._changed:
            self._listeners = (*self._listeners, heard)
        heard()

    def _beyond(self, read: int) -> bool:
        return len(self._ids) > read or self.ended

    def _tell(self) -> None:
        """Called with the lock held, when something has changed."""
        self._changed.notify_all()
        for heard in self._listeners:
            try:
                heard()
            except Exception:  # this thread brings the others their tokens
                log.exception("who listens to a request failed", extra={"request_id": self.request_id})

    # --- for the client's connection -------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._finish is not None or self._error is not None

    def begin(self, server: object) -> tuple[list[int], int, int] | None:
        """From now on `server` alone is heard. Returns prompt and tokens so far, `metered_from` and `allowed`.

        None where it has ended.

        What another server had sent is either in these tokens or will never be: a token cannot come twice.
        """
        with self._changed:
            if self.ended:
                return None
            if self.server is not None:
                self.replays += 1
                self._faults.lost(self._trunk)
            self.server = server
            return [*self.prompt, *self._ids], self.metered_from, self.allowed

    def take(
        self,
        server: object = None,
        *,
        tokens: Sequence[int] = (),
        logprobs: Sequence[Sequence[Any]] = (),
        hosts: Sequence[str] = (),
        shares: npt.NDArray[np.void] | None = None,
        finish: str | None = None,
        error: RiosError | None = None,
        faults: Mapping[str, Sequence[int]] | None = None,
    ) -> bool:
        """One step's news from a server, whole or not at all. True when the request has ended with it.

        logprobs: for each token its own and the pairs of the most likely ones. hosts, shares: what the accepted replies
        of this step measured (`rios.dmoe.metering.SHARE`). finish, error: why nothing more comes. faults: what
        `Faults.hosts` takes.

        Raises ProtocolError for more tokens than are allowed.
        """
        with self._changed:
            if self.ended or server is not self.server:
                return False
            if len(self._ids) + len(tokens) > self.allowed:
                raise ProtocolError(f"more than the {self.allowed} tokens that request {self.request_id} is allowed")
            if faults:
                self._faults.hosts(faults)
            if shares is not None:
                self._shares.append((hosts, shares))
            self._ids.extend(tokens)
            for token, said in zip(tokens, logprobs, strict=False):
                top = tuple((int(other), float(value)) for other, value in said[1])
                self._logprobs.append(Logprob(token, float(said[0]), top))
            if tokens:
                now = time.perf_counter()
                self._faults.tokens(now)
                if self._first is None:
                    self._first = now
            ended = finish is not None or error is not None
            if ended:
                self._end(finish if error is None else None, error)
            elif len(self._ids) >= self._ask_at:
                self._ask_at = sys.maxsize
                self._later(self._extend)
            self._tell()
        return ended

    def fail(self, error: RiosError) -> None:
        """It cannot be completed."""
        self._fail(error)

    def _fail(self, error: RiosError) -> bool:
        with self._changed:
            if self.ended:
                return False
            self._end(None, error)
            self._tell()
        return True

    def _end(self, finish: str | None, error: RiosError | None) -> None:
        """Called with the lock held, once."""
        self._finish, self._error = finish, error
        self._ended = time.perf_counter()
        if (self._sinks and self._shares) or self._tab is not None:
            if self._accountant is not None:
                self._accounted = self._accountant.add(self._account)
            else:
                self._account()()

    def _later(self, work: Callable[[], None]) -> None:
        """Not in this thread, which brings the other requests their tokens."""
        if self._defer is not None:
            self._defer(work)
        else:
            work()

    # --- for the tab -----------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether it waits for its tab to allow more."""
        return self._no_more and not self.ended and len(self._ids) >= self.allowed

    def allow(self, tokens: int) -> None:
        """Let it have up to `tokens` new tokens, counted from the first; it goes on where it was paused."""
        with self._changed:
            if self.ended or tokens <= self.allowed:
                return
            if self.paused:
                self._faults.rests()
            self._no_more = False
            before, self.allowed = self.allowed, tokens
            self._ask_at = self._ask_next(before)
        if self._allow is not None:
            self._allow(self)

    def pause(self) -> None:
        """There is no more for now: it is paused once it has what it is allowed."""
        self._no_more = True

    def finish(self, reason: str) -> None:
        """End it with what it has."""
        with self._changed:
            if self.ended:
                return
            self._end(reason, None)
            self._tell()
        self._cancel(self)

    def abort(self, error: RiosError) -> None:
        """End it with an error, here and in the trunk."""
        if self._fail(error):
            self._cancel(self)

    def _ask_next(self, before: int) -> int:
        """At how many tokens the tab is asked for more, where `before` to `allowed` are those of the last step."""
        if self._tab is None or self.allowed >= self.params.max_new_tokens:
            return sys.maxsize
        return self.allowed - min(_AHEAD_TOKENS, (self.allowed - before) // 2)

    def _extend(self) -> None:
        assert self._tab is not None
        try:
            self._tab.extend(self)
        except RiosError as error:
            self.abort(error)
        except Exception as error:
            log.exception("a request could not be extended", extra={"request_id": self.request_id})
            self.abort(RiosError(f"request {self.request_id} could not be extended: {error!r}"))

    def _account(self) -> Callable[[], None]:
        """Hand what was measured on to whoever accounts for it; what is returned waits for the price to be posted."""
        found = self.events()
        for sink in self._sinks if found else ():
            try:
                sink.record(found)
            except Exception:
                log.exception("a usage sink failed", extra={"request_id": self.request_id})
        if self._tab is None:
            return lambda: None
        ended = Ended(
            request_id=self.request_id, model=self._model, trunk=self._trunk, tokens_in=len(self.prompt),
            tokens_out=len(self._ids), outcome=self.status, events=found, faults=self._faults.found(self._error),
        )  # fmt: skip
        wait = self._posted(functools.partial(self._tab.close, ended))
        return (lambda: None) if wait is None else functools.partial(self._posted, wait)

    @property
    def _trunk(self) -> str:
        """The host whose trunk was heard last; "" where nothing was received."""
        return self._shares[-1][0][0] if self._shares else ""

    def _posted(self, post: Callable[[], T]) -> T | None:
        """What `post` returns; None where it fails, which is told: the answer is not lost with its price."""
        try:
            return post()
        except Exception:
            log.exception("a request's price was not posted", extra={"request_id": self.request_id})
            return None

    def _wait_for_accounts(self) -> None:
        """Until the price is posted, so that a balance read after an answer has it. Whoever accounts has deadlines."""
        if self._accounted is not None:
            self._accounted.result()

    def events(self) -> UsageEvents:
        """The usage events of this request so far, a pure function of what was accepted."""
        if self._events is not None:
            return self._events
        ended = self.ended  # from then on nothing comes any more
        found = events(self.request_id, self._model, self._shares)
        if ended:
            self._events = found
        return found

    def usage(self) -> Usage:
        """What was used so far."""
        found = self.events()
        cells = np.frombuffer(found.cells, dtype="<i8").reshape(-1, 6)
        used = {
            name: HostUsage(*(int(total) for total in cells[cells[:, 2] == place, 3:].sum(axis=0)))
            for place, name in enumerate(found.hosts)
        }
        return Usage(
            len(self.prompt),
            len(self._ids),
            sum(host.rows for host in used.values()),
            sum(host.compute_ns for host in used.values()),
            sum(host.wire_bytes for host in used.values()),
            used,
        )

    def _completion(self) -> Completion:
        assert self._finish is not None
        assert self._ended is not None
        text: str | None = None
        if self._tokenizing.present:
            text, _ = cut(self._tokenizing.decode(self._ids), self.params.stop)
        total = self._ended - self._started
        first_s = None if self._first is None else self._first - self._started
        timing = Timing(first_s, total, self.tokens_per_s, self.replays)
        logprobs = tuple(self._logprobs) if self.params.logprobs is not None else None
        return Completion(text, tuple(self._ids), self._finish, self.usage(), timing, logprobs, self.request_id)
