"""Checking an export with no trust in whoever wrote it: the file, and a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rios.billing.verify import FAILED, Link, verify
from rios.words.config import settings
from rios.words.errors import ChainMismatch, InvalidRequest, RiosError
from rios.words.ids import check_address

if TYPE_CHECKING:
    from rios.billing.chain.protocol import Chain


def check_file(path: Path, url: str | None) -> list[Link]:
    """Check an export against the node at `url`, or the embedded chain of RIOS_HOME.

    Raises InvalidRequest where the file cannot be read or there is no chain to ask, ChainUnavailable.
    """
    from rios.billing.chain.abi import keccak
    from rios.billing.chain.view import SettlementView

    try:
        document = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    chain = _chain(url)
    try:
        contract = check_address(json.loads(document)["settlement"], name="settlement")
        view = SettlementView(chain, contract)
    except (ValueError, KeyError, TypeError, ChainMismatch) as error:
        return [Link("document", FAILED, str(error) if isinstance(error, RiosError) else "not an export of rios")]
    else:
        return verify(document, chain_view=view, keccak=keccak)
    finally:
        chain.close()


def _chain(url: str | None) -> Chain:
    options = settings()
    if url or options.chain:
        from rios.billing.chain.rpc import RpcChain

        return RpcChain(url or options.chain or "", chain_id=options.chain_id)
    if options.home is None or not (options.home / "chain.sqlite").exists():
        raise InvalidRequest("there is no chain to ask: give --chain URL, or set RIOS_HOME to a home that has one")
    from rios.billing.chain.embedded import EmbeddedChain

    return EmbeddedChain(options.home)
