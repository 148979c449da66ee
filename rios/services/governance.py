"""Votes over the network's price book and parameters: propose, vote, execute; the ledger follows the chain's events.

A vote that is over can be held again: each further one of the same change has a number in its description, by which the
contract tells them apart. So the change alone says which proposal is meant: the last one of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rios.billing.books import PriceBook
from rios.billing.chain import abi
from rios.billing.parameters import PARAMETERS, Change, Setting
from rios.services.books import Books
from rios.services.settlement import Settlement
from rios.words.display import Shown
from rios.words.errors import InvalidRequest, TransactionFailed

if TYPE_CHECKING:
    from rios.services.network_chain import NetworkChain

STATES = ("pending", "active", "canceled", "defeated", "succeeded", "queued", "expired", "executed")
"""OpenZeppelin's IGovernor.ProposalState, in its order."""
_OVER = ("canceled", "defeated", "expired", "executed")
VOTES = {"against": 0, "for": 1, "abstain": 2}
"""OpenZeppelin's GovernorCountingSimple.VoteType."""
# What an embedded chain mines of a vote in one call: about a minute.
_BLOCKS_MAX = 10_000
# Fixed: what a vote costs depends on the block that it gets into, which an estimate does not know. To publish a book of
# the default size takes less than half of it.
_GAS = 5_000_000
Subject = PriceBook | Change


@dataclass(frozen=True, slots=True)
class Proposal(Shown):
    """A price book, or a parameter, that is voted on."""

    id: str
    """Decimal digits: the number by which the governor knows it."""
    state: str
    for_votes: int
    """In wei of ROS, as the others."""
    against_votes: int
    abstain_votes: int
    subject: Subject

    @property
    def book(self) -> PriceBook:
        """The price book. Raises InvalidRequest where it is about a parameter."""
        if isinstance(self.subject, Change):
            raise InvalidRequest(f"proposal {self.id} is about {self.subject.name}, not about a price book")
        return self.subject

    def __str__(self) -> str:
        return f"{_titled(self.subject)} is {self.state} (proposal {self.id})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        about = (
            {"parameter": self.subject.name, "value": str(self.subject.value)}
            if isinstance(self.subject, Change)
            else {"version": self.subject.version, "digest": self.subject.digest}
        )
        return {
            "id": self.id,
            "state": self.state,
            "for": str(self.for_votes),
            "against": str(self.against_votes),
            "abstain": str(self.abstain_votes),
            **about,
        }


class Governance(Shown):
    """Price books and parameters by vote: who holds ROS decides, the timelock acts."""

    def __init__(self, books: Books, settlement: Settlement) -> None:
        self._books = books
        self._settlement = settlement

    def __repr__(self) -> str:
        return "<Governance of price book and parameters>"

    @property
    def _chain(self) -> NetworkChain:
        return self._settlement.chain

    def propose(self, what: Subject) -> Proposal:
        """Put a price book, whose version must be the next one, or a parameter to the vote of all who hold ROS.

        While it is voted on, the same again is the same proposal. Raises InvalidRequest, TransactionFailed.
        """
        chain = self._chain
        if isinstance(what, PriceBook):
            wanted = int(chain.read("RiosPriceBook", "version")) + 1
            if what.version != wanted:
                raise InvalidRequest(
                    f"the price book has version {what.version}; the next one to be published is {wanted}"
                )
        # Who has never delegated has no vote; delegating to oneself twice changes nothing.
        chain.as_operator("delegate:operator", "RosToken", "delegate", chain.platform)
        chain.as_wallet("delegate:wallet", "RosToken", "delegate", self._books.address)
        time = self._times(what)
        if time == 0 or self._state(self._number(what, time)) in _OVER:
            time += 1
            number = self._number(what, time)
            key = f"propose:{what.digest}" if isinstance(what, PriceBook) and time == 1 else f"propose:{number}"
            action = (*self._action(what), _description(what, time))
            chain.as_operator(key, "RiosGovernor", "propose", *action, gas=_GAS)
        return self.proposal(what)

    def vote(self, what: Subject, choice: str = "for") -> Proposal:
        """Vote with all that operator and wallet hold: "for", "against" or "abstain"."""
        if choice not in VOTES:
            raise InvalidRequest(f"a vote is one of {', '.join(VOTES)}, not {choice!r}")
        chain, number = self._chain, self._number(what, self._last(what))
        self._wait(number, "active", refused=("canceled", "defeated"))
        for who, act in (("operator", chain.as_operator), ("wallet", chain.as_wallet)):
            act(f"vote:{who}:{number}", "RiosGovernor", "castVote", number, VOTES[choice], gas=_GAS)
        return self.proposal(what)

    def execute(self, what: Subject) -> Proposal:
        """Queue a proposal that has won, and have the timelock act; the ledger takes it from the event.

        Raises TransactionFailed where it has not won, or while the timelock keeps it; the clock of an embedded chain is
        moved on to then.
        """
        chain, time = self._chain, self._last(what)
        number = self._number(what, time)
        action = (*self._action(what), chain.keccak(_description(what, time).encode()))
        self._wait(number, "succeeded", "queued", "executed", refused=("canceled", "defeated", "expired"))
        if self._state(number) == "succeeded":
            chain.as_operator(f"queue:{number}", "RiosGovernor", "queue", *action, gas=_GAS)
        if self._state(number) == "queued":
            self._ripen(number)
            chain.as_operator(f"execute:{number}", "RiosGovernor", "execute", *action, gas=_GAS)
        chain.confirm()
        self._settlement.sync()
        return self.proposal(what)

    def proposal(self, what: Subject) -> Proposal:
        """How the last vote over a book or a parameter stands. Raises TransactionFailed where it was never proposed."""
        number = self._number(what, self._last(what))
        against, in_favour, abstain = self._chain.read("RiosGovernor", "proposalVotes", number)
        return Proposal(str(number), self._state(number), in_favour, against, abstain, what)

    def parameters(self) -> list[Setting]:
        """All parameters as they are now, those of voting and those that are fixed too. Asks the chain."""
        own = {one.name: one for one in self._books.parameters()}
        return [
            own.get(name) or Setting(
                name, int(self._chain.read(one.contract, one.getter)), "fixed" if one.setter is None else "contract"
            )
            for name, one in PARAMETERS.items()
        ]  # fmt: skip

    def _action(self, what: Subject) -> tuple[list[str], list[int], list[bytes]]:
        if isinstance(what, PriceBook):
            document = what.to_json()
            contract, arguments = "RiosPriceBook", (what.effective_from_s, bytes.fromhex(what.digest), document)
            call = abi.encode(contract, "publish", *arguments)
        else:
            one = what.parameter
            assert one.setter is not None
            contract = one.contract
            call = abi.encode(contract, one.setter, *((one.key,) if one.of_network else ()), what.value)
        return [self._chain.addresses.of(contract)], [0], [call]

    def _number(self, what: Subject, time: int) -> int:
        text = self._chain.keccak(_description(what, time).encode())
        return int(self._chain.read("RiosGovernor", "hashProposal", *self._action(what), text))

    def _times(self, what: Subject) -> int:
        """How often it was proposed."""
        time = 0
        while int(self._chain.read("RiosGovernor", "proposalSnapshot", self._number(what, time + 1))):
            time += 1
        return time

    def _last(self, what: Subject) -> int:
        time = self._times(what)
        if time == 0:
            raise TransactionFailed(f"{_titled(what)} was never proposed; propose it first")
        return time

    def _state(self, number: int) -> str:
        return STATES[self._chain.read("RiosGovernor", "state", number)]

    def _ripen(self, number: int) -> None:
        """Until the timelock lets a queued proposal go: an embedded chain's clock is moved on."""
        chain = self._chain
        due, now = int(chain.read("RiosGovernor", "proposalEta", number)), chain.now_s()
        if due > now and not chain.advance(due - now):
            when = datetime.fromtimestamp(due, UTC).isoformat()
            raise TransactionFailed(f"the timelock keeps proposal {number} until {when}; execute it then")

    def _wait(self, number: int, *wanted: str, refused: tuple[str, ...]) -> None:
        """Until a proposal is in a wanted state: an embedded chain mines the blocks that this takes."""
        for _ in range(_BLOCKS_MAX):
            state = self._state(number)
            if state in wanted:
                return
            if state in refused or not self._chain.mine_one():
                break
        end = self._chain.read("RiosGovernor", "proposalDeadline", number)
        raise TransactionFailed(
            f"proposal {number} is {self._state(number)}, not {' or '.join(wanted)}; its vote ends with block {end}"
        )


def _titled(what: Subject) -> str:
    return f"price book {what.version}" if isinstance(what, PriceBook) else f"{what.name} = {what.value}"


def _description(what: Subject, time: int) -> str:
    """What the governor knows it by, besides what it does."""
    about = f"Price book {what.version}, {what.digest}" if isinstance(what, PriceBook) else f"Parameter {_titled(what)}"
    return about if time == 1 else f"{about}, vote {time}"
