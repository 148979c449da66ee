"""The contracts of a network: where they are, that they are ours, and how a local network makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, TypeVar

from rios.billing.chain.abi import artifact, creation, decode, encode, keccak
from rios.billing.chain.protocol import Chain, Receipt
from rios.words.errors import ChainMismatch, InvalidRequest
from rios.words.ids import Address, check_address
from rios.words.money import WEI_PER_ROS

T = TypeVar("T")
CLAIMS_MAX = 250
CHARGES_MAX = 500
CREDITS_MAX = 500
"""What fits into one transaction under EIP-7825, whatever the state of its accounts (contracts/README.md)."""
ROLES: Mapping[str, Sequence[str]] = {
    "RosToken": ("MINTER_ROLE",),
    "RiosEscrow": ("CHARGER_ROLE", "PAUSER_ROLE"),
    "RiosSettlement": ("POSTER_ROLE", "CHALLENGER_ROLE", "PAUSER_ROLE"),
    "RiosStaking": ("SLASHER_ROLE",),
}
"""What the operator of a network may do."""
NOBODY = Address("0x" + 40 * "0")
_ADMIN = bytes(32)  # OpenZeppelin's DEFAULT_ADMIN_ROLE
# Our contracts need at most 4.8 M and 0.1 M; what is not used is not paid.
_CREATION_GAS = 9_000_000
_CALL_GAS = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The contracts of one network."""

    chain_id: int
    block: int
    """Of the first of them: nothing of the network is in an earlier block."""
    token: Address
    escrow: Address
    settlement: Address
    staking: Address
    price_book: Address
    timelock: Address
    governor: Address

    def of(self, contract: str) -> Address:
        """The address of a contract by its name: "RosToken"."""
        return check_address(getattr(self, _FIELDS[contract]))

    def to_dict(self) -> dict[str, str | int]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. Raises InvalidRequest where something lacks or is no address."""
        if missing := [name for name in cls.__slots__ if name not in raw]:
            raise InvalidRequest(f"the addresses of a network lack {', '.join(missing)}")
        found = {name: check_address(raw[name], name=f"the address of {name}") for name in _FIELDS.values()}
        return cls(chain_id=int(raw["chain_id"]), block=int(raw["block"]), **found)


_FIELDS = {
    "RosToken": "token",
    "RiosEscrow": "escrow",
    "RiosSettlement": "settlement",
    "RiosStaking": "staking",
    "RiosPriceBook": "price_book",
    "TimelockController": "timelock",
    "RiosGovernor": "governor",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the constructors of a network fix. The defaults are for a local one, where nobody waits for anybody."""

    cap_wei: int = 10**9 * WEI_PER_ROS
    """The most ROS that there can ever be."""
    admin_delay_s: int = 0
    withdrawal_delay_s: int = 3600
    challenge_window_s: int = 0
    unbonding_delay_s: int = 7 * 24 * 3600
    timelock_delay_s: int = 0
    voting_delay_blocks: int = 1
    voting_period_blocks: int = 10
    proposal_threshold_wei: int = 0
    quorum_percent: int = 4


class Sends(Protocol):
    """As much of a `Sender` as is needed to make contracts."""

    @property
    def address(self) -> Address:
        """Who sends."""

    def send(self, key: str, to: Address | None, data: bytes, *, gas: int | None = None) -> Receipt:
        """See `Sender.send`."""


def deploy_all(
    chain: Chain, sender: Sends, *, terms: Terms | None = None, operator: Address | None = None, key: str = "deploy"
) -> Addresses:
    """Make all contracts, owned by the sender, and give `operator` (the sender without one) what `ROLES` says.

    The price book belongs to the timelock from the start: only a vote publishes in it. Whoever came halfway before goes
    on there, for each transaction has a key of its own under `key`. Raises TransactionFailed, ChainUnavailable.
    """
    terms = terms or Terms()
    owner, operator = sender.address, operator or sender.address
    blocks: list[int] = []

    def make(contract: str, *arguments: Any) -> Address:
        receipt = sender.send(f"{key}/{contract}", None, creation(contract, *arguments), gas=_CREATION_GAS)
        if receipt.created is None:
            raise ChainMismatch(f"{receipt.tx_hash} should have made {contract}, but made nothing")
        blocks.append(receipt.block)
        return receipt.created

    token = make("RosToken", owner, terms.admin_delay_s, terms.cap_wei)
    timelock = make("TimelockController", terms.timelock_delay_s, [], [NOBODY], owner)
    votes = (terms.voting_delay_blocks, terms.voting_period_blocks, terms.proposal_threshold_wei, terms.quorum_percent)
    made = {
        "token": token,
        "escrow": make("RiosEscrow", token, owner, terms.admin_delay_s, terms.withdrawal_delay_s),
        "settlement": make("RiosSettlement", token, owner, terms.admin_delay_s, terms.challenge_window_s),
        "staking": make("RiosStaking", token, owner, terms.admin_delay_s, terms.unbonding_delay_s, operator),
        "price_book": make("RiosPriceBook", timelock),
        "timelock": timelock,
        "governor": make("RiosGovernor", token, timelock, *votes),
    }
    addresses = Addresses(chain_id=chain.chain_id, block=min(blocks), **made)
    for contract, function, arguments in _wiring(addresses, owner, operator):
        name = "/".join((key, contract, function, *(str(a.hex() if isinstance(a, bytes) else a) for a in arguments)))
        sender.send(name, addresses.of(contract), encode(contract, function, *arguments), gas=_CALL_GAS)
    return addresses


def _wiring(addresses: Addresses, owner: Address, operator: Address) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """The calls after which the contracts work together. The timelock loses its owner last: it governs itself."""
    yield "RiosEscrow", "setSettlement", (addresses.settlement,)
    for contract, roles in ROLES.items():
        yield from ((contract, "grantRole", (role_id(role), operator)) for role in roles)
    for role in ("PROPOSER_ROLE", "CANCELLER_ROLE"):
        yield "TimelockController", "grantRole", (role_id(role), addresses.governor)
    yield "TimelockController", "renounceRole", (_ADMIN, owner)


def role_id(name: str) -> bytes:
    """What a contract knows a role by: the hash of its name."""
    return keccak(name.encode())


def read(
    chain: Chain, addresses: Addresses, contract: str, function: str, *arguments: Any, block: int | None = None
) -> Any:
    """What a function of a contract answers after the latest block, or after `block`: one value, or a tuple.

    read(chain, addresses, "RiosEscrow", "balanceOf", user) is an int of wei. Raises TransactionFailed when it reverts,
    ChainMismatch where another contract answers, ChainUnavailable.
    """
    answer = chain.call(addresses.of(contract), encode(contract, function, *arguments), block=block)
    return decode(contract, function, answer)


def check_contracts(chain: Chain, addresses: Addresses) -> None:
    """Raise ChainMismatch unless the chain is that of `addresses` and has our code there, wired as we wire it."""
    chain.check()
    if chain.chain_id != addresses.chain_id:
        raise ChainMismatch(f"the network is on chain {addresses.chain_id}, but the node is of chain {chain.chain_id}")
    for contract in _FIELDS:
        where = addresses.of(contract)
        code = chain.code(where)
        if not code:
            raise ChainMismatch(f"there is no {contract} at {where}: the chain is another, or was begun anew")
        if not is_code_of(contract, code):
            raise ChainMismatch(f"the contract at {where} is not the {contract} of this version of rios")
    for contract, function, target in _LINKS:
        found, wanted = read(chain, addresses, contract, function), addresses.of(target)
        if found != wanted:
            raise ChainMismatch(f"{function} of {contract} {addresses.of(contract)} is {found}, not {target} {wanted}")


_LINKS = (
    ("RiosEscrow", "token", "RosToken"),
    ("RiosEscrow", "settlement", "RiosSettlement"),
    ("RiosSettlement", "token", "RosToken"),
    ("RiosStaking", "token", "RosToken"),
    ("RiosGovernor", "token", "RosToken"),
    ("RiosGovernor", "timelock", "TimelockController"),
)


def is_code_of(contract: str, code: bytes) -> bool:
    """Whether `code` is that of a contract of ours, whatever its constructor filled in."""
    ours = artifact(contract)
    if len(code) != len(ours.code):
        return False
    blank = bytearray(code)
    for start, length in ours.immutables:
        blank[start : start + length] = bytes(length)
    return bytes(blank) == ours.code


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in pieces of at most `size`, in their order."""
    yield from (items[first : first + size] for first in range(0, len(items), size))
