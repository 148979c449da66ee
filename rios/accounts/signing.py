"""Access tokens: JSON Web Tokens signed with Ed25519 (RFC 8037), and the public keys to check them.

Each gateway signs with a key of its own, which stays in its home. The public halves of all gateways' keys are in the
database, so that each of them takes the tokens of the others, whatever homes they have.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwa import EdDSAAlgorithm
from joserfc.jwk import KeySet, OKPKey
from joserfc.jws import JWSRegistry

from rios.accounts.store import AccountStore, add
from rios.storage.gateway_models import SigningKeyRow
from rios.words.errors import NotSignedIn

ALGORITHM = "EdDSA"
"""RFC 9864 calls it "Ed25519", by which name most libraries do not know it yet."""
ACCESS = "at+jwt"
SIGNS_S = 30 * 86_400
"""So long does a key sign; then a new one does."""
_TAKEN_S = 86_400  # after that: longer than any token lives, and than a gateway is late with a new key
_SECOND = 1_000_000


class _EdDSA(EdDSAAlgorithm):
    security_warning = ""  # joserfc warns that this name leaves the curve open, which the key says


class Registry(JWSRegistry):
    """Some algorithms of joserfc, with that of Ed25519 by both of its names."""

    def __init__(self, *algorithms: str) -> None:
        super().__init__(algorithms=algorithms)
        self.algorithms = {**JWSRegistry.algorithms, ALGORITHM: _EdDSA()}


REGISTRY = Registry(ALGORITHM, "Ed25519")


class Signer:
    """Signs with this gateway's newest key and takes tokens of all that are not over: a rotation signs nobody out."""

    def __init__(self, path: Path | None, store: AccountStore, *, clock: Callable[[], int]) -> None:
        """path: the file of the private key, made where there is none; None keeps it in memory.

        clock: microseconds of UTC since 1970. Raises LedgerUnavailable.
        """
        self._path = path
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._key = self._kept() or self._new()
        self.rotate_if_due()

    def __repr__(self) -> str:
        return f"<Signer with the key {self.kid}>"

    @property
    def kid(self) -> str:
        """The id of the key that signs now."""
        return str(self._key.kid)

    def sign(self, claims: dict[str, Any], *, kind: str = ACCESS) -> str:
        """The token that says `claims`. kind: its type, so that what is no access token is never taken for one."""
        key = self._key
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": kind}, claims, key, registry=REGISTRY)

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of the keys signed. Raises NotSignedIn: what they say is not looked at."""
        try:
            # A token without `kid`, or with an unknown one, finds no key: it is never tried with all of them.
            found = jwt.decode(token, self._key_of, registry=REGISTRY)
        except (JoseError, ValueError) as error:
            raise NotSignedIn("the access token is not one of this gateway's; sign in again") from error
        return dict(found.claims)

    def _key_of(self, guest: Any) -> OKPKey:
        headers = guest.headers()
        if headers.get("typ") != ACCESS or not isinstance(headers.get("kid"), str):
            raise ValueError("no access token")
        row = self._store.row(SigningKeyRow, SigningKeyRow.kid == headers["kid"], SigningKeyRow.ends_at > self._clock())
        if row is None:
            raise ValueError("no such key")
        return OKPKey.import_key({name: value for name, value in json.loads(row["public"]).items() if name != "alg"})

    def jwks(self) -> dict[str, Any]:
        """The public keys, newest first, as a JSON Web Key Set (RFC 7517)."""
        row = SigningKeyRow
        rows = self._store.rows(row, row.ends_at > self._clock(), order=row.created_at.desc())
        return dict(KeySet([_named(json.loads(one["public"])) for one in rows]).as_dict(private=False))

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        with self._lock:
            self._key = self._new()

    def rotate_if_due(self) -> None:
        """Sign with a new key if this one has signed for `SIGNS_S`, or was ended; with that of the home's other
        gateway if it has made one."""
        with self._lock:
            if self._is_due(self._key):
                kept = self._kept()
                self._key = self._new() if kept is None or self._is_due(kept) else kept

    def _is_due(self, key: OKPKey) -> bool:
        row, now = self._store.row(SigningKeyRow, SigningKeyRow.kid == str(key.kid)), self._clock()
        return row is None or now >= min(row["ends_at"], row["created_at"] + SIGNS_S * _SECOND)

    def _kept(self) -> OKPKey | None:
        """The key of the home, if the database knows it: another one is of another network, or of an older version."""
        if self._path is None or not self._path.exists():
            return None
        key = _named(json.loads(self._path.read_text())["keys"][0])
        return None if self._store.row(SigningKeyRow, SigningKeyRow.kid == str(key.kid)) is None else key

    def _new(self) -> OKPKey:
        key = OKPKey.generate_key("Ed25519", parameters={"use": "sig", "alg": ALGORITHM}, auto_kid=True)
        now = self._clock()
        values = {"kid": str(key.kid), "public": json.dumps(key.as_dict(private=False), sort_keys=True)}
        ends_at = now + (SIGNS_S + _TAKEN_S) * _SECOND
        self._store.transact(
            lambda connection: add(connection, SigningKeyRow, **values, created_at=now, ends_at=ends_at)
        )
        if self._path is not None:
            _write(self._path, json.dumps({"keys": [key.as_dict(private=True)]}))
        return key


def _named(key: dict[str, Any]) -> OKPKey:
    """A key that was kept, for the name that its algorithm has now."""
    return OKPKey.import_key({**key, "alg": ALGORITHM})


def _write(path: Path, text: str) -> None:
    """Replace a file that is for its owner alone, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # mkstemp makes it for the owner alone
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
