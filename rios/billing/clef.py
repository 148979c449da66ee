"""A signer in another process: Clef, or whatever speaks its JSON-RPC, with a person who agrees to each signature."""

from __future__ import annotations

import itertools
import json
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rios.billing.chain.protocol import Transaction
from rios.billing.recursion import put_back
from rios.words.errors import KeystoreError
from rios.words.ids import check_address

PERSON_TIMEOUT_S = 120.0
"""Somebody reads what is to be signed."""
_ANSWER_BYTES_MAX = 1 << 20


class ClefSigner:
    """Asks Clef at a URL to sign for one address. What comes back is checked before anybody uses it.

    See `Signer`; KeystoreError where Clef or its person refuses, does not answer in time, or signed something else.
    """

    __slots__ = ("_ids", "_timeout_s", "_url", "address")

    def __init__(self, url: str, address: str, *, timeout_s: float = PERSON_TIMEOUT_S) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise KeystoreError(f"the signer's URL {url!r} needs http:// or https://")
        self._url = url
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self.address = check_address(address)

    def __repr__(self) -> str:
        return f"<ClefSigner {self.address} at {urlsplit(self._url).hostname}>"

    def sign_transaction(self, transaction: Transaction) -> bytes:
        """See `Signer`."""
        wanted = {
            "from": self.address,
            "chainId": hex(transaction.chain_id),
            "nonce": hex(transaction.nonce),
            "to": transaction.to,
            "value": hex(transaction.value_wei),
            "data": "0x" + transaction.data.hex(),
            "gas": hex(transaction.gas),
            "maxFeePerGas": hex(transaction.max_fee_wei),
            "maxPriorityFeePerGas": hex(transaction.tip_wei),
        }
        answer = self._ask("account_signTransaction", wanted)
        raw = _bytes(answer.get("raw") if isinstance(answer, dict) else None)
        if not signed_as_asked(raw, transaction, self.address):
            raise KeystoreError(f"{self!r} signed another transaction than it was asked to; it is not used")
        return raw

    def sign_message(self, message: bytes) -> bytes:
        """See `Signer`."""
        from eth_account import Account
        from eth_account.messages import encode_defunct
        from eth_keys.exceptions import BadSignature
        from eth_utils.exceptions import ValidationError

        put_back()

        signature = _bytes(self._ask("account_signData", "text/plain", self.address, "0x" + message.hex()))
        try:
            by = Account.recover_message(encode_defunct(message), signature=signature)
        except (ValueError, ValidationError, BadSignature) as error:
            raise KeystoreError(f"{self!r} answered with {len(signature)} bytes that are no signature") from error
        if by != self.address:
            raise KeystoreError(f"{self!r} signed with the key of {by}")
        return signature

    def _ask(self, method: str, *parameters: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": parameters})
        request = Request(self._url, body.encode(), {"Content-Type": "application/json"})  # noqa: S310  # checked above
        try:
            with urlopen(request, timeout=self._timeout_s) as reply:  # noqa: S310
                answer = json.loads(reply.read(_ANSWER_BYTES_MAX))
        except (OSError, HTTPException, ValueError) as error:
            raise KeystoreError(f"{self!r} did not answer {method} within {self._timeout_s:g} s: {error}") from error
        if not isinstance(answer, dict) or "result" not in answer:
            refusal = answer.get("error") if isinstance(answer, dict) else None
            said = refusal.get("message") if isinstance(refusal, dict) else refusal
            raise KeystoreError(f"{self!r} refused {method}: {said or 'no reason given'}")
        return answer["result"]


def signed_as_asked(raw: bytes, transaction: Transaction, address: str) -> bool:
    """Whether `raw` is `transaction`, signed with the key of `address`."""
    from eth_account import Account
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError
    from hexbytes import HexBytes
    from rlp.exceptions import RLPException  # type: ignore[import-untyped]

    put_back()

    try:
        found = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        signed_by = Account.recover_transaction(HexBytes(raw))
    except (ValueError, TypeError, ValidationError, BadSignature, RLPException):
        return False
    to = bytes(found["to"]).hex()
    said = (
        int(found["type"]), int(found["chainId"]), int(found["nonce"]), to, bytes(found["data"]), int(found["value"]),
        int(found["gas"]), int(found["maxFeePerGas"]), int(found["maxPriorityFeePerGas"]), len(found["accessList"]),
    )  # fmt: skip
    asked = (
        2, transaction.chain_id, transaction.nonce, (transaction.to or "0x").removeprefix("0x").lower(),
        transaction.data, transaction.value_wei, transaction.gas, transaction.max_fee_wei, transaction.tip_wei, 0,
    )  # fmt: skip
    return said == asked and signed_by == address


def _bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except (AttributeError, ValueError) as error:
        raise KeystoreError(f"the signer answered with {type(value).__name__} where it should with hex") from error
