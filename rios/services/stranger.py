"""Checking an export with no trust in whoever wrote it: the file, a node, and the address that the network goes by.

Anybody can make a contract of the same code and post what he likes in it. So the file does not say which contract is
the network's: whoever checks does, or is told which one was asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rios.billing.verify import FAILED, OK, PENDING, Link, verify
from rios.words.config import settings
from rios.words.errors import ChainMismatch, InvalidRequest, RiosError
from rios.words.ids import Address, check_address

if TYPE_CHECKING:
    from rios.billing.chain.protocol import Chain


def check_file(path: Path, url: str | None, settlement: str | None = None) -> list[Link]:
    """Check an export against the node at `url`, or the embedded chain of RIOS_HOME.

    settlement: the network's settlement contract, as it is published elsewhere than in the file; without it, that of
    RIOS_CONTRACTS, or of RIOS_HOME where no `url` is given. Without any, the link "contract" stays pending.

    Raises InvalidRequest where the file cannot be read or there is no chain to ask, ChainUnavailable.
    """
    from rios.billing.chain.abi import keccak
    from rios.billing.chain.view import SettlementView

    try:
        document = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    known = _known(url) if settlement is None else check_address(settlement, name="--settlement")
    chain = _chain(url)
    try:
        named = check_address(json.loads(document)["settlement"], name="settlement")
        view = SettlementView(chain, named)
        contract = _contract(chain, named, known)
        if contract.state == FAILED:  # what another contract answers says nothing
            return [contract]
        return [contract, *verify(document, chain_view=view, keccak=keccak)]
    except (ValueError, KeyError, TypeError, ChainMismatch) as error:
        return [Link("document", FAILED, str(error) if isinstance(error, RiosError) else "not an export of rios")]
    finally:
        chain.close()


def _contract(chain: Chain, named: Address, known: Address | None) -> Link:
    """Whether the contract that the file names is the network's."""
    from rios.billing.chain.abi import decode, encode
    from rios.billing.chain.contracts import is_code_of

    if not is_code_of("RiosSettlement", chain.code(named)):
        return Link("contract", FAILED, f"{named} has other code than the settlement contract of this version of rios")
    token = decode("RiosSettlement", "token", chain.call(named, encode("RiosSettlement", "token")))
    shown = f"settlement {named}, which pays the token {token}"
    if known is None:
        return Link(
            "contract",
            PENDING,
            f"{shown}; only the file says that it is the network's: compare it with the address that the network "
            "publishes, or give that one (--settlement)",
        )
    if known != named:
        return Link("contract", FAILED, f"the file is about {shown}; the network's settlement is {known}")
    return Link("contract", OK, shown)


def _known(url: str | None) -> Address | None:
    """The settlement contract that the settings name."""
    options = settings()
    file = options.contracts
    if file is None and url is None and options.home is not None:
        file = options.home / "contracts.json"
    if file is None or not file.exists():
        return None
    from rios.billing.chain.contracts import Addresses

    try:
        return Addresses.from_dict(json.loads(file.read_text())).settlement
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error


def _chain(url: str | None) -> Chain:
    options = settings()
    if url or options.chain:
        from rios.billing.chain.rpc import RpcChain

        return RpcChain(url or options.chain or "", chain_id=options.chain_id)
    if options.home is None or not (options.home / "chain.sqlite").exists():
        raise InvalidRequest("there is no chain to ask: give --chain URL, or set RIOS_HOME to a home that has one")
    from rios.billing.chain.embedded import EmbeddedChain

    return EmbeddedChain(options.home)
