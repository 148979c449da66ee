"""What the contracts say reaches the ledger once, and goes back out of it where a chain changes its mind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.billing.chain.abi import encode
from rios.billing.chain.contracts import Addresses, read
from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.events import Batch, decode_log, follow
from rios.billing.chain.intents import MemoryIntentStore
from rios.billing.chain.protocol import Block, Log
from rios.billing.chain.sender import Sender
from rios.billing.ledger.chain import ChainCursor, ChainEvent, check_events
from rios.billing.ledger.ledger import Ledger
from rios.words.errors import ChainMismatch, ChainUnavailable
from tests.billing.chain.anvil import Anvil
from tests.billing.chain.conftest import FUND, needs_npm
from tests.billing.chain.nets import ALICE, BOB, NOBODY, Net, on_anvil

KINDS = ["memory", pytest.param("anvil", marks=needs_npm)]
SETUP = {"RoleGranted", "StakingRoleGranted", "OwnershipTransferred", "SettlementSet"}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A network, and Alice who does things there."""

    net: Net
    addresses: Addresses
    sender: Sender

    def do(self, key: str, contract: str, function: str, *arguments: Any, gas: int | None = None) -> int:
        """Call a contract; the block that it got into."""
        data = encode(contract, function, *arguments)
        return self.sender.send(key, self.addresses.of(contract), data, gas=gas).block

    def deposits(self, *amounts: int) -> list[int]:
        """Deposits of Alice, each in a block."""
        return [self.do(f"deposit-{amount}", "RiosEscrow", "deposit", amount) for amount in amounts]

    def follow(self, cursor: ChainCursor | None, **more: Any) -> Batch | None:
        """See `follow`."""
        return follow(self.net.chain, self.addresses, cursor, **more)


def _place(net: Net, **final: Any) -> Place:
    sender = Sender(net.chain, ALICE, MemoryIntentStore(), poll_s=0.02, **final)
    found = Place(net, net.deploy(sender), sender)
    found.do("mint", "RosToken", "mint", ALICE.address, 10**6)
    found.do("approve", "RosToken", "approve", found.addresses.escrow, 10**6)
    return found


@pytest.fixture
def place(net: Net) -> Place:
    """A network in which Alice has ROS that the escrow may take."""
    return _place(net)


def _names(batch: Batch | None) -> list[str]:
    assert batch is not None
    check_events(batch.events)
    return [event.name for event in batch.events if event.name not in SETUP]


@pytest.mark.parametrize("net", KINDS, indirect=True)
class TestFollow:
    def test_all_that_moves_money_is_told_in_its_order(self, place: Place) -> None:
        alice = ALICE.address
        place.do("deposit", "RiosEscrow", "deposit", 500)
        place.do("deposit-for", "RiosEscrow", "depositFor", BOB.address, 40)
        place.do("request", "RiosEscrow", "requestWithdrawal", 450)
        place.do("charge", "RiosEscrow", "charge", b"1" * 32, 1, [alice, BOB.address], [100, 30])
        place.do("fund", "RosToken", "transfer", place.addresses.settlement, 7)
        place.do("mint-fund", "RosToken", "mint", place.addresses.settlement, 3)
        place.do("elsewhere", "RosToken", "transfer", NOBODY, 9)
        place.do("give", "RosToken", "transfer", place.addresses.escrow, 11)
        place.do("post", "RiosSettlement", "post", 1, b"2" * 32, 107, b"3" * 32)
        place.do("cancel", "RiosEscrow", "cancelWithdrawal")
        place.do("credit", "RiosEscrow", "credit", b"4" * 32, [BOB.address], [5])
        place.do("allow", "RosToken", "approve", place.addresses.staking, 10)
        last = place.do("stake", "RiosStaking", "stake", 10)
        place.net.mine(3)

        batch = place.follow(None)
        assert batch is not None
        found = [(event.name, dict(event.args)) for event in batch.events if event.name not in SETUP]
        availables = [args.pop("availableAt") for name, args in found if name == "WithdrawalRequested"]
        actives = [args.pop("activeAt") for name, args in found if name == "RootPosted"]
        assert [type(moment) for moment in (*availables, *actives)] == [int, int]
        nobody = "0x" + 40 * "0"
        assert found == [
            ("Deposited", {"user": alice, "payer": alice, "amount": 500}),
            ("Deposited", {"user": BOB.address, "payer": alice, "amount": 40}),
            ("WithdrawalRequested", {"user": alice, "amount": 450, "total": 450}),
            ("WithdrawalReduced", {"user": alice, "amount": 50, "total": 400}),
            ("Charged", {"batchId": "0x" + 32 * "31", "epoch": 1, "user": alice, "amount": 100}),
            ("Charged", {"batchId": "0x" + 32 * "31", "epoch": 1, "user": BOB.address, "amount": 30}),
            ("Funded", {"payer": alice, "amount": 7}),
            ("Funded", {"payer": nobody, "amount": 3}),
            ("Given", {"payer": alice, "amount": 11}),
            ("RootPosted", {"epoch": 1, "root": "0x" + 32 * "32", "total": 107, "ledgerHash": "0x" + 32 * "33"}),
            ("WithdrawalCancelled", {"user": alice, "amount": 400}),
            ("Credited", {"batchId": "0x" + 32 * "34", "user": BOB.address, "amount": 5}),
            ("StakingStaked", {"account": alice, "amount": 10, "bonded": 10}),
        ]
        check_events(batch.events)
        assert [event.block for event in batch.events][-1] == last
        assert (batch.reverted_from, batch.more) == (None, False)
        head = place.net.chain.block(batch.cursor.block)
        assert head is not None
        assert batch.cursor == ChainCursor(name="contracts", block=head.number, block_hash=head.hash)
        assert place.follow(batch.cursor) is None

    def test_each_block_once_however_small_the_steps(self, place: Place) -> None:
        place.deposits(1, 2, 3, 4)
        place.net.mine(3)
        whole, cursor, events = place.follow(None), None, []
        assert whole is not None
        while True:
            step = place.follow(cursor, span_blocks=5)
            assert step is not None
            events += step.events
            cursor = step.cursor
            if not step.more:
                break
        assert (events, cursor) == (list(whole.events), whole.cursor)

    def test_a_block_counts_under_as_many_as_are_asked_for(self, place: Place) -> None:
        start = place.follow(None, confirmations=0, finalized_tag=False)
        assert start is not None
        [block] = place.deposits(5)
        for on_top in range(4):
            found = place.follow(start.cursor, confirmations=3, finalized_tag=False)
            assert ("Deposited" in _names(found) if found else False) == (on_top == 3)
            assert place.net.chain.block_number() == block + on_top
            place.net.mine()


class TestFinal:
    pytestmark = needs_npm

    def test_a_finalized_block_counts_and_no_other(self, live: Net) -> None:
        """This node's blocks are final under two others."""
        place = _place(live)
        live.mine(2)
        start = place.follow(None)
        assert start is not None
        place.deposits(5)
        for final in (False, False, True):
            found = place.follow(start.cursor, confirmations=0)
            assert ("Deposited" in _names(found) if found else False) == final
            live.mine()


def _keep_up(place: Place, ledger: Ledger, **more: Any) -> list[int | None]:
    """Follow to the end; from where on events went back."""
    reverted = []
    while (batch := place.follow(ledger.cursor("contracts"), **more)) is not None:
        if batch.reverted_from is not None:
            reverted.append(batch.reverted_from)
            ledger.revert_chain(batch.reverted_from, batch.cursor)
        else:
            ledger.apply_chain(batch.events, batch.cursor)
        assert len(reverted) < 5
    return reverted


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger that knows Alice."""
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}", timeout_s=20) as found:
        yield found
        assert found.totals().sound


class TestReorganised:
    pytestmark = needs_npm

    @pytest.mark.parametrize("depth", [1, 4, 12])
    def test_what_is_gone_is_reversed_and_what_came_is_posted(self, live: Net, books: Ledger, depth: int) -> None:
        place = _place(live, confirmations=12, finalized_tag=False)
        live.mine(2)
        blocks = place.deposits(*range(1, 13))
        first = {"confirmations": 0, "finalized_tag": False}
        assert _keep_up(place, books, **first) == []
        assert _available(books) == sum(range(1, 13)) == _on_chain(place)
        live.anvil.ask("anvil_reorg", depth, [])
        live.anvil.ask("anvil_dropAllTransactions")
        [reverted] = _keep_up(place, books, **first)
        assert reverted is not None
        assert reverted <= blocks[-depth]
        assert _available(books) == sum(range(1, 13 - depth)) == _on_chain(place)
        # The sender brings them back, in other blocks.
        live.mine()
        place.sender.pump()
        live.mine()
        assert _keep_up(place, books, **first) == []
        assert _available(books) == sum(range(1, 13)) == _on_chain(place)

    @pytest.mark.parametrize("depth", [1, 12])
    def test_confirmed_blocks_are_not_touched(self, live: Net, books: Ledger, depth: int) -> None:
        place = _place(live)
        place.deposits(*range(1, 13))
        deep = {"confirmations": 12, "finalized_tag": False}
        live.mine(12)
        assert _keep_up(place, books, **deep) == []
        live.anvil.ask("anvil_reorg", depth, [])
        live.mine()
        assert _keep_up(place, books, **deep) == []
        assert _available(books) == sum(range(1, 13)) == _on_chain(place)

    def test_a_node_that_is_behind_takes_nothing_back(self, live: Net, books: Ledger) -> None:
        place = _place(live)
        place.deposits(5)
        first = {"confirmations": 0, "finalized_tag": False}
        assert _keep_up(place, books, **first) == []
        cursor = books.cursor("contracts")
        assert cursor is not None
        ahead = dataclasses.replace(cursor, block=cursor.block + 50, block_hash="0x" + 64 * "5")
        assert place.follow(ahead, **first) is None

    def test_a_chain_begun_anew_is_another(self, anvil: Anvil, books: Ledger) -> None:
        place = _place(on_anvil(anvil))
        place.deposits(5)
        first = {"confirmations": 0, "finalized_tag": False}
        assert _keep_up(place, books, **first) == []
        anvil.kill()
        anvil.start()
        for blocks in (0, 100):
            place.net.mine(blocks or 1)
            with pytest.raises(ChainMismatch, match="begun anew"):
                _keep_up(place, books, **first)
        assert _available(books) == 5


def _available(books: Ledger) -> int:
    """What Alice's address has in the ledger."""
    return int(books.balance(ALICE.address).available)


def _on_chain(place: Place) -> int:
    return int(read(place.net.chain, place.addresses, "RiosEscrow", "balanceOf", ALICE.address))


class Restless:
    """A chain whose blocks change while their logs are read, the first times."""

    def __init__(self, chain: EmbeddedChain, *, times: int) -> None:
        self._chain, self._left = chain, 3 * times  # transfers to each holder are questions of their own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def logs(self, **query: Any) -> Any:
        self._left -= 1
        found = self._chain.logs(**query)
        return [dataclasses.replace(log, block_hash="0x" + 64 * "8") for log in found] if self._left >= 0 else found


class TestUnderWay:
    @pytest.fixture
    def net(self) -> Iterator[Net]:
        """A chain in memory."""
        with EmbeddedChain(fund=FUND) as chain:
            yield Net(chain=chain)

    def test_logs_of_blocks_that_are_gone_are_not_taken(self, net: Net) -> None:
        place = _place(net)
        place.deposits(5)
        steady = place.follow(None)
        assert follow(Restless(net.embedded, times=2), place.addresses, None) == steady  # type: ignore[arg-type]
        with pytest.raises(ChainUnavailable, match="while they were read"):
            follow(Restless(net.embedded, times=3), place.addresses, None)  # type: ignore[arg-type]

    def test_the_way_back_leads_over_parents(self, net: Net) -> None:
        """Three blocks of the cursor's chain are gone, and the node still has them."""
        place = _place(net)
        head = net.chain.head()
        gone: dict[str, Block] = {}
        parent = head.hash
        for number in range(1, 4):
            block = dataclasses.replace(
                head, number=head.number + number, hash="0x" + 64 * str(number), parent_hash=parent
            )
            gone[block.hash], parent = block, block.hash
        net.mine(3)
        chain: Any = net.chain
        real: Callable[[int | str], Block | None] = chain.block
        remembering = _With(chain, block=lambda which: gone.get(which) or real(which))  # type: ignore[arg-type]
        cursor = ChainCursor(name="x", block=head.number + 3, block_hash=parent)
        batch = follow(remembering, place.addresses, cursor)  # type: ignore[arg-type]
        back = ChainCursor(name="x", block=head.number, block_hash=head.hash)
        assert batch == Batch(events=(), cursor=back, reverted_from=head.number + 1, more=True)

    def test_what_ours_never_say(self, net: Net) -> None:
        place = _place(net)
        log = Log(
            address=place.addresses.escrow, topics=("0x" + 64 * "6",), data=b"", block=1, block_hash="0x" + 64 * "1",
            tx_hash="0x" + 64 * "2", index=0,
        )  # fmt: skip
        with pytest.raises(ChainMismatch, match="never says"):
            decode_log(log, place.addresses)
        assert decode_log(dataclasses.replace(log, address=NOBODY), place.addresses) is None
        [block] = place.deposits(5)
        [deposited] = net.chain.logs(from_block=block, to_block=block, addresses=[place.addresses.escrow])
        for broken in (
            dataclasses.replace(deposited, data=b"1"),
            dataclasses.replace(deposited, topics=deposited.topics[:2]),
        ):
            with pytest.raises(ChainMismatch, match="Deposited"):
                decode_log(broken, place.addresses)
        found = decode_log(deposited, place.addresses)
        assert isinstance(found, ChainEvent)
        assert (found.name, found.args["amount"]) == ("Deposited", 5)


class _With:
    """A chain with some methods replaced."""

    def __init__(self, chain: Any, **methods: Any) -> None:
        self._chain, self._methods = chain, methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._chain, name)
