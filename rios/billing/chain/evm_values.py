"""Between py-evm's values and those of the protocol."""

from __future__ import annotations

from eth._utils.address import generate_contract_address
from eth.abc import BlockHeaderAPI, ReceiptAPI, SignedTransactionAPI
from eth.chains.base import MiningChain
from eth.exceptions import PyEVMError, TransactionNotFound, VMError
from eth.typing import AccountDetails
from eth_typing import Address as CanonicalAddress
from eth_typing import Hash32
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

from rios.billing.chain.abi import address as address_of
from rios.billing.chain.abi import explain, keccak
from rios.billing.chain.protocol import Block, Log, Receipt, Topics
from rios.billing.recursion import put_back
from rios.words.errors import TransactionFailed
from rios.words.ids import Address

put_back()


def canonical(address: str) -> CanonicalAddress:
    """The 20 bytes of an address."""
    return CanonicalAddress(bytes.fromhex(address.removeprefix("0x")))


def hash32(text: str) -> Hash32:
    """The 32 bytes of a hash."""
    return Hash32(bytes.fromhex(text.removeprefix("0x")))


def spelt(address: bytes) -> Address:
    """The spelling of EIP-55."""
    return address_of("0x" + address.hex())


def hexed(value: bytes) -> str:
    """As text."""
    return "0x" + value.hex()


def account(wei: int) -> AccountDetails:
    """An account of the first block."""
    return {"balance": wei, "nonce": 0, "code": b"", "storage": {}}


def block_of(header: BlockHeaderAPI) -> Block:
    """What of a header is asked for."""
    return Block(
        number=int(header.block_number),
        hash=hexed(header.hash),
        parent_hash=hexed(header.parent_hash),
        timestamp=int(header.timestamp),
        bloom=int(header.bloom).to_bytes(256, "big"),
    )


def receipt_of(
    header: BlockHeaderAPI, transaction: SignedTransactionAPI, receipt: ReceiptAPI, *, gas_used: int, first: int
) -> Receipt:
    """The receipt of a transaction, whose first log has the place `first` in its block."""
    tx_hash, block_hash, number = hexed(transaction.hash), hexed(header.hash), int(header.block_number)
    created = None
    if not transaction.to:
        created = spelt(generate_contract_address(transaction.sender, transaction.nonce))
    return Receipt(
        tx_hash=tx_hash,
        block=number,
        block_hash=block_hash,
        succeeded=receipt.state_root == b"\x01",
        gas_used=gas_used,
        gas_price_wei=min(
            transaction.max_fee_per_gas, int(header.base_fee_per_gas or 0) + transaction.max_priority_fee_per_gas
        ),
        created=created,
        logs=tuple(
            Log(
                address=spelt(log.address),
                topics=tuple(hexed(topic.to_bytes(32, "big")) for topic in log.topics),
                data=bytes(log.data),
                block=number,
                block_hash=block_hash,
                tx_hash=tx_hash,
                index=first + place,
            )
            for place, log in enumerate(receipt.logs)
        ),
    )


def decoded(chain: MiningChain, raw: bytes) -> SignedTransactionAPI:
    """A signed transaction. Raises TransactionFailed for bytes that are none, or none for this chain."""
    try:
        transaction = chain.get_vm().get_transaction_builder().decode(raw)
        if transaction.chain_id != chain.chain_id:
            raise ValidationError(f"signed for chain {transaction.chain_id}, not {chain.chain_id}")
        transaction.validate()
    except (RLPException, ValidationError, PyEVMError, ValueError) as error:
        raise TransactionFailed(f"no transaction that this chain takes: {error}") from error
    return transaction


def place_of(chain: MiningChain, tx_hash: Hash32) -> tuple[int, int] | None:
    """Block and place of a transaction, or None."""
    try:
        number, index = chain.chaindb.get_transaction_index(tx_hash)
    except TransactionNotFound:
        return None
    return int(number), int(index)


def bloom_bits(value: bytes) -> int:
    """The three bits that `value` sets in a bloom (yellow paper, 4.3.1)."""
    hashed = keccak(value)
    return sum({1 << (int.from_bytes(hashed[i : i + 2], "big") & 2047) for i in (0, 2, 4)})


def matches(log: Log, topics: Topics) -> bool:
    """Whether a log has these topics."""
    return len(log.topics) >= len(topics) and all(
        wanted is None or wanted == topic for wanted, topic in zip(topics, log.topics, strict=False)
    )


def reason(error: VMError) -> str:
    """Why a call failed, in words."""
    data = error.args[0] if error.args else b""
    return explain(data) if isinstance(data, bytes) else f"{type(error).__name__}: {data}"
