"""What rios asks of a chain, the same of each kind."""

from __future__ import annotations

import pytest

from rios.billing.chain.abi import creation, decode, encode, topic_of
from rios.billing.chain.contracts import read
from rios.billing.chain.protocol import Verdict
from rios.words.errors import TransactionFailed
from rios.words.ids import Address
from tests.billing.chain.nets import ALICE, BOB, COINS, NOBODY, Net, hash_of, sent, signed

GAS = 8_000_000
CAP = 10**27


def _token(net: Net) -> Address:
    data = creation("RosToken", ALICE.address, 0, CAP)
    made = sent(net.chain, signed(net.chain, ALICE, to=None, data=data, gas=GAS)).created
    assert made is not None
    return made


def _ask(net: Net, token: Address, function: str, *arguments: object, block: int | None = None) -> object:
    return decode("RosToken", function, net.chain.call(token, encode("RosToken", function, *arguments), block=block))


def _mintable(net: Net) -> Address:
    token = _token(net)
    grant = encode("RosToken", "grantRole", _ask(net, token, "MINTER_ROLE"), ALICE.address)
    assert sent(net.chain, signed(net.chain, ALICE, to=token, data=grant, gas=200_000)).succeeded
    return token


def _mint(net: Net, token: Address, to: Address, amount: int) -> int:
    data = encode("RosToken", "mint", to, amount)
    receipt = sent(net.chain, signed(net.chain, ALICE, to=token, data=data, gas=300_000))
    assert receipt.succeeded
    return receipt.block


class TestBlocks:
    def test_each_knows_the_one_before(self, net: Net) -> None:
        first = net.chain.head()
        net.mine(2)
        last = net.chain.head()
        assert (last.number, net.chain.block_number()) == (first.number + 2, first.number + 2)
        middle = net.chain.block(first.number + 1)
        assert middle is not None
        assert (middle.parent_hash, last.parent_hash) == (first.hash, middle.hash)
        assert first.timestamp <= middle.timestamp <= last.timestamp
        assert net.chain.block(middle.hash) == middle

    def test_there_is_none_where_there_is_none(self, net: Net) -> None:
        assert net.chain.block(net.chain.block_number() + 1) is None
        assert net.chain.block("0x" + 64 * "7") is None
        assert net.chain.receipt("0x" + 64 * "7") is None

    def test_a_final_one_is_not_after_the_head(self, net: Net) -> None:
        net.mine(3)
        final = net.chain.finalized()
        assert final is not None
        assert final == net.chain.block(final.number)
        assert 0 < final.number <= net.chain.block_number()


class TestTransactions:
    def test_coins_move_and_nonces_count(self, net: Net) -> None:
        start = net.chain.block_number()
        receipt = sent(net.chain, signed(net.chain, ALICE, to=NOBODY, value_wei=5))
        assert (receipt.succeeded, receipt.created, receipt.logs, receipt.gas_used) == (True, None, (), 21_000)
        assert net.chain.balance(NOBODY) == 5
        assert net.chain.balance(ALICE.address) == COINS - 5 - receipt.gas_used * receipt.gas_price_wei
        block = net.chain.block(receipt.block)
        assert block is not None
        assert block.hash == receipt.block_hash
        assert (net.chain.nonce(ALICE.address), net.chain.nonce(ALICE.address, block=start)) == (1, 0)

    def test_the_same_again_has_no_second_effect(self, net: Net) -> None:
        raw = signed(net.chain, ALICE, value_wei=5)
        first = sent(net.chain, raw)
        assert net.chain.send_raw(raw) in (Verdict.KNOWN, Verdict.NONCE_USED)
        assert net.chain.send_raw(signed(net.chain, ALICE, value_wei=7, nonce=0)) is Verdict.NONCE_USED
        assert net.chain.balance(NOBODY) == 5
        assert net.chain.receipt(hash_of(raw)) == first

    def test_too_little_for_the_base_fee(self, net: Net) -> None:
        assert net.chain.fees().base_wei > 1
        assert net.chain.send_raw(signed(net.chain, ALICE, max_fee_wei=1)) is Verdict.UNDERPRICED

    @pytest.mark.parametrize("chain_id", [1, 0x7A6A])
    def test_one_for_another_chain_is_refused(self, net: Net, chain_id: int) -> None:
        with pytest.raises(TransactionFailed):
            net.chain.send_raw(signed(net.chain, ALICE, chain_id=chain_id))
        assert net.chain.nonce(ALICE.address) == 0

    def test_one_that_nobody_can_pay_is_refused(self, net: Net) -> None:
        with pytest.raises(TransactionFailed):
            net.chain.send_raw(signed(net.chain, ALICE, value_wei=COINS))

    @pytest.mark.parametrize("raw", [b"", b"\x02", b"\x02\xc0", b"no transaction at all"])
    def test_rubbish_is_refused(self, net: Net, raw: bytes) -> None:
        with pytest.raises(TransactionFailed):
            net.chain.send_raw(raw)

    def test_one_that_reverts_costs_gas_and_says_nothing(self, net: Net) -> None:
        token = _token(net)
        data = encode("RosToken", "transfer", BOB.address, 1)
        receipt = sent(net.chain, signed(net.chain, ALICE, to=token, data=data))
        assert not receipt.succeeded
        assert receipt.logs == ()
        assert receipt.gas_used > 21_000


class TestContracts:
    def test_code_is_where_the_receipt_says(self, net: Net) -> None:
        token = _token(net)
        assert len(net.chain.code(token)) > 1000
        assert net.chain.code(NOBODY) == b""
        assert (_ask(net, token, "symbol"), _ask(net, token, "cap")) == ("ROS", CAP)

    def test_calls_see_the_block_that_they_ask_for(self, net: Net) -> None:
        token = _mintable(net)
        first, second = _mint(net, token, BOB.address, 3), _mint(net, token, BOB.address, 4)
        balances = [_ask(net, token, "balanceOf", BOB.address, block=block) for block in (first - 1, first, second)]
        assert balances == [0, 3, 7]
        assert _ask(net, token, "balanceOf", BOB.address) == 7

    def test_a_revert_is_named(self, net: Net) -> None:
        token = _token(net)
        with pytest.raises(TransactionFailed, match=r"ERC20InsufficientBalance\(sender=.*needed=9\)"):
            net.chain.call(token, encode("RosToken", "transfer", BOB.address, 9), sender=ALICE.address)
        with pytest.raises(TransactionFailed, match="AccessControlUnauthorizedAccount"):
            net.chain.estimate(sender=BOB.address, to=token, data=encode("RosToken", "mint", BOB.address, 1))

    def test_an_estimate_is_enough_and_not_much_more(self, net: Net) -> None:
        token = _mintable(net)
        data = encode("RosToken", "mint", BOB.address, 1)
        gas = net.chain.estimate(sender=ALICE.address, to=token, data=data)
        receipt = sent(net.chain, signed(net.chain, ALICE, to=token, data=data, gas=gas))
        assert receipt.succeeded
        assert receipt.gas_used <= gas < 1.3 * receipt.gas_used

    def test_more_gas_than_a_transaction_may_have(self, net: Net) -> None:
        data = creation("RosToken", ALICE.address, 0, CAP) + bytes([1]) * 500_000
        with pytest.raises(TransactionFailed):
            net.chain.estimate(sender=ALICE.address, to=None, data=data)

    def test_logs_by_address_and_topic_in_their_order(self, net: Net) -> None:
        token, other = _mintable(net), _mintable(net)
        blocks = [_mint(net, where, who, 1) for where, who in
                  ((token, BOB.address), (other, BOB.address), (token, ALICE.address))]  # fmt: skip
        transfer, to_bob = topic_of("RosToken", "Transfer"), "0x" + 24 * "0" + BOB.address[2:].lower()

        def found(addresses: list[Address], *topics: str | None, start: int = 0) -> list[int]:
            logs = net.chain.logs(from_block=start, to_block=blocks[2], addresses=addresses, topics=topics)
            assert all(log.address in addresses for log in logs)
            return [log.block for log in logs]

        assert found([token], transfer) == [blocks[0], blocks[2]]
        assert found([token, other], transfer) == blocks
        assert found([token, other], transfer, None, to_bob) == blocks[:2]
        assert found([token], transfer, start=blocks[1]) == [blocks[2]]
        assert found([NOBODY]) == []
        log = net.chain.logs(from_block=blocks[0], to_block=blocks[0], addresses=[token], topics=[transfer])[0]
        receipt = net.chain.receipt(log.tx_hash)
        assert receipt is not None
        assert log in receipt.logs
        assert log.data == (1).to_bytes(32, "big")


def test_chain_id_is_asked_again(net: Net) -> None:
    net.chain.check()
    assert net.chain.chain_id == (31337 if net.node else 0x726F73)


def test_what_is_deployed_can_be_read(net: Net) -> None:
    addresses = net.deploy()
    assert read(net.chain, addresses, "RiosEscrow", "token") == addresses.token
    assert read(net.chain, addresses, "RosToken", "balanceOf", BOB.address, block=addresses.block) == 0
