"""What replicas use, and what that costs: held for ahead of time, period by period, and posted as it was measured.

A replica is held for before it starts: for all that it may use in one period and the time that ending it may take. When
the period is over, it is posted and the next is held for, both or none; where there is no money for it, the deployment
pauses, and what it used until its last instruction is covered by what is held already: what is to end runs on for no
longer than that, or than the next period that is held for meanwhile. Each period is posted together with the row that
says so, in one transaction: whoever is killed in between posts it once. Volumes are not a replica's: see `rent`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from rios.billing.books import BYTES
from rios.billing.ledger import holds, settling
from rios.billing.ledger.values import Wanted
from rios.billing.pricing import Host, Terms
from rios.billing.rating import Charge, rate, total_wei
from rios.billing.usage import UsageRecord, resource_record
from rios.deploy.deciding import SECOND
from rios.deploy.lifecycle import LIVING
from rios.services.accounting import pinned_terms
from rios.services.deployments import budgets
from rios.services.deployments.rent import Rent
from rios.services.deployments.store import AppStore, Lease, require_leader, take_step
from rios.services.deployments.values import App, Replica, Step
from rios.storage.deployment_models import AppReplicaRow, AppRow
from rios.words.errors import BudgetExceeded, InsufficientBalance

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch
    from rios.deploy.runtimes.protocol import Metrics
    from rios.services.charging import Charging

log = logging.getLogger(__name__)

PERIOD_S = 60
RESERVE_S = 60
"""What is held for beyond a period: its end is noticed late, and a replica is given time to end."""
_EGRESS_BYTES = 10 * 10**9
"""Of a period, what is held for; what is sent beyond it costs nothing."""
_DAY = 86_400 * SECOND
"""After so long without anybody who meters, a hold ends by itself."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a replica reserves, and what it used up to a moment."""

    cpu_ns: int
    egress_bytes: int

    @classmethod
    def read(cls, text: str) -> Taken:
        """What `to_json` wrote; nothing for an empty text."""
        return cls(**json.loads(text)) if text else cls(0, 0)

    @classmethod
    def of(cls, metrics: Metrics) -> Taken:
        """What a runtime measured."""
        return cls(round(metrics.cpu_seconds * 10**9), metrics.egress_bytes)

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"cpu_ns": self.cpu_ns, "egress_bytes": self.egress_bytes})


@dataclass(frozen=True, slots=True)
class Means:
    """What there is for replicas of a deployment, and what one asks for, in wei."""

    room_wei: int
    """What can be held for more replicas than there are. Below 0 where what is owed is not there."""
    each_wei: int
    """What is held for one."""
    period_wei: int
    """The most that one uses in a period, which is paid before the next is held for."""

    def replicas(self, *, held: int = 0) -> int:
        """How many can be held for now and in the next period, where so many are already."""
        return max(self.room_wei + held * self.each_wei, 0) // max(self.each_wei + self.period_wei, 1)


class Metering:
    """Holds for replicas and posts what they used."""

    def __init__(
        self,
        store: AppStore,
        charging: Charging,
        hosts: Callable[[str], Host],
        *,
        period_s: int = PERIOD_S,
        reserve_s: int = RESERVE_S,
    ) -> None:
        """hosts: who is paid for the host of a name, and what it asks."""
        self._store = store
        self._charging = charging
        self._hosts = hosts
        self.period_us = period_s * SECOND
        self._held_us = (period_s + reserve_s) * SECOND
        self.rent = Rent(store, charging, hosts, period_us=self.period_us, reserve_us=reserve_s * SECOND)

    def __repr__(self) -> str:
        return f"<Metering every {self.period_us / SECOND:g} s>"

    def begin(self, app: App, replica: Replica, specification: Mapping[str, Any], lease: Lease) -> None:
        """Hold for the first period of a replica that is about to start; once, however often it is asked.

        Raises InsufficientBalance, BudgetExceeded.
        """
        if replica.period:
            return
        at = self._store.ledger.now()
        wanted = self._wanted(app, replica, specification, 1)

        def run(batch: Batch) -> None:
            require_leader(batch.connection, *lease)
            budgets.check(batch.connection, app, specification, wanted.amount_wei, at=at)
            holds.place(batch, wanted, at=at, expires_at=at + _DAY)
            row = AppReplicaRow
            changed = update(row).where(row.id == replica.id, row.period == 0).values(period=1, period_at=at)
            batch.connection.execute(changed)

        self._store.transact_whole(run)

    def means(self, app: App, host: str, specification: Mapping[str, Any], *, besides_wei: int = 0) -> Means:
        """What can be held now for replicas of `app` on `host`, by its user's balance and all budgets that apply,
        beside what its volumes ask for and what the user's other deployments are about to start (`besides_wei`)."""
        terms = self._charging.terms({host: self._hosts(host)}, user=app.user_id)
        ledger, at = self._store.ledger, self._store.ledger.now()
        with ledger.database.reading() as connection:
            own = budgets.room_of(connection, app, specification, at=at)
        room = ledger.room(app.user_id, at=at) - besides_wei
        return Means(
            (room if own is None else min(room, own)) - self.rent.owed_wei(app, host, specification),
            self._most(terms, host, specification, self._held_us),
            self._most(terms, host, specification, self.period_us),
        )

    def unheld_wei(self) -> dict[str, dict[str, int]]:
        """What is about to be held for replicas, by user and deployment."""
        one, app = AppReplicaRow, AppRow
        place = (app.user_id, one.app_id, one.revision, one.host)
        wanted = (
            select(*place, func.count())
            .join(app, app.id == one.app_id)
            .where(one.ended_at == 0, one.period == 0, one.state.in_([str(state) for state in LIVING]))
            .group_by(*place)
        )
        with self._store.ledger.database.reading() as connection:
            rows = connection.execute(wanted).all()
        known = self._store.specifications({(row[1], row[2]) for row in rows}) if rows else {}
        found: dict[str, dict[str, int]] = {}
        for user_id, app_id, revision, host, count in rows:
            specification = known[app_id, revision]
            if specification["model"] is None:  # that is paid for by request
                terms = self._charging.terms({host: self._hosts(host)}, user=user_id)
                theirs = found.setdefault(user_id, {})
                theirs[app_id] = theirs.get(app_id, 0) + count * self._most(terms, host, specification, self._held_us)
        return found

    def replicas_paid(self, app: App, host: str, specification: Mapping[str, Any]) -> int | None:
        """How many replicas the deployment's budget pays for until the day ends; None where it has none."""
        if specification["budget"] is None:
            return None
        terms = self._charging.terms({host: self._hosts(host)}, user=app.user_id)
        ledger, rent = self._store.ledger, self.rent.price(app)
        with ledger.database.reading() as connection:
            return budgets.replicas_paid(
                connection, app, specification, lambda us: self._most(terms, host, specification, us),
                rent, reserve_us=self._held_us, at=ledger.now(),
            )  # fmt: skip

    def covered_s(self, replica: Replica) -> float:
        """For how much longer what a replica uses is held for."""
        return max(replica.period_at + self._held_us - self._store.ledger.now(), 0) / SECOND

    def turn(
        self, app: App, replica: Replica, specification: Mapping[str, Any], metrics: Metrics, lease: Lease
    ) -> Replica:
        """Post the period that is over, and hold for the next: both or none. The replica as it is then.

        Raises InsufficientBalance, BudgetExceeded: the replica is to be ended then.
        """
        at, taken = self._store.ledger.now(), Taken.of(metrics)
        terms = self._pinned(replica)
        charges = self._charges(app, replica, specification, taken, terms, until=at)
        wanted = self._wanted(app, replica, specification, replica.period + 1)

        def run(batch: Batch) -> bool:
            require_leader(batch.connection, *lease)
            if not _same(batch, replica):
                return False
            # First what is over, of which a part comes back: who can pay for the next by that goes on.
            self._settle(batch, app, replica, charges, terms, at=at)
            holds.place(batch, wanted, at=at, expires_at=at + _DAY)
            over = budgets.hold_id(replica.id, replica.period)
            budgets.check(batch.connection, app, specification, wanted.amount_wei, at=at, besides=over)
            row = AppReplicaRow
            values = {"period": replica.period + 1, "period_at": at, "metered": taken.to_json()}
            batch.connection.execute(update(row).where(row.id == replica.id).values(**values))
            return True

        if not self._store.transact_whole(run):
            return replica
        return replace(replica, period=replica.period + 1, period_at=at, metered=taken.to_json())

    def finish(
        self,
        app: App,
        replica: Replica,
        specification: Mapping[str, Any],
        metrics: Metrics | None,
        step: Step,
        *,
        until: int,
        lease: Lease,
    ) -> None:
        """Post the last period of a replica that has ended, together with the state that says so.

        It ends in any case: where what was held has come back since, and cannot be held again, it is not posted.
        metrics: None where its host is gone; what was measured before is all that is known then.
        """
        at = self._store.ledger.now()
        taken = Taken.read(replica.metered) if metrics is None else Taken.of(metrics)
        ran = replica.period > 0 and (metrics is not None or replica.started_at > 0)
        terms = self._pinned(replica) if ran else None
        charges = () if terms is None else self._charges(app, replica, specification, taken, terms, until=until)

        def run(batch: Batch, charges: Sequence[Charge]) -> None:
            require_leader(batch.connection, *lease)
            if not _same(batch, replica):
                return
            if replica.period:
                self._settle(batch, app, replica, charges, terms, at=at)
            take_step(batch.connection, step, at=at)

        try:
            self._store.transact_whole(lambda batch: run(batch, charges))
        except (InsufficientBalance, BudgetExceeded) as error:
            log.warning("what a replica used is not paid for", extra={"replica": replica.id, "reason": str(error)})
            self._store.transact_whole(lambda batch: run(batch, ()))

    # --- what it costs ---------------------------------------------------------------------------------------

    def _settle(
        self, batch: Batch, app: App, replica: Replica, charges: Sequence[Charge], terms: Terms | None, *, at: int
    ) -> None:
        hold_id = budgets.hold_id(replica.id, replica.period)
        hold = holds.get(batch, hold_id)
        if charges and terms is not None and hold["state"] not in holds.LIVE:
            # Nobody metered for a day, and it came back to its owner: what it was for is held for anew.
            amount_wei, again = sum(charge.amount_wei for charge in charges), f"{hold_id}:again"
            wanted = Wanted(again, hold["user_id"], amount_wei, request_id=replica.id, terms=terms)
            holds.place(batch, wanted, at=at, expires_at=at + _DAY)
            hold_id = again
        settled = settling.settle(batch, hold_id, charges, deployment=app.id, final=True, at=at)
        if settled.new:
            budgets.spend(batch.connection, app.id, settled.amount_wei, at=at)

    def _wanted(self, app: App, replica: Replica, specification: Mapping[str, Any], period: int) -> Wanted:
        terms = self._charging.terms({replica.host: self._hosts(replica.host)}, user=app.user_id)
        most = self._most(terms, replica.host, specification, self._held_us)
        return Wanted(budgets.hold_id(replica.id, period), app.user_id, most, request_id=replica.id, terms=terms)

    def _most(self, terms: Terms, host: str, specification: Mapping[str, Any], for_us: int) -> int:
        """The highest price of one replica for so long."""
        rented = _rented(specification, for_us)
        cpu_ns = int(specification["resources"]["cpu"] * for_us * 1000)
        quantities = {**rented, "cpu": cpu_ns, BYTES: _EGRESS_BYTES if specification["egress"] else 0}
        return total_wei(rate(one, terms) for one in self._records(terms, "highest", host, "", quantities, 1))

    def _pinned(self, replica: Replica) -> Terms:
        """Under which its period was held for."""
        return pinned_terms(self._store.ledger, budgets.hold_id(replica.id, replica.period))

    def _charges(
        self,
        app: App,
        replica: Replica,
        specification: Mapping[str, Any],
        taken: Taken,
        terms: Terms,
        *,
        until: int,
    ) -> tuple[Charge, ...]:
        before = Taken.read(replica.metered)
        # Nobody acted for longer than was held for: what is held is all that can be asked for.
        elapsed = min(max(until - replica.period_at, 0), self._held_us)
        cpu_most = int(specification["resources"]["cpu"] * self._held_us * 1000)
        quantities = {
            **_rented(specification, elapsed),
            "cpu": min(max(taken.cpu_ns - before.cpu_ns, 0), cpu_most),
            BYTES: min(max(taken.egress_bytes - before.egress_bytes, 0), _EGRESS_BYTES),
        }
        found = self._records(terms, replica.id, replica.host, app.name, quantities, replica.period)
        return tuple(rate(one, terms) for one in found)

    def _records(
        self, terms: Terms, source: str, host: str, name: str, quantities: Mapping[str, int], period: int
    ) -> list[UsageRecord]:
        who = terms.as_held(self._hosts(host))
        return [
            resource_record(
                source, who, resource, quantity, period=period, model=name, measured_ns=_ns(resource, quantity)
            )
            for resource, quantity in quantities.items()
            if quantity
        ]


def _rented(specification: Mapping[str, Any], for_us: int) -> dict[str, int]:
    """What is reserved, for so long, in base units: whoever reserves memory keeps others from it."""
    resources = specification["resources"]
    seconds = Fraction(for_us, SECOND)
    return {
        "memory": int(resources["memory"] * seconds),
        "gpu": resources["gpu"] * for_us * 1000,
    }


def _ns(resource: str, quantity: int) -> int:
    return quantity if resource in ("cpu", "gpu") else 0


def _same(batch: Batch, replica: Replica) -> bool:
    """Whether a replica is as it was read: nobody has posted its period meanwhile."""
    row = AppReplicaRow
    found = batch.connection.execute(select(row.period, row.ended_at).where(row.id == replica.id)).first()
    return found is not None and tuple(found) == (replica.period, 0)
