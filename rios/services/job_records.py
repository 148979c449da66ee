"""Jobs as all gateways of a network can read them: a row each, which the gateway that runs the job writes.

Counts, usage and errors are JSON; the answer and its pieces are encrypted under a key made of the network's key of
secrets, and bound to user and job. Pieces are written as they come only while another gateway asks for them. Whoever
runs a job says so every second or two; when that has stopped for six seconds, another gateway gives back what was held
and posted for it, and ends the record as lost.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from sqlalchemy import delete, select, update

from rios.accounts.store import add, first
from rios.services.lost import give_back
from rios.services.network_keys import derived_cipher
from rios.services.sweeping import LEASE_S, Sweeper
from rios.storage.gateway_models import JobRow
from rios.storage.models import HoldRow
from rios.words import errors
from rios.words.errors import GatewayLost, InvalidRequest, NotFound, RiosError
from rios.words.money import format_ros

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping, Select

    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

SECOND = 1_000_000
RENEW_S = 1.5
FOLLOWED_S = 5.0
LOST = "lost"
_NONCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    state: str
    tokens: int
    pieces: Sequence[Mapping[str, Any]] = ()
    """As they are sent to who follows it."""
    result: Mapping[str, Any] | None = None
    error: RiosError | None = None
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord(Progress):
    """A job as its gateway wrote it."""

    id: str
    user_id: str
    model: str
    seen_at: int
    """When it was so: microseconds of UTC since 1970."""
    money: Mapping[str, str] = field(default_factory=dict)
    """Of a lost one: what was given back, in wei."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What others want of the jobs of a gateway."""

    alive: frozenset[str]
    """Those that are its own still."""
    followed: frozenset[str]
    cancelled: frozenset[str]


class JobRecords:
    """The records of a network's jobs, from one gateway."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        key: bytes,
        gateway: str,
        kept_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """key: the network's key of secrets. gateway: what this one is called. kept_s: an ended job stays so long."""
        self._clock = clock
        self._ledger = ledger
        self._cipher = derived_cipher(key, b"rios job records")
        self._gateway = gateway
        self._kept_us = _us(kept_s)
        self._sweeper = Sweeper(ledger, gone=self._gone, lose=self._lose, forget=self._forget, clock=clock)
        self._renewed_at = float("-inf")

    def __repr__(self) -> str:
        return f"<JobRecords of {self._gateway}>"

    # --- by who runs a job -----------------------------------------------------------------------------------

    def begin(self, job_id: str, user_id: str, model: str) -> None:
        """Record a job that this gateway runs from now on."""
        now = self._ledger.now()
        values = {
            "id": job_id, "user_id": user_id, "gateway": self._gateway, "state": "queued",
            "record": json.dumps({"model": model, "tokens": 0}), "sealed": None, "created_at": now, "seen_at": now,
            "ended_at": None, "lease_until": now + _us(LEASE_S), "followed_until": 0, "cancel": False,
        }  # fmt: skip
        self._ledger.transact(lambda batch: add(batch.connection, JobRow, **values), alone=True)

    def write(self, job_id: str, user_id: str, model: str, now: Progress) -> None:
        """Record how far it is; nothing where it has ended in its record, or is another's."""
        at = self._ledger.now()
        result = dict(now.result or {})
        secret = {name: result.pop(name, None) for name in ("text", "token_ids", "logprobs")}
        record = {"model": model, "tokens": now.tokens, "result": result or None, "error": _said(now.error)}
        sealed = self._sealed(user_id, job_id, {"pieces": list(now.pieces), "result": secret if result else None})
        values = {"state": now.state, "record": json.dumps(record), "sealed": sealed, "seen_at": at}
        if now.ended:
            values["ended_at"] = at
        mine = (JobRow.id == job_id, JobRow.gateway == self._gateway, JobRow.ended_at.is_(None))
        changed = update(JobRow).where(*mine).values(**values)
        self._ledger.transact(lambda batch: batch.connection.execute(changed), alone=True)

    def wishes(self) -> Wishes:
        """Which of this gateway's jobs are its own still, and what others want of them; its leases go on."""
        now, row = self._ledger.now(), JobRow
        mine = (row.gateway == self._gateway, row.ended_at.is_(None))
        if self._clock() - self._renewed_at > RENEW_S:
            longer = update(row).where(*mine).values(lease_until=now + _us(LEASE_S))
            self._ledger.transact(lambda batch: batch.connection.execute(longer), alone=True)
            self._renewed_at = self._clock()
        with self._ledger.database.reading() as connection:
            found = connection.execute(select(row.id, row.followed_until, row.cancel).where(*mine)).all()
        return Wishes(
            alive=frozenset(one.id for one in found),
            followed=frozenset(one.id for one in found if one.followed_until > now),
            cancelled=frozenset(one.id for one in found if one.cancel),
        )

    # --- by anybody ------------------------------------------------------------------------------------------

    def get(self, user_id: str, job_id: str) -> JobRecord:
        """A job of the user, as its gateway wrote it last. Raises NotFound."""
        with self._ledger.database.reading() as connection:
            row = first(connection, JobRow, JobRow.id == job_id, JobRow.user_id == user_id)
        if row is None:
            raise NotFound(f"there is no job {job_id!r}, or it ended more than {self._kept_us / SECOND:g} s ago")
        return self._read(row)

    def follow(self, job_id: str) -> None:
        """Have its gateway write its pieces as they come, for the next seconds."""
        now, row = self._ledger.now(), JobRow
        mine = (row.id == job_id, row.ended_at.is_(None), row.followed_until < now + _us(FOLLOWED_S / 2))
        with self._ledger.database.reading() as connection:
            if connection.scalar(select(row.id).where(*mine)) is None:
                return
        longer = update(row).where(*mine).values(followed_until=now + _us(FOLLOWED_S))
        self._ledger.transact(lambda batch: batch.connection.execute(longer), alone=True)

    def cancel(self, job_id: str) -> None:
        """Have its gateway cancel it, within a second. No error where it has ended."""
        changed = update(JobRow).where(JobRow.id == job_id, JobRow.ended_at.is_(None)).values(cancel=True)
        self._ledger.transact(lambda batch: batch.connection.execute(changed), alone=True)

    def sweep(self) -> None:
        """End the jobs of gateways that have died, and forget what ended long ago. Raises LedgerUnavailable."""
        self._sweeper.sweep()

    def was_away(self) -> None:
        """The database did not answer."""
        self._sweeper.was_away()

    def _gone(self, now: int) -> Select[*tuple[Any, ...]]:
        row = JobRow
        return select(row.__table__).where(row.ended_at.is_(None), row.lease_until < now, row.gateway != self._gateway)

    def _forget(self, connection: Connection, now: int) -> None:
        connection.execute(delete(JobRow).where(JobRow.ended_at < now - self._kept_us))

    def _lose(self, row: RowMapping) -> None:
        found = give_back(self._ledger, row["user_id"], HoldRow.request_id == row["id"])
        rows = self._ledger.usage(request_id=row["id"], user=row["user_id"])
        cost_wei = sum(one.amount_wei - one.refunded_wei for one in rows)
        at = self._ledger.now()
        record = json.loads(row["record"])
        error = GatewayLost(
            f"the gateway that ran job {row['id']} has ended; {record['tokens']} tokens of it were recorded. It costs "
            f"{format_ros(cost_wei)}: {format_ros(found.released_wei)} that were held are released, "
            f"{format_ros(found.refunded_wei)} refunded. Ask for it again"
        )
        amounts = {"released_wei": found.released_wei, "refunded_wei": found.refunded_wei, "cost_wei": cost_wei}
        record |= {"error": _said(error), "money": {name: str(wei) for name, wei in amounts.items()}}
        mine = (JobRow.id == row["id"], JobRow.ended_at.is_(None), JobRow.lease_until == row["lease_until"])
        changed = update(JobRow).where(*mine).values(state=LOST, record=json.dumps(record), seen_at=at, ended_at=at)

        def run(connection: Connection) -> bool:
            return connection.execute(changed).rowcount == 1

        if self._ledger.transact(lambda batch: run(batch.connection), alone=True):
            log.warning("a job was lost with its gateway", extra={"job": row["id"], "gateway": row["gateway"]})

    def _read(self, row: RowMapping) -> JobRecord:
        record = json.loads(row["record"])
        secret = {"pieces": [], "result": None} if row["sealed"] is None else self._opened(row)
        result = record.get("result")
        if result is not None:
            result = {**secret["result"], **result}
        return JobRecord(
            id=row["id"], user_id=row["user_id"], model=record["model"], state=row["state"], tokens=record["tokens"],
            pieces=secret["pieces"], result=result, error=_error(record.get("error")),
            ended=row["ended_at"] is not None, seen_at=row["seen_at"], money=record.get("money", {}),
        )  # fmt: skip

    def _sealed(self, user_id: str, job_id: str, secret: Mapping[str, Any]) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, json.dumps(secret).encode(), f"{user_id}\0{job_id}".encode())

    def _opened(self, row: RowMapping) -> dict[str, Any]:
        sealed = bytes(row["sealed"])
        try:
            about = f"{row['user_id']}\0{row['id']}".encode()
            found: dict[str, Any] = json.loads(self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about))
        except InvalidTag as error:
            raise InvalidRequest(
                f"the record of job {row['id']} was written under another key of secrets; ask the gateway that ran it"
            ) from error
        return found


def _us(seconds: float) -> int:
    return int(seconds * SECOND)


def _said(error: RiosError | None) -> dict[str, str] | None:
    return None if error is None else {"class": type(error).__name__, "detail": str(error)}


def _error(said: Mapping[str, str] | None) -> RiosError | None:
    if said is None:
        return None
    kind = getattr(errors, said["class"], RiosError)
    if not (isinstance(kind, type) and issubclass(kind, RiosError)) or kind is errors.TooManyRequests:
        kind = RiosError
    found: RiosError = kind(said["detail"])
    return found
