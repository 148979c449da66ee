"""Entries: one transfer as a value, its digest, and the chain of hashes over all of them.

    digest = SHA-256 of  id \\n debit \\n credit \\n amount \\n kind \\n reference \\n payload        (UTF-8)
    hash   = SHA-256 of  hash of the entry before (32 bytes) | seq (8) | at (8) | digest (32)   (integers big-endian)

The digest says what was posted, the hash in which order and when. So a stranger can follow the chain from one head to
another by the digests alone, and sees of an entry only what is shown to him. Before the first entry the hash is 32 zero
bytes. No text but the payload, which comes last, may hold a control character, so the digest has one reading.
`rios/billing/verify.py` has the two functions for who checks an export.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rios.billing.ledger.accounts import kind_of
from rios.words.canonical import canonical
from rios.words.errors import InvalidRequest
from rios.words.money import WEI_MAX, check_wei

_WORD = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_REFERENCE = re.compile(r"[^\x00-\x1f\x7f]{0,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """`amount_wei` (at least 1) leaves the account `debit` and reaches `credit`.

    The same id with the same contents is the same transfer, however often it is posted; `at` is not part of them.
    Raises InvalidRequest and InvalidAmount for what cannot be posted.
    """

    id: str
    debit: str
    credit: str
    amount_wei: int
    kind: str
    """What it is for: "deposit", "hold", "usage" ..."""
    reference: str = ""
    """The id of what it belongs to: a hold, a usage record, a transaction of the chain."""
    payload: Mapping[str, Any] | str | None = None
    """Or its canonical JSON, where that is at hand."""
    at: int | None = None
    """Microseconds of UTC since 1970; None for the ledger's clock."""
    document: str | None = field(init=False, repr=False)
    """The payload as canonical JSON."""
    digest: bytes = field(init=False, repr=False)
    parts: tuple[str, bytes, str, str, int, str, str, str, str | None] = field(init=False, repr=False, compare=False)
    """Id, digest, debit, credit, amount, its text, kind, reference, document: what the writer needs, at once."""

    def __post_init__(self) -> None:
        if not (_WORD.fullmatch(self.id) and _WORD.fullmatch(self.kind) and _REFERENCE.fullmatch(self.reference)):
            raise InvalidRequest(
                f"transfer {self.id!r}: id and kind are 1 to 255 characters, a reference up to 255, none a control one"
            )
        check_wei(self.amount_wei, name=f"transfer {self.id}", minimum=1)
        kind_of(self.debit)
        kind_of(self.credit)
        if self.debit == self.credit:
            raise InvalidRequest(f"transfer {self.id} is from {self.debit} to itself")
        document = self.payload if isinstance(self.payload, str) else None
        if self.payload and document is None:
            document = canonical(self.payload).decode()
        object.__setattr__(self, "document", document)
        # As `verify.entry_digest`, which is for strangers; here it is on the way of every posting.
        text = f"{self.id}\n{self.debit}\n{self.credit}\n{self.amount_wei}\n{self.kind}\n{self.reference}\n"
        digest = hashlib.sha256((text + (document or "")).encode()).digest()
        object.__setattr__(self, "digest", digest)
        amounts = (self.amount_wei, str(self.amount_wei))
        parts = (self.id, digest, self.debit, self.credit, *amounts, self.kind, self.reference, document)
        object.__setattr__(self, "parts", parts)


assert WEI_MAX < 10**78  # any amount of wei has a place in the columns
