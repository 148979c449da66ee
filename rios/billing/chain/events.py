"""What the contracts said, followed block by block: each event once, and back again where a chain changes its mind.

Nothing is kept here. The caller keeps the cursor, in the transaction that posts the events, and gives it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rios.billing.chain.abi import artifact, spell, topic_of
from rios.billing.chain.contracts import Addresses
from rios.billing.chain.finality import CONFIRMATIONS, final_block
from rios.billing.chain.protocol import Block, Chain, Log
from rios.billing.ledger.chain import ChainCursor, ChainEvent
from rios.words.errors import ChainMismatch, ChainUnavailable
from rios.words.ids import Address

CURSOR = "contracts"
SPAN_BLOCKS = 2000
"""Blocks whose logs are asked for at once; many nodes refuse more."""
REWIND_BLOCKS = 128
"""How far a cursor goes back where nobody knows any more what its block stood on."""
FUNDED = "Funded"
GIVEN = "Given"
FOLLOWED: Mapping[str, str] = {
    "RiosEscrow": "",
    "RiosSettlement": "",
    "RiosPriceBook": "",
    # It has a `Withdrawn` too, which is another thing than the escrow's.
    "RiosStaking": "Staking",
}
"""Contracts whose events are followed, and what stands before their names."""
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A step along the chain."""

    events: Sequence[ChainEvent]
    """In their order on the chain."""
    cursor: ChainCursor
    """Where the chain was followed to, to be kept with the events."""
    reverted_from: int | None = None
    """Events from this block on are gone: reverse them and set the cursor back. Then there are no events in the batch;
    those of the blocks that came instead follow from the cursor on."""
    more: bool = False
    """Whether final blocks are left after the cursor."""


def follow(
    chain: Chain,
    addresses: Addresses,
    cursor: ChainCursor | None,
    *,
    confirmations: int = CONFIRMATIONS,
    finalized_tag: bool = True,
    span_blocks: int = SPAN_BLOCKS,
    name: str = CURSOR,
) -> Batch | None:
    """What final blocks after `cursor` say, at most `span_blocks` of them; None where no block is new.

    cursor: the one kept last, None at the beginning; `name` is that of a new one.
    confirmations, finalized_tag: what is final, as `final_block` has it; a reorganisation deeper than that shows as
    `reverted_from`.

    Raises ChainUnavailable, also where the chain changes faster than it can be read, and ChainMismatch where the
    contracts are gone or say what ours never do.
    """
    for _ in range(_TRIES):
        if cursor is not None:
            there = chain.block(cursor.block)
            if there is None:
                # A node that is behind, or a chain that was begun anew.
                _check_there(chain, addresses)
                return None
            if there.hash != cursor.block_hash:
                _check_there(chain, addresses)
                return _back(chain, addresses, cursor)
        end = final_block(chain, confirmations=confirmations, finalized_tag=finalized_tag)
        start = addresses.block if cursor is None else cursor.block + 1
        if end is None or end.number < start:
            return None
        last = end if end.number < start + span_blocks else chain.block(start + span_blocks - 1)
        if last is None:
            continue
        logs = _logs(chain, addresses, start, last.number)
        if _unchanged(chain, cursor, last, logs):
            events = _events(logs, addresses)
            now = ChainCursor(name=name if cursor is None else cursor.name, block=last.number, block_hash=last.hash)
            return Batch(events=events, cursor=now, more=last.number < end.number)
    raise ChainUnavailable(f"{chain!r} changed its blocks {_TRIES} times while they were read; try again")


def _logs(chain: Chain, addresses: Addresses, start: int, end: int) -> list[Log]:
    """All logs that may be events, in their order."""
    ours = [addresses.of(contract) for contract in FOLLOWED]
    found = [*chain.logs(from_block=start, to_block=end, addresses=ours)]
    for holder in (addresses.settlement, addresses.escrow):
        topics = [topic_of("RosToken", "Transfer"), None, _word(holder)]
        found += chain.logs(from_block=start, to_block=end, addresses=[addresses.token], topics=topics)
    return sorted(found, key=lambda log: (log.block, log.index))


def _events(logs: Sequence[Log], addresses: Addresses) -> list[ChainEvent]:
    """What the logs say, and the tokens that came to the escrow without a deposit: anybody may send it some."""
    events: list[ChainEvent] = []
    given: dict[str, int] = {}
    last: dict[str, ChainEvent] = {}
    for log in logs:
        if (event := decode_log(log, addresses)) is not None:
            events.append(event)
            if event.name in ("Deposited", "Credited"):
                given[log.tx_hash] = given.get(log.tx_hash, 0) - int(event.args["amount"])
        elif (came := _transferred(log, addresses)) is not None and came["to"] == addresses.escrow:
            given[log.tx_hash] = given.get(log.tx_hash, 0) + int(came["value"])
            last[log.tx_hash] = _event(log, GIVEN, {"payer": came["from"]})
    for tx_hash, event in last.items():
        if given[tx_hash]:
            events.append(dataclasses.replace(event, args={**event.args, "amount": given[tx_hash]}))
    return sorted(events, key=lambda event: (event.block, event.log_index))


def _unchanged(chain: Chain, cursor: ChainCursor | None, last: Block, logs: Sequence[Log]) -> bool:
    """Whether the chain still has the blocks that the logs were read from. A hash stands for all blocks before it."""
    wanted = {log.block: log.block_hash for log in logs} | {last.number: last.hash}
    if cursor is not None:
        wanted[cursor.block] = cursor.block_hash
    if any(wanted[log.block] != log.block_hash for log in logs):
        return False
    return all((block := chain.block(number)) is not None and block.hash == wanted[number] for number in wanted)


def _back(chain: Chain, addresses: Addresses, cursor: ChainCursor) -> Batch:
    """To the latest block that both the cursor's chain and this one have.

    Nodes keep for a while what they threw away, so the way leads from parent to parent; where it ends, some blocks too
    many are reversed, and their events come again.
    """
    lost: Block | None = chain.block(cursor.block_hash)
    number = cursor.block
    while lost is not None and number > addresses.block:
        number = lost.number - 1
        there = chain.block(number)
        if there is not None and there.hash == lost.parent_hash:
            break
        lost = chain.block(lost.parent_hash)
    if lost is None:
        number = max(number - REWIND_BLOCKS, addresses.block - 1, 0)
    there = chain.block(number)
    if there is None:
        raise ChainUnavailable(f"{chain!r} has no block {number}, but had a later one; try again")
    back = ChainCursor(name=cursor.name, block=number, block_hash=there.hash)
    return Batch(events=(), cursor=back, reverted_from=number + 1, more=True)


def _check_there(chain: Chain, addresses: Addresses) -> None:
    if not chain.code(addresses.escrow):
        raise ChainMismatch(
            f"there is no contract at {addresses.escrow} any more: the chain is another, or was begun anew; "
            "its ledger does not fit it"
        )


def decode_log(log: Log, addresses: Addresses) -> ChainEvent | None:
    """The event that a log is; None for one that is none of ours.

    Bytes are hex text, a bool is 0 or 1. Raises ChainMismatch where a contract of ours says what ours never does.
    """
    if log.address == addresses.token:
        return _funded(log, addresses)
    contract = next((name for name in FOLLOWED if addresses.of(name) == log.address), None)
    if contract is None or not log.topics:
        return None
    entry = artifact(contract).events.get(log.topics[0])
    if entry is None:
        raise ChainMismatch(f"{contract} at {log.address} said something that ours never says, in {log.tx_hash}")
    args = _arguments(entry, log)
    return _event(log, FOLLOWED[contract] + entry["name"], args)


def _funded(log: Log, addresses: Addresses) -> ChainEvent | None:
    """A transfer of tokens to the settlement contract by anybody but the escrow, whose charges say so themselves.

    A claim for the settlement contract itself pays back into it, and counts.
    """
    args = _transferred(log, addresses)
    if args is None or args["to"] != addresses.settlement or args["from"] == addresses.escrow:
        return None
    return _event(log, FUNDED, {"payer": args["from"], "amount": args["value"]})


def _transferred(log: Log, addresses: Addresses) -> dict[str, str | int] | None:
    """ "from", "to" and "value" of a transfer of our tokens."""
    if log.address != addresses.token or log.topics[:1] != (topic_of("RosToken", "Transfer"),):
        return None
    return _arguments(artifact("RosToken").events[log.topics[0]], log)


def _event(log: Log, name: str, args: Mapping[str, str | int]) -> ChainEvent:
    return ChainEvent(
        tx_hash=log.tx_hash, log_index=log.index, block=log.block, block_hash=log.block_hash, name=name, args=args
    )


def _arguments(entry: Mapping[str, Any], log: Log) -> dict[str, str | int]:
    from eth_abi.abi import decode as decoded
    from eth_abi.exceptions import DecodingError

    indexed = [item for item in entry["inputs"] if item["indexed"]]
    others = [item for item in entry["inputs"] if not item["indexed"]]
    try:
        if len(indexed) != len(log.topics) - 1:
            raise ChainMismatch(f"{entry['name']} in {log.tx_hash} has {len(log.topics) - 1} topics")
        # Ours index numbers, addresses and hashes only, each of which fits into a topic as it is.
        said = {
            item["name"]: decoded([item["type"]], bytes.fromhex(topic[2:]))[0]
            for item, topic in zip(indexed, log.topics[1:], strict=True)
        }
        said |= zip(
            (item["name"] for item in others), decoded([item["type"] for item in others], log.data), strict=True
        )
    except DecodingError as error:
        raise ChainMismatch(f"{entry['name']} in {log.tx_hash} has other contents than ours") from error
    return {item["name"]: _plain(item["type"], said[item["name"]]) for item in entry["inputs"]}


def _plain(kind: str, value: Any) -> str | int:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    found = spell(kind, value)
    return found if isinstance(found, str) else int(found)


def _word(address: Address) -> str:
    """An address as a topic."""
    return "0x" + 24 * "0" + address[2:].lower()
