"""Who has signed a text, as wallets do it (EIP-191, `personal_sign`)."""

from __future__ import annotations

from rios.words.errors import InvalidRequest
from rios.words.ids import Address, check_address

_BYTES = 65


def signer_of(message: str, signature: str) -> Address:
    """The address whose key made a signature of a text.

    signature: 65 bytes as hex digits, with or without 0x. Raises InvalidRequest where it is none.
    """
    from eth_account import Account
    from eth_account.messages import encode_defunct
    from eth_keys.exceptions import BadSignature

    try:
        raw = bytes.fromhex(signature.strip().removeprefix("0x"))
        if len(raw) != _BYTES:
            raise InvalidRequest(f"this signature has {len(raw)} bytes; that of a message has {_BYTES}")
        return check_address(Account.recover_message(encode_defunct(text=message), signature=raw))
    except (ValueError, BadSignature) as error:
        raise InvalidRequest(f"this is no signature: {error}") from error
