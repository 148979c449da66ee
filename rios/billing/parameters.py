"""What a vote can set besides the price book: where each parameter is kept, and what it may be.

Those of the network are numbers in the contract of the price book, which all processes of a network follow; a vote wins
over what a process was set to. Those of voting are the governor's and the timelock's own. What the contracts promise to
whoever has money in them (how long it takes to leave, how long a root can be challenged, how much ROS there can be) is
fixed when they are made: no vote can keep a deposit from leaving, or make ROS of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rios.words.display import Shown
from rios.words.errors import InvalidRequest
from rios.words.money import parse_ros

NETWORK = "RiosPriceBook"
"""The contract of the network's own parameters."""
_DAY_S = 86_400
_ROS_MAX_WEI = 10**27


@dataclass(frozen=True, slots=True)
class Parameter(Shown):
    """One number that the network has decided on. Its unit is the last part of its name."""

    name: str
    about: str
    contract: str
    getter: str
    """The function of the contract that answers it."""
    setter: str | None
    """The one that the timelock calls to set it; None for what is fixed."""
    low: int
    high: int

    @property
    def key(self) -> bytes:
        """Its name as the contract of the network's own parameters has it: ASCII, filled up to 32 bytes with zeros."""
        return self.name.encode("ascii").ljust(32, b"\0")

    @property
    def of_network(self) -> bool:
        """Whether it is one of the network's own, which services follow; 0 there means that no vote has set it."""
        return self.contract == NETWORK

    def within(self, value: int) -> int:
        """`value`, or the bound that it passes: anybody who wins a vote can write any number into the contract."""
        return min(max(value, self.low), self.high)


def _own(name: str, about: str, low: int, high: int) -> Parameter:
    return Parameter(name, about, NETWORK, "parameter", "setParameter", low, high)


def _fixed(name: str, about: str, contract: str, getter: str) -> Parameter:
    return Parameter(name, about, contract, getter, None, 0, 2**256 - 1)


PARAMETERS: Mapping[str, Parameter] = {
    one.name: one
    for one in (
        _own("payout_min_wei", "the operator pays an owner once so much is due (RIOS_PAYOUT_MIN)", 1, _ROS_MAX_WEI),
        _own(
            "epoch_interval_s", "epochs are closed and owners paid this often (RIOS_EPOCH_INTERVAL_S)", 60, 366 * _DAY_S
        ),
        _own("hold_grace_s", "a request that paused for lack of money waits so long (RIOS_HOLD_GRACE_S)", 1, _DAY_S),
        Parameter(
            "voting_delay_blocks", "between a proposal and its vote", "RiosGovernor", "votingDelay", "setVotingDelay",
            0, 1_000_000,
        ),
        Parameter(
            "voting_period_blocks", "how long a vote takes", "RiosGovernor", "votingPeriod", "setVotingPeriod",
            1, 10_000_000,
        ),
        Parameter(
            "proposal_threshold_wei", "the votes that a proposer needs", "RiosGovernor", "proposalThreshold",
            "setProposalThreshold", 0, _ROS_MAX_WEI,
        ),
        Parameter(
            "quorum_percent", "the votes that a proposal needs, of all ROS", "RiosGovernor", "quorumNumerator()",
            "updateQuorumNumerator", 0, 100,
        ),
        Parameter(
            "timelock_delay_s", "between a vote that was won and its execution", "TimelockController", "getMinDelay",
            "updateDelay", 0, 90 * _DAY_S,
        ),
        _fixed("challenge_window_s", "how long a root can be challenged", "RiosSettlement", "challengeWindow"),
        _fixed("withdrawal_delay_s", "between asking for a deposit and having it", "RiosEscrow", "withdrawalDelay"),
        _fixed("unbonding_delay_s", "between asking for a stake and having it", "RiosStaking", "unbondingDelay"),
        _fixed("cap_wei", "the most ROS that there can ever be", "RosToken", "cap"),
    )
}  # fmt: skip
"""All of them, by name."""
_IN_BOOK = ("platform_bp", "ask_min_bp", "ask_max_bp", "minimum_wei")


@dataclass(frozen=True, slots=True)
class Change(Shown):
    """What a proposal sets a parameter to. Raises InvalidRequest for one that no vote can set, and out of bounds."""

    name: str
    value: int

    def __post_init__(self) -> None:
        found = PARAMETERS.get(self.name)
        if self.name in _IN_BOOK:
            raise InvalidRequest(f"{self.name} is in the price book: propose a book of the next version with another")
        if found is None:
            known = ", ".join(one.name for one in PARAMETERS.values() if one.setter is not None)
            raise InvalidRequest(f"the network has no parameter {self.name!r}; a vote can set {known}")
        if found.setter is None:
            raise InvalidRequest(
                f"{self.name} is fixed in the contract {found.contract} for good: who has money there was promised it"
            )
        low = 0 if found.of_network else found.low
        whole = type(self.value) is int
        if not whole or not (low <= self.value <= found.high) or 0 < self.value < found.low:
            none = "; 0 for what each process is set to" if found.of_network else ""
            raise InvalidRequest(
                f"{self.name} is {self.value!r}; it must be a whole number from {found.low} to {found.high}{none}"
            )

    @property
    def parameter(self) -> Parameter:
        """What is changed."""
        return PARAMETERS[self.name]

    @classmethod
    def parse(cls, text: str) -> Change:
        """What `NAME=VALUE` says; an amount may be written as "payout_min_wei=2 ROS". Raises InvalidRequest."""
        name, found, value = (part.strip() for part in text.partition("="))
        if not found:
            raise InvalidRequest(f"{text!r} is no change of a parameter; write one as NAME=VALUE")
        if name.endswith("_wei") and not value.isdecimal():
            return cls(name, parse_ros(value, name=name))
        try:
            number = int(value)
        except ValueError as error:
            raise InvalidRequest(f"{name} is {value!r}; it must be a whole number") from error
        return cls(name, number)


@dataclass(frozen=True, slots=True)
class Setting(Shown):
    """What a parameter is now."""

    name: str
    value: int | float | None
    """In the unit that its name ends with; None for never."""
    by: str
    """"vote", "setting" (of this process, for no vote has set it), "contract" (a vote can set it) or "fixed"."""

    def to_dict(self) -> dict[str, str | None]:
        """As JSON; the value as text, for it may pass 2^53."""
        return {"name": self.name, "value": None if self.value is None else str(self.value), "by": self.by}
