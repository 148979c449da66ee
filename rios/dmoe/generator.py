"""A client's requests to one deployment: which trunk they go to, and what happens when it is lost."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rios.dmoe.accountant import Accountant
from rios.dmoe.job import Job
from rios.dmoe.params import SamplingParams
from rios.dmoe.peer import Peer
from rios.dmoe.session import TrunkSession
from rios.dmoe.tokenizer import Tokenizing
from rios.words.config import Settings
from rios.words.errors import NetworkClosed, RiosError, TrunkLost
from rios.words.events import Tab, UsageSink

log = logging.getLogger(__name__)

# Long requests that ask for more money at once; each waits for the ledger.
_HOLD_THREADS = 8
# Whoever looks after all hosts does not wait while requests move to another trunk: he comes again in a moment.
_REFRESH_S = 0.05
# Who refuses to be a stand-by is not asked at every look.
_AGAIN_S = 1.0
# Whoever waits for a trunk is woken when there is one; who runs one is looked at this often meanwhile.
_LOOK_S = 0.02
_NO_TRUNK = "no host runs a trunk"


@dataclass(frozen=True, slots=True)
class Order:
    """One request to be: prompt ids, parameters, and whose tab it is on."""

    prompt: Sequence[int]
    params: SamplingParams
    request_id: str
    tab: Tab | None = None


class Generator:
    """Sends requests to the active trunk and replays them on the next when it is lost.

    `trunks()` returns the hosts that run a trunk now, best first; `want_trunk()` asks for one more.
    """

    def __init__(
        self,
        deployment: str,
        settings: Settings,
        *,
        trunks: Callable[[], list[Peer]],
        want_trunk: Callable[[], None],
        tokenizing: Tokenizing,
        eos: Sequence[int],
        sinks: list[UsageSink],
    ) -> None:
        self.jobs: dict[int, Job] = {}
        self.replays = 0
        self._deployment = deployment
        self._settings = settings
        self._trunks = trunks
        self._want_trunk = want_trunk
        self._tokenizing = tokenizing
        self._eos = list(eos)
        self._sinks = sinks
        self._handles = itertools.count(1)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # a trunk was connected to
        self._submitting: set[int] = set()  # handles of those whose caller waits, by a deadline of its own
        self._connecting = False
        self._why = _NO_TRUNK  # there is none, while there is none
        self._refreshing = threading.Lock()
        self._refresh_at = 0.0
        self._active: TrunkSession | None = None
        self._standby: TrunkSession | None = None
        self._closed = False
        self._holds = ThreadPoolExecutor(_HOLD_THREADS, thread_name_prefix="rios-holds")
        self._accountant = Accountant()

    @property
    def active(self) -> str | None:
        """The host whose trunk serves now."""
        session = self._active
        return session.peer.name if session is not None and session.alive else None

    def start(self) -> None:
        """Connect to the trunk and its stand-by, so that neither the first request nor a failure waits for that."""
        with self._lock:
            self._connected()
        self.refresh()

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        tab: Tab | None = None,
    ) -> Job:
        """Start a request; see `submit_all`."""
        return self.submit_all([Order(prompt, params, request_id or uuid.uuid4().hex, tab)])[0]

    def submit_all(self, orders: Sequence[Order]) -> list[Job]:
        """Start requests, which begin together; returns at once. Raises `TrunkLost` when no trunk can be had in time.

        Each tab is closed when its request has ended; the caller closes them all where this raises.
        """
        if self._closed:
            raise NetworkClosed(f"the model {self._deployment} was closed; deploy it again")
        jobs = [self._job(order) for order in orders]
        handles = {job.handle for job in jobs}
        with self._lock:
            self.jobs |= {job.handle: job for job in jobs}
            self._submitting |= handles
            try:
                self._carry_on(raising=jobs)
            except BaseException:
                for job in jobs:
                    self.jobs.pop(job.handle, None)
                raise
            finally:
                self._submitting -= handles
        return jobs

    def _job(self, order: Order) -> Job:
        return Job(
            order.request_id,
            next(self._handles) & 0xFFFFFFFF,
            order.prompt,
            order.params,
            seed=secrets.randbits(63) if order.params.seed is None else order.params.seed,
            model=self._deployment,
            tokenizing=self._tokenizing,
            cancel=self._cancelled,
            sinks=self._sinks,
            allow=self._allowed,
            tab=order.tab,
            defer=self._defer,
            accountant=self._accountant,
            stall_s=self._settings.stall_s,
        )

    def _connected(self) -> TrunkSession:
        """The active session, made if there is none. Waits up to `trunk_timeout_s`.

        Called with the lock held, which others have meanwhile: a thread connects, and whoever waits goes on with the
        first trunk that there is, by whomever it was connected to.
        """
        deadline = time.monotonic() + self._settings.trunk_timeout_s
        while not self._closed:
            if self._active is not None and self._active.alive:
                return self._active
            if self._standby is not None and self._standby.alive:
                self._active, self._standby = self._standby, None
                return self._active
            if time.monotonic() > deadline:
                raise TrunkLost(
                    f"{self._deployment}: no trunk within {self._settings.trunk_timeout_s:g} s "
                    f"(RIOS_TRUNK_TIMEOUT_S): {self._why}"
                )
            if not self._connecting:
                self._connect_to(self._trunks())
            self._changed.wait(_LOOK_S)
        raise NetworkClosed(f"the model {self._deployment} was closed")

    def _connect_to(self, peers: list[Peer]) -> None:
        """Begin an attempt at each of these; where there are none, one is asked for. Called with the lock held."""
        if not peers:
            self._why = _NO_TRUNK
            self._want_trunk()
            return
        if self._why == _NO_TRUNK:
            self._why = f"no answer so far from {', '.join(peer.name for peer in peers)}"
        self._connecting = True
        try:
            threading.Thread(target=self._attempt, args=(peers,), name="rios-trunk", daemon=True).start()
        except RuntimeError as error:  # out of threads
            self._connecting, self._why = False, str(error)

    def _attempt(self, peers: Sequence[Peer]) -> None:
        why: str | None = "connecting failed; the log says how"
        try:
            why = self._first_of(peers)
        finally:
            with self._lock:
                self._connecting, self._why = False, why or _NO_TRUNK

    def _first_of(self, peers: Sequence[Peer]) -> str | None:
        """Connect to the first of these that answers, and keep that as what is missing; or why none was kept."""
        why = "it was there already"
        for peer in peers:
            try:
                session = self._open(peer)
            except RiosError as error:
                log.info("no trunk there", extra={"trunk": peer.name, "reason": str(error)})
                why = f"{peer.name}: {error}"
                continue
            if self._stands_by(session):
                return None
        return why

    def _open(self, peer: Peer) -> TrunkSession:
        session = TrunkSession(
            peer,
            self._deployment,
            self._settings,
            jobs=self.jobs,
            lost=self._lost,
            finished=self._finished,
        )
        session.start()
        return session

    def _finished(self, job: Job) -> None:
        self.jobs.pop(job.handle, None)

    def refresh(self) -> None:
        """Have connections to a trunk and a second one, so that taking over costs none. To be called again and again.

        A thread of its own connects: a frozen host lets it wait, and nobody who takes over or submits meanwhile.
        """
        if time.monotonic() < self._refresh_at:
            return
        peers = self._standby_peers()
        if peers and self._refreshing.acquire(blocking=False):
            try:
                threading.Thread(target=self._prepare, args=(peers,), name="rios-standby", daemon=True).start()
            except RuntimeError:
                self._refreshing.release()
                raise

    def _standby_peers(self) -> list[Peer]:
        """Where a missing connection can be had; a stand-by whose host is to run a trunk no longer is let go."""
        peers = self._trunks()
        if not self._lock.acquire(timeout=_REFRESH_S):
            return []
        try:
            if self._closed:
                return []
            if self.active is None and self._standby is not None and self._standby.alive:
                self._active, self._standby = self._standby, None
            active, standby = self.active, self._standby
            if standby is not None and standby.alive:
                if standby.peer in peers:
                    return []
                standby.close()
            self._standby = None
            return [peer for peer in peers if peer.name != active]
        finally:
            self._lock.release()

    def _prepare(self, peers: Sequence[Peer]) -> None:
        try:
            if self._first_of(peers) is not None:
                self._refresh_at = time.monotonic() + _AGAIN_S
        finally:
            self._refreshing.release()

    def _stands_by(self, session: TrunkSession) -> bool:
        """Keep a session as what is missing, unless its host has taken over meanwhile, or this was closed."""
        with self._lock:
            active = self.active
            if session.alive and session.peer.name != active and (active is None or self._standby is None):
                if active is None:
                    self._active = session
                else:
                    self._standby = session
                self._changed.notify_all()
                if not self._closed:  # looked at last: whoever closes says so first, and then closes what is here
                    return True
        session.close()
        return False

    def _lost(self, session: TrunkSession, reason: str) -> None:
        with self._lock:
            if session is self._standby:
                self._standby = None
            # Whoever submits may have been quicker and moved to the stand-by: what matters is who serves each job.
            elif self.jobs and not self._closed:
                self._carry_on()

    def _carry_on(self, *, raising: Sequence[Job] = ()) -> None:
        """Called with the lock held: every open job that the active trunk does not serve is sent to it.

        Where no trunk can be had these jobs fail with the reason, but those whose callers wait for one themselves; for
        the jobs `raising` it is raised.
        """
        while True:
            try:
                session = self._connected()
            except RiosError as error:
                for job in [job for job in self.jobs.values() if job.handle not in self._submitting]:
                    self.jobs.pop(job.handle, None)
                    job.fail(error)
                # Whoever else had a trunk for a moment may have sent these along, and they were answered.
                if self._closed or any(not job.ended for job in raising):
                    raise
                return
            waiting = [job for job in list(self.jobs.values()) if job.server is not session]
            self.replays += any(job.server is not None for job in waiting)
            try:
                session.submit(waiting, self._eos)
                return
            except RiosError as error:
                log.warning("trunk lost while taking over", extra={"trunk": session.peer.name, "reason": str(error)})
                session.close()

    def _cancelled(self, job: Job) -> None:
        self.jobs.pop(job.handle, None)
        self._tell(job, lambda session: session.cancel(job))

    def _allowed(self, job: Job) -> None:
        # Whoever sends it to another trunk meanwhile says it there.
        self._tell(job, lambda session: session.allow(job))

    def _tell(self, job: Job, word: Callable[[TrunkSession], None]) -> None:
        session = self._active
        if session is not None and session.alive:
            try:
                word(session)
            except RiosError as error:
                log.info(
                    "a word about a request did not reach the trunk",
                    extra={"request_id": job.request_id, "reason": str(error)},
                )

    def close(self) -> None:
        """End all requests."""
        self._closed = True
        for job in list(self.jobs.values()):  # one that is submitted later finds that this is closed
            job.cancel()
        for session in (self._standby, self._active):  # in this order: one may take over
            if session is not None:
                session.close()
        self._holds.shutdown()
        self._accountant.close()

    def _defer(self, hold: Callable[[], None]) -> None:
        """Hold more for a request, in a thread that may wait for a database."""
        try:
            self._holds.submit(hold)
        except RuntimeError:  # closed meanwhile
            hold()
