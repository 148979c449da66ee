"""Passwords, hashed with argon2id (RFC 9106)."""

from __future__ import annotations

import functools
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from rios.words.errors import InvalidRequest

LENGTH_MIN, LENGTH_MAX = 10, 256
# OWASP's recommendation for argon2id: 19 MiB, two passes. 20 ms here; the defaults of the library take 160.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


def hash_password(password: str) -> str:
    """The hash to keep. Raises InvalidRequest for a password that is too short or too long."""
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise InvalidRequest(f"a password has {LENGTH_MIN} to {LENGTH_MAX} characters")
    return _HASHER.hash(password)


def is_password(kept: str | None, password: str) -> bool:
    """Whether `password` is the one whose hash is `kept`. Takes as long where there is none: nobody learns that."""
    try:
        _HASHER.verify(kept or _nobodys(), password[: LENGTH_MAX + 1])
    except (VerificationError, InvalidHashError):
        return False
    return kept is not None


@functools.cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_urlsafe(32))
