"""The contracts of a network: made and wired, recognised, and refused where they are others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from rios.billing.chain.abi import artifact, creation, encode, keccak
from rios.billing.chain.contracts import (
    CHARGES_MAX,
    CLAIMS_MAX,
    CREDITS_MAX,
    ROLES,
    Addresses,
    Terms,
    check_contracts,
    chunks,
    deploy_all,
    is_code_of,
    read,
    role_id,
)
from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.intents import MemoryIntentStore
from rios.billing.chain.protocol import GAS_MAX, Receipt
from rios.billing.merkle import MerkleTree
from rios.words.errors import ChainMismatch, InvalidRequest, TransactionFailed
from rios.words.ids import Address, check_address
from rios.words.money import WEI_PER_ROS, Wei
from tests.billing.chain.conftest import FUND, needs_npm
from tests.billing.chain.nets import ALICE, BOB, NOBODY, Net

TERMS = Terms(withdrawal_delay_s=60, challenge_window_s=5, voting_period_blocks=7)
KINDS = ["memory", pytest.param("anvil", marks=needs_npm)]


@pytest.mark.parametrize("net", KINDS, indirect=True)
class TestDeploy:
    def test_contracts_are_ours_and_wired(self, net: Net) -> None:
        addresses = deploy_all(net.chain, net.sender(), terms=TERMS, operator=BOB.address)
        check_contracts(net.chain, addresses)
        assert Addresses.from_dict(addresses.to_dict()) == addresses
        assert (
            len({addresses.of(name) for name in (*ROLES, "RiosPriceBook", "TimelockController", "RiosGovernor")}) == 7
        )
        assert net.chain.nonce(ALICE.address, block=addresses.block - 1) == 0

        def ask(contract: str, function: str, *arguments: Any) -> Any:
            return read(net.chain, addresses, contract, function, *arguments)

        for contract, roles in ROLES.items():
            assert ask(contract, "owner") == ALICE.address
            for role in roles:
                assert ask(contract, role) == role_id(role)
                assert ask(contract, "hasRole", role_id(role), BOB.address)
                assert not ask(contract, "hasRole", role_id(role), ALICE.address)
        assert ask("RiosPriceBook", "owner") == addresses.timelock
        assert ask("RiosStaking", "slashedTo") == BOB.address
        assert (ask("RiosEscrow", "withdrawalDelay"), ask("RiosSettlement", "challengeWindow")) == (60, 5)
        assert (ask("RosToken", "cap"), ask("RiosGovernor", "votingPeriod")) == (10**9 * WEI_PER_ROS, 7)

    def test_the_timelock_obeys_the_governor_alone(self, net: Net) -> None:
        addresses = net.deploy()
        for role, who, has in (
            ("PROPOSER_ROLE", addresses.governor, True),
            ("CANCELLER_ROLE", addresses.governor, True),
            ("PROPOSER_ROLE", ALICE.address, False),
            ("DEFAULT_ADMIN_ROLE", ALICE.address, False),
            ("DEFAULT_ADMIN_ROLE", addresses.timelock, True),
        ):
            wanted = bytes(32) if role == "DEFAULT_ADMIN_ROLE" else role_id(role)
            assert read(net.chain, addresses, "TimelockController", "hasRole", wanted, who) is has

    def test_a_vote_publishes_a_price_book(self, net: Net) -> None:
        addresses, sender = net.deploy(), net.sender()
        publish = encode("RiosPriceBook", "publish", 0, b"d" * 32, "a book")
        with pytest.raises(TransactionFailed, match="OwnableUnauthorizedAccount"):
            sender.send("publish", addresses.price_book, publish)
        sender.send("mint", addresses.token, encode("RosToken", "mint", ALICE.address, 100))
        sender.send("delegate", addresses.token, encode("RosToken", "delegate", ALICE.address))
        action, text = ([addresses.price_book], [0], [publish]), "a book"
        proposal = read(net.chain, addresses, "RiosGovernor", "hashProposal", *action, role_id(text))

        def govern(function: str, *arguments: Any) -> None:
            sender.send(function, addresses.governor, encode("RiosGovernor", function, *arguments))

        govern("propose", *action, text)
        net.mine(2)
        govern("castVote", proposal, 1)
        net.mine(10)
        govern("queue", *action, role_id(text))
        net.mine()
        govern("execute", *action, role_id(text))
        assert read(net.chain, addresses, "RiosPriceBook", "version") == 1


class TestResumed:
    def test_who_came_halfway_goes_on_there(self) -> None:
        with EmbeddedChain(fund=FUND) as chain:
            net, store = Net(chain=chain), MemoryIntentStore()
            broken = _Breaking(net.sender(store=store), after=9)
            with pytest.raises(ConnectionError):
                deploy_all(chain, broken)
            assert chain.nonce(ALICE.address) == 9
            addresses = deploy_all(chain, net.sender(store=store))
            check_contracts(chain, addresses)
            assert deploy_all(chain, net.sender(store=store)) == addresses
            assert chain.nonce(ALICE.address) == 18


class _Breaking:
    """A sender that goes away after some transactions."""

    def __init__(self, inner: Any, *, after: int) -> None:
        self._inner, self._left = inner, after
        self.address: Address = inner.address

    def send(self, key: str, to: Address | None, data: bytes, *, gas: int | None = None) -> Receipt:
        self._left -= 1
        if self._left < 0:
            raise ConnectionError
        found: Receipt = self._inner.send(key, to, data, gas=gas)
        return found


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Net, Addresses]]:
    """A network in memory, for tests that leave it as it is."""
    with EmbeddedChain(fund=FUND) as chain:
        net = Net(chain=chain)
        yield net, net.deploy()


class TestOthers:
    def test_another_chain(self, made: tuple[Net, Addresses]) -> None:
        net, addresses = made
        with pytest.raises(ChainMismatch, match="on chain 5, but the node is of chain"):
            check_contracts(net.chain, dataclasses.replace(addresses, chain_id=5))

    def test_a_chain_begun_anew(self, made: tuple[Net, Addresses]) -> None:
        with pytest.raises(ChainMismatch, match="no RosToken"), EmbeddedChain(fund=FUND) as chain:
            check_contracts(chain, made[1])

    @pytest.mark.parametrize(
        "field", ["token", "escrow", "settlement", "staking", "price_book", "timelock", "governor"]
    )
    def test_another_contract(self, made: tuple[Net, Addresses], field: str) -> None:
        net, addresses = made
        other = addresses.staking if field != "staking" else addresses.escrow
        with pytest.raises(ChainMismatch, match="is not the"):
            check_contracts(net.chain, dataclasses.replace(addresses, **{field: other}))

    def test_our_contract_for_another_token(self, made: tuple[Net, Addresses]) -> None:
        net, addresses = made
        sender = net.sender(BOB)
        for field, contract, more in (("settlement", "RiosSettlement", (0,)), ("staking", "RiosStaking", (0, NOBODY))):
            made_by_bob = sender.send(field, None, creation(contract, NOBODY, BOB.address, 0, *more)).created
            with pytest.raises(ChainMismatch, match=r"of Rios(Escrow|Staking) .* is .*, not"):
                check_contracts(net.chain, dataclasses.replace(addresses, **{field: made_by_bob}))

    @pytest.mark.parametrize("name", sorted(ROLES))
    def test_code_with_one_byte_changed(self, made: tuple[Net, Addresses], name: str) -> None:
        net, addresses = made
        code = net.chain.code(addresses.of(name))
        assert is_code_of(name, code)
        filled_in = {place for start, length in artifact(name).immutables for place in range(start, start + length)}
        for place in [place for place in range(0, len(code), 499) if place not in filled_in]:
            assert not is_code_of(name, code[:place] + bytes([code[place] ^ 1]) + code[place + 1 :])
        assert not is_code_of(name, code[:-1])
        assert not is_code_of(name, b"")

    def test_addresses_that_lack_one(self, made: tuple[Net, Addresses]) -> None:
        raw = made[1].to_dict()
        with pytest.raises(InvalidRequest, match="lack token"):
            Addresses.from_dict({name: value for name, value in raw.items() if name != "token"})
        with pytest.raises(InvalidRequest, match="address of escrow"):
            Addresses.from_dict({**raw, "escrow": "0x12"})

    def test_no_contract_answers(self, made: tuple[Net, Addresses]) -> None:
        net, addresses = made
        with pytest.raises(ChainMismatch, match="there is another contract at its address, or none"):
            read(net.chain, dataclasses.replace(addresses, escrow=NOBODY), "RiosEscrow", "totalBalance")


@pytest.mark.parametrize("net", [pytest.param("anvil", marks=needs_npm)], indirect=True)
def test_a_full_chunk_fits_into_a_transaction(net: Net) -> None:
    """Of accounts that had nothing before, which are the dearest (EIP-7825)."""
    addresses, sender = net.deploy(), net.sender()
    users = [check_address(f"0x{number:040x}") for number in range(10**30, 10**30 + CREDITS_MAX)]

    def done(key: str, contract: str, function: str, *arguments: Any) -> int:
        return sender.send(key, addresses.of(contract), encode(contract, function, *arguments)).gas_used

    done("mint", "RosToken", "mint", ALICE.address, 10**24)
    done("approve", "RosToken", "approve", addresses.escrow, 10**24)
    credit = done("credit", "RiosEscrow", "credit", b"c" * 32, users, [10**18] * CREDITS_MAX)
    charge = done("charge", "RiosEscrow", "charge", b"d" * 32, 1, users[:CHARGES_MAX], [10**17] * CHARGES_MAX)
    assert 10**7 < credit < GAS_MAX
    assert charge < GAS_MAX
    tree = MerkleTree.of({user: Wei(10**16) for user in users}, keccak=keccak)
    done("post", "RiosSettlement", "post", 1, tree.root, tree.total_wei, b"h" * 32)
    claim = tree.multiproof(users[::2])
    assert len(claim.accounts) == CLAIMS_MAX
    claimed = done("claim", "RiosSettlement", "claimMany", claim.accounts, claim.amounts_wei, claim.proof, claim.flags)
    assert 10**7 < claimed < GAS_MAX
    assert [len(chunk) for chunk in chunks(range(2 * CLAIMS_MAX + 1), CLAIMS_MAX)] == [CLAIMS_MAX, CLAIMS_MAX, 1]
