"""Access tokens: JSON Web Tokens signed with Ed25519 (RFC 8037, RFC 9864), and the public keys to check them."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from joserfc.jws import JWSRegistry

from rios.words.errors import NotSignedIn

ALGORITHM = "Ed25519"
ACCESS = "at+jwt"
_KEPT = 2  # the key before last signed tokens that have all expired
_REGISTRY = JWSRegistry(algorithms=[ALGORITHM])


class Signer:
    """Signs with the newest key and takes tokens of the one before too, so that a rotation signs nobody out."""

    def __init__(self, path: Path | None) -> None:
        """path: the file of the private keys, made where there is none; None keeps them in memory."""
        self._path = path
        self._lock = threading.Lock()
        self._keys: list[OKPKey] = []
        if path is not None and path.exists():
            self._keys = [OKPKey.import_key(one) for one in json.loads(path.read_text())["keys"]]
        if not self._keys:
            self.rotate()

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keys)} keys>"

    @property
    def kid(self) -> str:
        """The id of the key that signs now."""
        return str(self._keys[0].kid)

    def sign(self, claims: dict[str, Any], *, kind: str = ACCESS) -> str:
        """The token that says `claims`. kind: its type, so that what is no access token is never taken for one."""
        key = self._keys[0]
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": kind}, claims, key, registry=_REGISTRY)

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of the keys signed. Raises NotSignedIn: what they say is not looked at."""
        try:
            # A token without `kid`, or with an unknown one, finds no key: it is never tried with all of them.
            found = jwt.decode(token, self._key_of, registry=_REGISTRY)
        except (JoseError, ValueError) as error:
            raise NotSignedIn("the access token is not one of this gateway's; sign in again") from error
        return dict(found.claims)

    def _key_of(self, guest: Any) -> OKPKey:
        headers = guest.headers()
        for key in self._keys:
            if headers.get("kid") == key.kid and headers.get("typ") == ACCESS:
                return key
        raise ValueError("no such key")

    def jwks(self) -> dict[str, Any]:
        """The public keys, as a JSON Web Key Set (RFC 7517)."""
        return dict(KeySet(list(self._keys)).as_dict(private=False))

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        with self._lock:
            key = OKPKey.generate_key("Ed25519", parameters={"use": "sig", "alg": ALGORITHM}, auto_kid=True)
            self._keys = [key, *self._keys][:_KEPT]
            if self._path is not None:
                _write(self._path, json.dumps({"keys": [one.as_dict(private=True) for one in self._keys]}))


def _write(path: Path, text: str) -> None:
    """Replace a file that is for its owner alone, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # mkstemp makes it for the owner alone
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
