"""Making one report: pin, read, execute, publish, end. Whatever kills it in between, the next attempt ends it as well.

What is pinned stays pinned, so each attempt has the same bytes; what is published under a key is found and not
published again; history, price and messages come with the end, in one transaction of the lease's holder.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rios.reporting.runner import Done, Execute, Job
from rios.reporting.shelf import Published, Shelf
from rios.reporting.templates import Template, Templates
from rios.services.reports.kinds import kind_of
from rios.services.reports.log import Log
from rios.services.reports.price import Price
from rios.services.reports.reading import Pin, pin
from rios.services.reports.store import Store
from rios.services.reports.values import Run, RunState
from rios.words.errors import LedgerUnavailable, RiosError

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain
    from rios.words.ids import Address

log = logging.getLogger(__name__)

CPU_S, MEMORY_BYTES, TIMEOUT_S = 600, 8 << 30, 900.0
"""What a report may take; its highest price is held for CPU_S seconds of a processor."""
ATTEMPTS_MAX = 5
"""After so many failures for reasons that may go away, it is failed."""
_PAUSE_US = 30 * 10**6
_ERROR_MAX = 2_000


class Lost(RiosError):
    """Somebody else makes this report now."""


class Maker:
    """Makes reports."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        templates: Templates,
        shelf: Shelf,
        *,
        execute: Execute,
        chain: Callable[[], NetworkChain | None],
        payee: Callable[[], Address],
        may: Callable[[str, str], None],
        lease_s: float,
    ) -> None:
        """may: raises where a user (owner) may not see the costs of another (subject, "" for everybody)."""
        self._ledger, self._store, self._templates, self._shelf = ledger, store, templates, shelf
        self._execute, self._chain, self._payee, self._may = execute, chain, payee, may
        self._lease_s = lease_s

    @property
    def lease_us(self) -> int:
        """How long a report is somebody's who does not say so again."""
        return int(self._lease_s * 10**6)

    def make(self, run: Run, holder: str) -> bool:
        """Make a run that `holder` has taken; False where the lease was lost on the way."""
        started = self._ledger.now()
        try:
            with self._kept(run, holder):
                return self._made(run, holder, started)
        except Lost:
            log.warning("a report is made by somebody else now", extra={"run": run.id})
            return False

    def _made(self, run: Run, holder: str, started: int) -> bool:
        past: dict[str, Any] = {
            "name": run.name, "label": run.label, "subject": run.subject, "attempt": run.attempts,
            "started_at": started, "key": "", "height": run.height, "notebook": "", "version": None, "folder": "",
            "files": "{}", "runtime": "", "cpu_ns": 0, "error": "",
        }  # fmt: skip
        price, done = None, None
        said = Log(self._ledger, self._store, run, holder)
        said.say(["began"])
        try:
            self._may(run.owner, run.subject)
            template = self._templates.get(run.name)
            run = self._pinned(run, holder, template)
            said.say([f"counts the ledger up to entry {run.height}"])
            past |= {"height": run.height, "notebook": template.digest, "key": run.key(template.digest)}
            asked = Price(self._ledger, run, self._payee())
            asked.hold(CPU_S)
            price = asked  # what was not held for is not given back
            data = self._data(run, template)
            done = self._execute(self._job(run, template, data), said.say)
            # What was held for is all that it may cost, whatever was started inside, or says that it was.
            done = replace(done, cpu_ns=min(done.cpu_ns, CPU_S * 10**9))
            past |= {"runtime": done.runtime, "cpu_ns": done.cpu_ns, "error": done.error[:_ERROR_MAX]}
            past |= self._published(run, past["key"], data, done)
        except (KeyboardInterrupt, SystemExit):  # who asks again need not wait until the lease has run out
            self._store.let_go(run.id, holder)
            if price is not None:
                price.release()
            raise
        except Exception as error:  # whatever it is, the run has an end, and the next one is made
            past |= {"state": RunState.FAILED, "error": f"{type(error).__name__}: {error}"[:_ERROR_MAX]}
            unknown = not isinstance(error, RiosError | OSError)
            log.warning("a report failed", extra={"run": run.id, "reason": past["error"]}, exc_info=unknown)
            transient = isinstance(error, OSError | LedgerUnavailable)
            again = transient and run.attempts < ATTEMPTS_MAX
        else:
            again = past["state"] == RunState.FAILED and run.attempts < ATTEMPTS_MAX
        return self._finish(run, holder, past, price, done, again=again)

    def _finish(
        self, run: Run, holder: str, past: dict[str, Any], price: Price | None, done: Done | None, *, again: bool
    ) -> bool:
        now = self._ledger.now()
        past["ended_at"] = now
        again_at = now + (_PAUSE_US << min(run.attempts, 8)) if again else None
        bill = price.bill(done.cpu_ns) if price is not None and done is not None else lambda _: 0
        ended = self._store.finish(run, holder, past, again_at=again_at, bill=bill)
        if price is not None and (done is None or not ended):
            price.release()
        if not ended:
            raise Lost(f"report {run.id} was taken over")
        return True

    def _pinned(self, run: Run, holder: str, template: Template) -> Run:
        if run.height is not None:
            return run
        kind, found = kind_of(template.data), pin(self._ledger.database)
        facts = kind.ask(self._ledger, run.span, found, subject=run.subject, chain=self._chain())
        if not self._store.pin(run.id, holder, height=found.height, head=found.head, facts=facts):
            raise Lost(f"report {run.id} was taken over")
        return replace(run, height=found.height, head=found.head, facts=facts)

    def _data(self, run: Run, template: Template) -> bytes:
        assert run.height is not None
        assert run.head is not None
        assert run.facts is not None
        kind = kind_of(template.data)
        with self._ledger.database.reading() as connection:
            text = kind.make(connection, run.span, Pin(run.height, run.head), run.facts, subject=run.subject)
        return text.encode()

    def _job(self, run: Run, template: Template, data: bytes) -> Job:
        title = f"{run.name} {run.label}" + (f" of {run.subject}" if run.subject else "")
        return Job(
            name=run.name, title=title, source=template.source, data=data, parameters=json.loads(run.parameters),
            cpu_s=CPU_S, memory_bytes=MEMORY_BYTES, timeout_s=TIMEOUT_S,
        )  # fmt: skip

    def _published(self, run: Run, key: str, data: bytes, done: Done) -> dict[str, Any]:
        if not done.files:
            return {"state": RunState.FAILED}
        good = done.state == RunState.OK
        manifest = {
            "format": "rios-report/1", "key": key, "name": run.name, "period": run.span.to_dict(), "state": done.state,
            "subject": run.subject, "ledger": {"height": run.height, "head": run.head}, "run": run.id,
        }  # fmt: skip
        files = {**done.files, "json": data}
        found: Published = self._shelf.publish(run.name, run.label, run.subject, files, manifest, good=good)
        return {
            "state": RunState(done.state),
            "version": found.version if good else None,
            "folder": str(found.folder.relative_to(self._shelf.out)),
            "files": json.dumps(found.files, sort_keys=True),
        }

    @contextmanager
    def _kept(self, run: Run, holder: str) -> Iterator[None]:
        """Say again and again that we make it."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(self._lease_s / 3):
                try:
                    if not self._store.renew(run.id, holder, lease_us=self.lease_us):
                        return
                except RiosError as error:  # the lease may end: who takes it over makes the same
                    log.warning("a lease could not be renewed", extra={"run": run.id, "reason": str(error)})

        thread = threading.Thread(target=keep, name="rios-report-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
