"""The verbs of reports: run, schedule, list, history, rerun, pause; and what makes those that are due."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rios.reporting.runner import Execute, run_job, sweep
from rios.reporting.shelf import Shelf
from rios.reporting.templates import Templates
from rios.services.mail import Send, check_email
from rios.services.outbound import check_url
from rios.services.reports.cron import check_cron, dues
from rios.services.reports.deliver import Deliverer, secret_name, tell
from rios.services.reports.keeping import Keeping, KeptBy
from rios.services.reports.kinds import kind_of
from rios.services.reports.making import Maker
from rios.services.reports.periods import check_words, parse_span
from rios.services.reports.store import Store
from rios.services.reports.values import Identity, Past, Run, RunState, Schedule, Wish, parameters_text
from rios.services.webhooks import Webhooks
from rios.words.errors import InvalidRequest, QueueFull, RiosError

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain
    from rios.words.ids import Address

log = logging.getLogger(__name__)

LEASE_S = 60.0
LOOK_S = 2.0
ADDRESSEES_MAX = 20
SCHEDULES_MAX = 100
"""Of one user."""


def anybody(owner: str, subject: str) -> None:
    """Lets every owner see everything: for commands of whoever has the ledger's file."""


class Reports:
    """Reports over one ledger. Close it, or use it as a context manager."""

    def __init__(
        self,
        ledger: Ledger,
        out: Path,
        templates: Templates,
        *,
        webhooks: Webhooks,
        payee: Callable[[], Address],
        chain: Callable[[], NetworkChain | None] = lambda: None,
        may: Callable[[str, str], None] = anybody,
        execute: Execute = run_job,
        send: Send | None = None,
        sender: str = "rios@localhost",
        lease_s: float = LEASE_S,
        hosts: KeptBy | None = None,
    ) -> None:
        """out: the folder that they are published in. Others as `Maker`, `Deliverer` and `Keeping` take them."""
        self.templates = templates
        self.shelf = Shelf(out)
        self.store = Store(ledger, tell)
        self.maker = Maker(
            ledger, self.store, templates, self.shelf, execute=execute, chain=chain, payee=payee, may=may,
            lease_s=lease_s,
        )  # fmt: skip
        self.keeping = Keeping(ledger, self.shelf, hosts)
        self.deliverer = Deliverer(ledger, self.store, self.keeping, send=send, sender=sender, webhooks=webhooks)
        self._ledger, self._webhooks, self._may = ledger, webhooks, may
        self._holder = secrets.token_hex(8)
        self._stop, self._woken = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- by hand ---------------------------------------------------------------------------------------------

    def run(
        self,
        name: str,
        period: str = "yesterday",
        *,
        owner: str,
        parameters: Mapping[str, Any] | None = None,
        subject: str = "",
        force: bool = False,
    ) -> Past:
        """Make a report, or find the one that was made; what its last attempt came to.

        force: make it again at the ledger height of the first time: the same bytes, or a new version where the notebook
        has changed. Raises QueueFull while somebody else makes it.
        """
        found = self.want(name, period, owner=owner, parameters=parameters, subject=subject)
        if found.state == RunState.OK and not force:
            return self.store.history(run_id=found.id, limit=1)[0]
        return self.rerun(found.id)

    def want(
        self,
        name: str,
        period: str = "yesterday",
        *,
        owner: str,
        parameters: Mapping[str, Any] | None = None,
        subject: str = "",
    ) -> Run:
        """The run of a report, new or known. Whoever looks next makes it; as `run`, nobody waits for it."""
        self._may(owner, subject)
        template = self.templates.get(name)
        kind_of(template.data)
        span = parse_span(period, at_us=self._ledger.now())
        text = parameters_text(parameters or {}, template)
        return self.store.want(Identity(name, subject, text, span), owner=owner)

    @property
    def looks(self) -> bool:
        """Whether this process makes what is due."""
        return self._thread is not None

    def begin(self, run_id: str) -> None:
        """Have a run made that waits or has ended, without waiting: by who looks for what is due, else by a thread."""
        self.store.again(run_id)
        if self.looks:
            self._woken.set()
        else:
            self.go_on(run_id)

    def go_on(self, run_id: str) -> None:
        """As `begin`, of a run that nobody makes, or that whoever made it has left until its lease ran out."""
        if self.looks:
            return
        # Taken before the thread begins: who waits asks for the same, and only one of both is to make it.
        taken = self.store.take(self._holder, lease_us=self.maker.lease_us, run_id=run_id)
        if taken is not None:
            self._apart(taken)

    def rerun(self, run_id: str) -> Past:
        """Make a run again, at the ledger height of the first time."""
        self._sweep()
        self.store.run(run_id)
        taken = self.store.take(self._holder, lease_us=self.maker.lease_us, run_id=run_id, ended=True)
        if taken is None or not self._make(taken):
            raise QueueFull(f"report {run_id} is made by another process now; `rios report history` shows when it ends")
        return self.store.history(run_id=run_id, limit=1)[0]

    # --- schedules -------------------------------------------------------------------------------------------

    def schedule(self, wish: Wish, *, owner: str) -> tuple[Schedule, str]:
        """Have a report made again and again, and the secret that signs what webhooks are told.

        Raises InvalidRequest for what could never be made, NotAllowed, QueueFull.
        """
        self._may(owner, wish.subject)
        template = self.templates.get(wish.name)
        kind_of(template.data)
        check_cron(wish.cron, wish.zone)
        check_words(wish.period)
        if len(wish.emails) + len(wish.webhooks) > ADDRESSEES_MAX:
            raise InvalidRequest(f"a schedule tells at most {ADDRESSEES_MAX} addressees")
        for email in wish.emails:
            check_email(email)
        for url in wish.webhooks:
            check_url(url, allowed=self._webhooks.allowed)
        if len(self.store.schedules(owner)) >= SCHEDULES_MAX:
            raise QueueFull(f"a user has at most {SCHEDULES_MAX} schedules; delete one")
        now, name = self._ledger.now(), f"schedule-{secrets.token_hex(8)}"
        found = Schedule(
            id=name, owner=owner, subject=wish.subject, name=wish.name,
            parameters=parameters_text(wish.parameters, template), cron=wish.cron, zone=wish.zone, period=wish.period,
            emails=tuple(dict.fromkeys(wish.emails)), webhooks=tuple(dict.fromkeys(wish.webhooks)),
            catch_up=wish.catch_up, created_at=now, paused_at=None, closed_at=None,
            next_at=next(dues(wish.cron, wish.zone, after_us=now)),
        )  # fmt: skip
        self.store.add_schedule(found)
        return found, self._webhooks.secret(secret_name(name))

    def pause(self, name: str) -> Schedule:
        """Let a schedule rest. What it misses is not made up for."""
        self.store.schedule(name)
        self.store.change_schedule(name, paused_at=self._ledger.now())
        return self.store.schedule(name)

    def resume(self, name: str) -> Schedule:
        """Let a paused schedule go on, from now."""
        found = self.store.schedule(name)
        next_at = next(dues(found.cron, found.zone, after_us=self._ledger.now()))
        self.store.change_schedule(name, paused_at=None, next_at=next_at)
        return self.store.schedule(name)

    def delete(self, name: str) -> None:
        """End a schedule. What it made stays."""
        self.store.schedule(name)
        self.store.change_schedule(name, closed_at=self._ledger.now())

    # --- what is due -----------------------------------------------------------------------------------------

    def step(self) -> bool:
        """See what is due, and make one of it; whether there was one."""
        self.store.tick(self._ledger.now())
        taken = self.store.take(self._holder, lease_us=self.maker.lease_us)
        if taken is None:
            return False
        self._make(taken)
        return True

    def start(self, *, look_s: float = LOOK_S) -> None:
        """Make and deliver what is due, and have hosts keep what was published, in threads, until `close`."""
        self._sweep()
        self.deliverer.start()
        self.keeping.nudge()
        self._thread = threading.Thread(target=self._loop, args=(look_s,), name="rios-reports", daemon=True)
        self._thread.start()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """End. A report that is under way is left to the next process: its lease runs out."""
        self._stop.set()
        self._woken.set()
        self.keeping.leave()  # a delivery that waits for a host breaks off, and is made by another process
        self.deliverer.close()
        self.keeping.close()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _sweep(self) -> None:
        self.shelf.sweep()
        sweep()

    def _make(self, taken: Run) -> bool:
        """As `Maker.make`; hosts are given what came of it afterwards, for which nobody waits."""
        try:
            return self.maker.make(taken, self._holder)
        finally:
            self.keeping.nudge()

    def _apart(self, taken: Run) -> None:
        def begun() -> None:
            try:
                self._sweep()
                self._make(taken)
            except RiosError as error:  # of the ledger: what went wrong with the report is in the history
                log.warning("a report was not made", extra={"run": taken.id, "reason": str(error)})
            except Exception:
                log.exception("a report was not made", extra={"run": taken.id})

        threading.Thread(target=begun, name="rios-report", daemon=True).start()

    def _loop(self, look_s: float) -> None:
        while not self._stop.is_set():
            try:
                busy = self.step()
            except RiosError as error:
                log.warning("reports wait", extra={"reason": str(error)})
                busy = False
            except Exception:
                # Nobody would start it again, and whoever takes the same report next would end of the same.
                log.exception("reports wait")
                busy = False
            if not busy:
                self._woken.wait(look_s)
                self._woken.clear()
