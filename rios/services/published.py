"""What a network tells everybody: models, hosts, tokens served, ROS paid out, the last root, and whether books agree.

No user, no address of a machine and no model of a tenant is in it. It is kept for a few seconds, so that visitors cost
a network nothing; where a part cannot be asked, what was known before is shown with its age.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rios.services.accounting import reconcile_followed
from rios.services.books import FIRST_ORGANISATION
from rios.services.tenancy import SERVING
from rios.words.errors import RiosError
from rios.words.money import format_ros

if TYPE_CHECKING:
    from rios.services.gate import Gate

log = logging.getLogger(__name__)

KEPT_S = 5.0
"""What is shown is at most about this old, unless it cannot be asked, or takes long to ask for."""
_SHARE = 20
"""A ledger that takes long to read is read no more than one part in so many of the time."""
RECONCILED_S = 600.0
"""Books are compared no more often: that reads all of the ledger."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a network publishes at one moment. Amounts are decimal text of wei."""

    at: str
    """ISO 8601, in UTC."""
    models: tuple[dict[str, Any], ...] = ()
    """Of the organisation that runs the network: name, hosts, experts, copies."""
    hosts: tuple[dict[str, Any], ...] = ()
    """device, memory_bytes, experts, state."""
    tokens: int = 0
    paid_wei: str = "0"
    paid: str = "0 ROS"
    epoch: dict[str, Any] | None = None
    """number, root, state, total_wei and tx of the last epoch; None before the first."""
    reconciliation: dict[str, Any] | None = None
    """at, difference_wei, sound, chain (whether contracts were asked too); None before the first."""
    stale_since: str | None = None
    """Since when nothing new can be asked."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Publisher:
    """Asks a network what it publishes. Safe for threads."""

    def __init__(self, gate: Gate, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate = gate
        self._clock = clock
        self._lock = threading.Lock()
        self._found: Published | None = None
        self._until = 0.0
        self._reconciled: dict[str, Any] | None = None
        self._reconciled_at = 0.0

    def now(self) -> Published:
        """What is published now. Raises what asking raises where nothing was ever known."""
        with self._lock:
            now = self._clock()
            if self._found is not None and now < self._until:
                return self._found
            try:
                if self._reconciled is None or now - self._reconciled_at >= RECONCILED_S:
                    self._reconciled, self._reconciled_at = self._compared(), now
                began = self._clock()  # how long that took says nothing of the next times
                self._found = self._asked()
            except RiosError as error:
                if self._found is None:
                    raise
                log.warning("what is published is stale", extra={"reason": str(error)})
                self._found = replace(self._found, stale_since=self._found.stale_since or self._found.at)
                self._until = self._clock() + KEPT_S
            else:
                self._until = began + max(KEPT_S, _SHARE * (self._clock() - began))
            return self._found

    def _asked(self) -> Published:
        network, tenancy = self._gate.network, self._gate.tenancy
        ledger = tenancy.ledger
        paid = sum(int(event.args["amount"]) for event in ledger.chain_events(name="Claimed"))
        epochs = ledger.epochs()
        last = epochs[-1] if epochs else None
        return Published(
            at=_now(),
            models=tuple(self._models()),
            hosts=tuple(
                {name: getattr(worker, name) for name in ("device", "memory_bytes", "experts", "state")}
                for worker in network.workers
            ),
            tokens=ledger.tokens(),
            paid_wei=str(paid),
            paid=format_ros(paid),
            epoch=None
            if last is None
            else {
                "number": last.number, "root": last.root, "state": str(last.state), "total_wei": str(last.total_wei),
                "tx": last.tx,
            },
            reconciliation=self._reconciled,
        )  # fmt: skip

    def _models(self) -> list[dict[str, Any]]:
        found = []
        for one, model in self._gate.tenancy.serving(FIRST_ORGANISATION):
            assert one.state == SERVING
            placement = model.placement
            experts = sum(len(row) for row in placement.holders)
            hosts = len(placement.states)
            found.append({"name": one.name, "experts": experts, "copies": placement.replicas, "hosts": hosts})
        return found

    def _compared(self) -> dict[str, Any]:
        books = self._gate.network._purse.books
        found, chain = reconcile_followed(books.ledger, books.started_chain)
        return {
            "at": _now(),
            "difference_wei": str(found.difference_wei),
            "sound": found.sound,
            "books": len(found.checks),
            "chain": chain,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
