"""The audit log: who did what to which object. Each entry's hash covers the one before, so none can be changed unseen.

What a chain of hashes cannot show is that its end was cut off: whoever keeps the last hash elsewhere can.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rios.words.canonical import canonical

GENESIS = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One act. `hash` covers all of it and the entry before."""

    seq: int
    at: int
    """Microseconds of UTC since 1970."""
    organisation_id: str
    actor: str
    """The id of the user who did it; "" where nobody was signed in."""
    action: str
    """Such as "user.create"."""
    object: str
    """What it was done to."""
    detail: Mapping[str, str]
    hash: bytes

    @classmethod
    def after(
        cls,
        last: AuditEntry | None,
        *,
        at: int,
        organisation_id: str,
        actor: str,
        action: str,
        object: str,  # noqa: A002
        detail: Mapping[str, str],
    ) -> AuditEntry:
        """The entry that follows `last`."""
        seq = 1 if last is None else last.seq + 1
        before = GENESIS if last is None else last.hash
        content = [seq, str(at), organisation_id, actor, action, object, dict(detail)]
        return cls(
            seq=seq,
            at=at,
            organisation_id=organisation_id,
            actor=actor,
            action=action,
            object=object,
            detail=dict(detail),
            hash=hashlib.sha256(before + canonical(content)).digest(),
        )


def broken_at(entries: Iterable[AuditEntry]) -> int | None:
    """The number of the first entry that is missing or was changed; None where all are as they were written."""
    last: AuditEntry | None = None
    for entry in entries:
        expected = AuditEntry.after(
            last,
            at=entry.at,
            organisation_id=entry.organisation_id,
            actor=entry.actor,
            action=entry.action,
            object=entry.object,
            detail=entry.detail,
        )
        if (entry.seq, entry.hash) != (expected.seq, expected.hash):
            return expected.seq
        last = entry
    return None
