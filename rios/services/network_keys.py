"""The keys that all gateways of a network need: on PostgreSQL in its database, so that no home is copied by hand.

What lies there is encrypted (AES-256-GCM) under a key made of the network's key of secrets, which is in the environment
or in a file of each home and never in the database, and bound to its name. The first gateway brings the keys, the
others take them, and who cannot is refused by name. A network on SQLite has one machine, and its keys in its home.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import select

from rios.accounts.store import add, first
from rios.billing.keystore import KeySigner
from rios.services.deployments.secrets import KEY_FILE, KEY_VARIABLE, open_secrets_key
from rios.services.keys import keys_of, open_key
from rios.storage.gateway_models import NetworkKeyRow
from rios.words.errors import InvalidRequest
from rios.words.ids import Address

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

    from rios.billing.ledger.ledger import Ledger

log = logging.getLogger(__name__)

WEBHOOKS = "webhooks"
_NONCE = 12


class NetworkKeys:
    """The keys of one network, from one of its homes."""

    def __init__(self, ledger: Ledger, home: Path | None) -> None:
        """Raises InvalidRequest where the database has the network's keys and this home cannot open them."""
        self._ledger = ledger
        self._home = home
        self._cipher: AESGCM | None = None
        with ledger.database.reading() as connection:
            there = connection.execute(select(NetworkKeyRow.__table__)).mappings().all()
        passing = home is None and KEY_VARIABLE not in os.environ
        if not there and (ledger.database.is_sqlite or passing):
            return
        has_key = KEY_VARIABLE in os.environ or (home is not None and (home / KEY_FILE).exists())
        if there and not has_key:
            raise self._refused("lie encrypted in")
        self._cipher = derived_cipher(open_secrets_key(home, ledger.database), b"rios network keys")
        for row in there:
            self._opened(row)

    def __repr__(self) -> str:
        return "<NetworkKeys>"

    @property
    def lasts(self) -> bool:
        """Whether a key that is made now is there after this process."""
        return self._home is not None or self._cipher is not None

    def has(self, role: str, address: Address) -> bool:
        """Whether the key of `address` is here as that of `role`."""
        row = self._row(role)
        return address in keys_of(self._home, role) if row is None else bool(row["address"] == address)

    def signer(self, role: str, *, address: Address | None = None) -> KeySigner:
        """The key of `role` ("wallet", "operator"), as `open_key` finds or makes it where the network has none yet.

        Raises KeystoreError, InvalidRequest where this home has another one than the network.
        """
        row = self._row(role)
        if row is None:
            mine = open_key(self._home, role, address=address)
            if self._cipher is None:
                return mine
            row = self._brought(role, mine.address, lambda: mine.sealed(lambda key: self._sealed(role, key)))
            if row["address"] == mine.address:
                return mine
        theirs = keys_of(self._home, role)
        if theirs and row["address"] not in theirs:
            raise InvalidRequest(
                f"{self._home}/keys/{role} has the key of {theirs[0]}, and the network in {self._ledger.database.name} "
                f"that of {row['address']}: start this gateway with an empty home, or move that folder away"
            )
        return KeySigner(self._opened(row))

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """A secret that signs no transactions; `make` finds or makes it where the network has none yet."""
        row = self._row(name)
        if row is None:
            mine = make()
            if self._cipher is None:
                return mine
            row = self._brought(name, "", lambda: self._sealed(name, mine))
        return self._opened(row)

    def _row(self, name: str) -> RowMapping | None:
        if self._cipher is None:
            return None
        with self._ledger.database.reading() as connection:
            return first(connection, NetworkKeyRow, NetworkKeyRow.name == name)

    def _brought(self, name: str, address: str, sealed: Callable[[], bytes]) -> RowMapping:
        """The row of a key: this one, unless another gateway was first."""
        values = {"name": name, "address": address, "sealed": sealed(), "created_at": self._ledger.now()}

        def run(connection: Connection) -> RowMapping:
            found = first(connection, NetworkKeyRow, NetworkKeyRow.name == name)
            if found is None:
                add(connection, NetworkKeyRow, **values)
                found = first(connection, NetworkKeyRow, NetworkKeyRow.name == name)
                log.info("the network's other gateways have this key now", extra={"key": name})
            assert found is not None
            return found

        return self._ledger.transact(lambda batch: run(batch.connection), alone=True)

    def _sealed(self, name: str, plain: bytes) -> bytes:
        assert self._cipher is not None
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def _opened(self, row: RowMapping | Mapping[str, Any]) -> bytes:
        assert self._cipher is not None
        sealed = bytes(row["sealed"])
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], row["name"].encode())
        except InvalidTag:
            refused = self._refused(f"(such as {row['name']!r}) do not open with this key in")
        raise refused  # without a frame that has the key

    def _refused(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"the keys of the network {why} {self._ledger.database.name}: set {KEY_VARIABLE} to what the file "
            f"{KEY_FILE} of its first gateway's home says, or copy that file into {self._home or 'a home'}"
        )


def derived_cipher(key: bytes, purpose: bytes) -> AESGCM:
    """A cipher of its own for each purpose, made of the network's key of secrets."""
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(key))
