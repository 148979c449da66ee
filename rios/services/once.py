"""Requests that are done once: each is recorded under its Idempotency-Key before it is done, and with its answer after.

A gateway that dies leaves what it did not answer. When its lease is over, whoever comes with the key again has it done
anew: what the dead one held is released first, and what it posted is refunded, so nobody pays for an answer that
nobody got.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, update

from rios.accounts.store import add, first
from rios.services.lost import give_back
from rios.storage.gateway_models import OnceRow
from rios.storage.models import HoldRow
from rios.words.errors import AlreadyExists, RiosError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

SECOND = 1_000_000
LEASE_S = 6.0
"""After this without a sign of life, what a gateway was doing is taken over. A restart of the database is shorter."""
_RENEW_S = 1.5
KEPT_S = 24 * 3600
ANSWER_MAX = 8 << 20
_FOREVER = 2**53 - 1
_NONCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A request that this gateway does now."""

    user_id: str
    key: str
    attempt: str

    def request_id(self, place: int) -> str:
        """The id of the generation number `place` of this request."""
        return f"{self.attempt}{place:08x}"


class Once:
    """What one gateway does, and what all have answered. Close it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.gateway = f"gateway-{secrets.token_hex(8)}"
        """What this process is called in the tables that gateways share."""
        self._lock = threading.Lock()
        self._doing: set[str] = set()
        self._ended: set[str] = set()
        """What goes on after its answer and ended before that was recorded."""
        self._stop = threading.Event()
        self._swept_at = 0
        self._thread = threading.Thread(target=self._renew, name="rios-once", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Renew nothing any more: what is not answered by now may be taken over."""
        self._stop.set()
        self._thread.join(self._ledger.database.timeout_s + _RENEW_S)

    def begin(self, user_id: str, key: str, digest: str, *, token: str) -> Begun | Answer | None:
        """Have a request done under `key`: it is recorded when this returns Begun.

        The Answer, where it was done before; None while another does it. Raises AlreadyExists where the key came with
        another digest, or where the answer was given to another token, with which it is encrypted.
        """
        now = self._ledger.now()
        new = Begun(user_id=user_id, key=key, attempt=secrets.token_hex(12))
        mine = (OnceRow.user_id == user_id, OnceRow.key == key)

        def run(connection: Connection) -> tuple[dict[str, Any] | None, str | None]:
            self._sweep(connection, now)
            row = first(connection, OnceRow, *mine)
            values = {"attempt": new.attempt, "gateway": self.gateway, "lease_until": now + _us(LEASE_S)}
            if row is None:
                add(
                    connection, OnceRow, user_id=user_id, key=key, digest=digest, status=None, answer=None,
                    created_at=now, **values,
                )  # fmt: skip
                return None, None
            with self._lock:
                alive = row["attempt"] in self._doing
            if row["digest"] == digest and row["lease_until"] <= now and not alive:
                connection.execute(update(OnceRow).where(*mine).values(status=None, answer=None, **values))
                return None, str(row["attempt"])
            return dict(row), None

        # Noted before it is recorded, so that the lease is renewed from the first moment.
        with self._lock:
            self._doing.add(new.attempt)
        try:
            row, lost = self._ledger.transact(lambda batch: run(batch.connection), alone=True)
            if row is None:
                if lost is not None:
                    self._undo(user_id, lost)
                return new
        except BaseException:
            self._forget(new)
            raise
        self._forget(new)
        if row["digest"] != digest:
            raise AlreadyExists(f"the Idempotency-Key {key!r} came before with another request; choose another key")
        return None if row["status"] is None else _opened(row, token)

    def done(self, begun: Begun, answer: Answer, *, token: str, goes_on: bool = False) -> None:
        """Record the answer, unless another has taken the request over.

        goes_on: until `finish` it is done anew where this gateway dies, though it was answered.
        """
        sealed = _sealed(begun, answer, token) if len(answer.body) <= ANSWER_MAX else None
        row = OnceRow
        mine = (row.user_id == begun.user_id, row.key == begun.key, row.attempt == begun.attempt)
        with self._lock:
            held = goes_on and begun.attempt not in self._ended
        until = self._ledger.now() + _us(LEASE_S) if held else _FOREVER
        changed = update(row).where(*mine).values(status=answer.status, answer=sealed, lease_until=until)
        try:
            self._ledger.transact(lambda batch: batch.connection.execute(changed), alone=True)
        except BaseException:
            self._forget(begun)
            raise
        if not held:
            self._forget(begun)

    def finish(self, begun: Begun) -> None:
        """What went on after its answer has ended."""
        row = OnceRow
        with self._lock:
            self._ended.add(begun.attempt)
        mine = (row.user_id == begun.user_id, row.key == begun.key, row.attempt == begun.attempt)
        changed = update(row).where(*mine, row.status.is_not(None)).values(lease_until=_FOREVER)
        try:
            answered = self._ledger.transact(lambda batch: batch.connection.execute(changed).rowcount, alone=True)
        except RiosError:
            answered = 1  # the lease lapses: it may be done anew, and this is refunded then
        if answered:
            self._forget(begun)

    def release(self, begun: Begun) -> None:
        """It was not done: the key is free again."""
        row = OnceRow
        mine = (row.user_id == begun.user_id, row.key == begun.key, row.attempt == begun.attempt)
        gone = delete(row).where(*mine, row.status.is_(None))
        try:
            self._ledger.transact(lambda batch: batch.connection.execute(gone), alone=True)
        finally:
            self._forget(begun)

    def _forget(self, begun: Begun) -> None:
        with self._lock:
            self._doing.discard(begun.attempt)
            self._ended.discard(begun.attempt)

    def _undo(self, user_id: str, attempt: str) -> None:
        """Release and refund what a lost attempt held and posted."""
        found = give_back(self._ledger, user_id, HoldRow.request_id.startswith(attempt))
        log.warning("a request is done anew", extra={"user": user_id, "lost": attempt, "holds": found.holds})

    def _sweep(self, connection: Connection, now: int) -> None:
        """Forget what is older than a day, once a minute."""
        if now - self._swept_at > 60 * SECOND:
            self._swept_at = now
            connection.execute(delete(OnceRow).where(OnceRow.created_at < now - _us(KEPT_S)))

    def _renew(self) -> None:
        while not self._stop.wait(_RENEW_S):
            with self._lock:
                doing = list(self._doing)
            if not doing:
                continue
            row = OnceRow
            mine = (row.gateway == self.gateway, row.attempt.in_(doing), row.lease_until < _FOREVER)
            longer = update(row).where(*mine).values(lease_until=self._ledger.now() + _us(LEASE_S))
            try:
                self._ledger.transact(lambda batch, longer=longer: batch.connection.execute(longer), alone=True)  # type: ignore[misc]
            except RiosError as error:
                log.warning("leases could not be renewed", extra={"reason": str(error)})


def _us(seconds: float) -> int:
    return int(seconds * SECOND)


def _cipher(token: str, begun_key: str) -> AESGCM:
    derived = HKDF(algorithm=SHA256(), length=32, salt=begun_key.encode(), info=b"rios once").derive(token.encode())
    return AESGCM(derived)


def _sealed(begun: Begun, answer: Answer, token: str) -> bytes:
    head = json.dumps(answer.headers).encode()
    nonce = secrets.token_bytes(_NONCE)
    plain = len(head).to_bytes(4, "big") + head + answer.body
    return nonce + _cipher(token, begun.key).encrypt(nonce, plain, begun.user_id.encode())


def _opened(row: dict[str, Any], token: str) -> Answer:
    key = row["key"]
    if row["answer"] is None:
        raise AlreadyExists(f"the request of the Idempotency-Key {key!r} was done; its answer was too long to be kept")
    sealed = bytes(row["answer"])
    try:
        plain = _cipher(token, key).decrypt(sealed[:_NONCE], sealed[_NONCE:], row["user_id"].encode())
    except InvalidTag as error:
        raise AlreadyExists(
            f"the request of the Idempotency-Key {key!r} was done; its answer is for the token that asked for it"
        ) from error
    end = 4 + int.from_bytes(plain[:4], "big")
    headers = tuple((str(name), str(value)) for name, value in json.loads(plain[4:end]))
    return Answer(status=row["status"], headers=headers, body=plain[end:])
