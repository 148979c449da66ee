"""Who signs for a network's wallet: a key of its home, a program elsewhere, or nobody, where it is only watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rios.billing.keystore import Signer, WatchOnly
from rios.words.config import Settings
from rios.words.errors import KeystoreError
from rios.words.ids import Address, check_address

if TYPE_CHECKING:
    from rios.services.network_keys import NetworkKeys


def wallet_signer(options: Settings, keys: NetworkKeys, known: Address | None) -> Signer:
    """The signer of `RIOS_WALLET_ADDRESS`, or of the address `known` to the ledger; of a new key in a new network.

    Nothing is made where the ledger knows a wallet whose key is not here, or where it outlives a key that is made now.
    Raises KeystoreError, InvalidRequest.
    """
    chosen = options.wallet_address
    address = known if chosen is None else check_address(chosen, name="RIOS_WALLET_ADDRESS")
    if known is not None and address != known:
        raise KeystoreError(
            f"the wallet of this network is {known}, under whose address its deposits are, and not {address} "
            "(RIOS_WALLET_ADDRESS)"
        )
    if options.wallet_signer is not None:
        if chosen is None:
            raise KeystoreError(
                "a signer elsewhere (RIOS_WALLET_SIGNER) signs for one address: say which (RIOS_WALLET_ADDRESS)"
            )
        from rios.billing.clef import ClefSigner

        return ClefSigner(options.wallet_signer, chosen)
    if address is not None and keys.has("wallet", address):
        return keys.signer("wallet", address=address)
    if chosen is not None:
        return WatchOnly(chosen)
    if known is not None:
        raise KeystoreError(
            f"the ledger's wallet is {known}, whose key is not here: set RIOS_HOME to the home that has it, "
            "`rios wallet import` it, or watch it without (RIOS_WALLET_ADDRESS)"
        )
    if options.database is not None and not keys.lasts:
        raise KeystoreError(
            "the ledger of RIOS_DATABASE stays, and a wallet made without a home ends with this process: set RIOS_HOME "
            "to a directory for its keys, or name a wallet that is kept elsewhere (RIOS_WALLET_ADDRESS)"
        )
    return keys.signer("wallet")
