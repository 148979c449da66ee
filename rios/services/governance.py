"""Votes over the network's price book: propose one, vote, execute; the ledger takes it from the chain's event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rios.billing.books import PriceBook
from rios.billing.chain import abi
from rios.services.books import Books
from rios.services.settlement import Settlement
from rios.words.display import Shown
from rios.words.errors import InvalidRequest, TransactionFailed

if TYPE_CHECKING:
    from rios.services.network_chain import NetworkChain

STATES = ("pending", "active", "canceled", "defeated", "succeeded", "queued", "expired", "executed")
"""OpenZeppelin's IGovernor.ProposalState, in its order."""
VOTES = {"against": 0, "for": 1, "abstain": 2}
"""OpenZeppelin's GovernorCountingSimple.VoteType."""
_BLOCKS_MAX = 100
# Fixed: what a vote costs depends on the block that it gets into, which an estimate does not know. To publish a book of
# the default size takes less than half of it.
_GAS = 5_000_000


@dataclass(frozen=True, slots=True)
class Proposal(Shown):
    """A price book that is voted on."""

    id: str
    """Decimal digits: the number by which the governor knows it."""
    state: str
    for_votes: int
    """In wei of ROS, as the others."""
    against_votes: int
    abstain_votes: int
    book: PriceBook

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "state": self.state,
            "for": str(self.for_votes),
            "against": str(self.against_votes),
            "abstain": str(self.abstain_votes),
            "version": self.book.version,
            "digest": self.book.digest,
        }


class Governance(Shown):
    """Price books by vote: who holds ROS decides, the timelock publishes."""

    def __init__(self, books: Books, settlement: Settlement) -> None:
        self._books = books
        self._settlement = settlement

    def __repr__(self) -> str:
        return "<Governance of the price book>"

    @property
    def _chain(self) -> NetworkChain:
        return self._settlement.chain

    def propose(self, book: PriceBook) -> Proposal:
        """Put a price book to the vote of all who hold ROS. Its version must be the next one.

        Raises InvalidRequest, TransactionFailed.
        """
        chain = self._chain
        wanted = int(chain.read("RiosPriceBook", "version")) + 1
        if book.version != wanted:
            raise InvalidRequest(f"the price book has version {book.version}; the next one to be published is {wanted}")
        # Who has never delegated has no vote; delegating to oneself twice changes nothing.
        chain.as_operator("delegate:operator", "RosToken", "delegate", chain.platform)
        chain.as_wallet("delegate:wallet", "RosToken", "delegate", self._books.address)
        key = f"propose:{book.digest}"
        chain.as_operator(key, "RiosGovernor", "propose", *self._action(book), self._description(book), gas=_GAS)
        return self.proposal(book)

    def vote(self, book: PriceBook, choice: str = "for") -> Proposal:
        """Vote with all that operator and wallet hold: "for", "against" or "abstain"."""
        if choice not in VOTES:
            raise InvalidRequest(f"a vote is one of {', '.join(VOTES)}, not {choice!r}")
        chain, number = self._chain, self._number(book)
        self._wait(number, "active", refused=("canceled", "defeated"))
        for who, act in (("operator", chain.as_operator), ("wallet", chain.as_wallet)):
            act(f"vote:{who}:{number}", "RiosGovernor", "castVote", number, VOTES[choice], gas=_GAS)
        return self.proposal(book)

    def execute(self, book: PriceBook) -> Proposal:
        """Queue a proposal that has won and publish its book; the ledger takes it from the event."""
        chain, number = self._chain, self._number(book)
        action = (*self._action(book), chain.keccak(self._description(book).encode()))
        self._wait(number, "succeeded", "queued", "executed", refused=("canceled", "defeated", "expired"))
        if self._state(number) == "succeeded":
            chain.as_operator(f"queue:{number}", "RiosGovernor", "queue", *action, gas=_GAS)
        if self._state(number) == "queued":
            chain.as_operator(f"execute:{number}", "RiosGovernor", "execute", *action, gas=_GAS)
        chain.confirm()
        self._settlement.sync()
        return self.proposal(book)

    def proposal(self, book: PriceBook) -> Proposal:
        """How the vote over a book stands. Raises TransactionFailed where it was never proposed."""
        number = self._number(book)
        against, in_favour, abstain = self._chain.read("RiosGovernor", "proposalVotes", number)
        return Proposal(str(number), self._state(number), in_favour, against, abstain, book)

    def _action(self, book: PriceBook) -> tuple[list[str], list[int], list[bytes]]:
        call = abi.encode("RiosPriceBook", "publish", book.effective_from_s, bytes.fromhex(book.digest), book.to_json())
        return [self._chain.addresses.price_book], [0], [call]

    @staticmethod
    def _description(book: PriceBook) -> str:
        return f"Price book {book.version}, {book.digest}"

    def _number(self, book: PriceBook) -> int:
        text = self._chain.keccak(self._description(book).encode())
        return int(self._chain.read("RiosGovernor", "hashProposal", *self._action(book), text))

    def _state(self, number: int) -> str:
        return STATES[self._chain.read("RiosGovernor", "state", number)]

    def _wait(self, number: int, *wanted: str, refused: tuple[str, ...]) -> None:
        """Until a proposal is in a wanted state: an embedded chain mines the blocks that this takes."""
        for _ in range(_BLOCKS_MAX):
            state = self._state(number)
            if state in wanted:
                return
            if state in refused or not self._chain.mine_one():
                break
        raise TransactionFailed(f"proposal {number} is {self._state(number)}, not {' or '.join(wanted)}")
