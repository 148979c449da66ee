"""What the chain in this process has beyond the protocol: a home, a clock, coins for everybody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from rios.billing.chain.contracts import check_contracts, deploy_all
from rios.billing.chain.embedded import EMBEDDED_CHAIN_ID, EmbeddedChain
from rios.billing.chain.intents import MemoryIntentStore
from rios.billing.chain.protocol import GAS_MAX
from rios.billing.chain.sender import Sender
from rios.billing.keystore import KeySigner
from rios.words.errors import ChainMismatch, ChainUnavailable, InvalidRequest, TransactionFailed
from tests.billing.chain.conftest import FUND
from tests.billing.chain.nets import ALICE, BOB, COINS, NOBODY, sent, signed

WAIT_S = 240


class TestHome:
    def test_it_survives_a_restart(self, tmp_path: Path) -> None:
        with EmbeddedChain(tmp_path, fund=FUND) as chain:
            addresses = deploy_all(chain, Sender(chain, ALICE, MemoryIntentStore()))
            receipt = sent(chain, signed(chain, ALICE, value_wei=5))
            chain.advance(10**6)
            head = chain.head()
        with EmbeddedChain(tmp_path) as chain:
            assert (chain.head(), chain.receipt(receipt.tx_hash), chain.balance(NOBODY)) == (head, receipt, 5)
            check_contracts(chain, addresses)
            later = sent(chain, signed(chain, ALICE, value_wei=5))
            block = chain.block(later.block)
            assert block is not None
            assert block.timestamp > head.timestamp
            assert chain.balance(NOBODY) == 10

    def test_it_begins_once(self, tmp_path: Path) -> None:
        with EmbeddedChain(tmp_path, fund={ALICE.address: 7}) as chain:
            first = chain.block(0)
        with EmbeddedChain(tmp_path, fund={ALICE.address: 9, BOB.address: 9}) as chain:
            assert chain.block(0) == first
            assert (chain.balance(ALICE.address), chain.balance(BOB.address)) == (7, 0)

    def test_another_chain_in_the_same_home(self, tmp_path: Path) -> None:
        EmbeddedChain(tmp_path).close()
        with pytest.raises(ChainMismatch, match=f"has the id {EMBEDDED_CHAIN_ID}, not 5"):
            EmbeddedChain(tmp_path, chain_id=5)

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "chain.sqlite").write_bytes(b"this is no database, and it is long enough to show it" * 100)
        with pytest.raises(ChainUnavailable, match="damaged"):
            EmbeddedChain(tmp_path)

    def test_a_file_that_somebody_holds(self, tmp_path: Path) -> None:
        with EmbeddedChain(tmp_path, fund=FUND, timeout_s=0.1) as chain:
            holder = sqlite3.connect(tmp_path / "chain.sqlite", isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(ChainUnavailable, match="cannot be used"):
                chain.send_raw(signed(chain, ALICE, value_wei=5))
            assert chain.balance(NOBODY) == 0
            holder.close()
            assert sent(chain, signed(chain, ALICE, value_wei=5)).succeeded

    def test_processes_share_it(self, tmp_path: Path) -> None:
        """What one mines, the others see; each block follows one that all know."""
        with EmbeddedChain(tmp_path, fund=FUND) as chain:
            spawn = multiprocessing.get_context("spawn")
            children = [spawn.Process(target=_give, args=(tmp_path, number, 6)) for number in (11, 12)]
            for child in children:
                child.start()
            for child in children:
                child.join(WAIT_S)
            assert [child.exitcode for child in children] == [0, 0]
            assert chain.balance(NOBODY) == 12
            blocks = [chain.block(number) for number in range(chain.block_number() + 1)]
            assert len(blocks) == 13
            parents = [block.parent_hash for block in blocks[1:] if block]
            assert parents == [block.hash for block in blocks[:-1] if block]

    def test_a_killed_process_leaves_whole_blocks(self, tmp_path: Path) -> None:
        with EmbeddedChain(tmp_path, fund=FUND) as chain:
            spawn = multiprocessing.get_context("spawn")
            child = spawn.Process(target=_give, args=(tmp_path, 11, 10**6))
            child.start()
            _until_at_least(chain, 5)
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join(WAIT_S)
            count = chain.balance(NOBODY)
            assert count == chain.nonce(ALICE.address) == chain.block_number() >= 5
            assert sent(chain, signed(chain, ALICE, value_wei=1)).block == count + 1
        with EmbeddedChain(tmp_path) as chain:
            assert chain.balance(NOBODY) == count + 1


def _give(home: Path, number: int, times: int) -> None:
    """In a process of its own: as many transactions of 1 wei."""
    giver = KeySigner(bytes(31) + bytes([number]))
    with EmbeddedChain(home, timeout_s=WAIT_S) as chain:
        for _ in range(times):
            assert sent(chain, signed(chain, giver, value_wei=1)).succeeded


def _until_at_least(chain: EmbeddedChain, blocks: int) -> None:
    for _ in range(10**6):
        if chain.block_number() >= blocks:
            return
    raise AssertionError("the other process mines nothing")


class TestMemory:
    def test_it_is_gone_when_it_is_closed(self) -> None:
        chain = EmbeddedChain(fund=FUND)
        chain.close()
        for ask in (chain.head, chain.check, chain.fees, lambda: chain.balance(NOBODY), lambda: chain.send_raw(b"")):
            with pytest.raises(ChainUnavailable, match="closed"):
                ask()

    def test_the_clock_moves_on_when_it_is_told_to(self) -> None:
        with EmbeddedChain() as chain:
            before = chain.head().timestamp
            chain.advance(3600)
            chain.advance(3600)
            assert 7200 <= chain.head().timestamp - before < 7200 + WAIT_S
            with pytest.raises(InvalidRequest, match="never goes back"):
                chain.advance(-1)

    def test_anybody_can_have_coins(self) -> None:
        with EmbeddedChain() as chain:
            chain.fund(ALICE.address, COINS)
            chain.fund(BOB.address, 1)
            assert (chain.balance(ALICE.address), chain.balance(BOB.address)) == (COINS, 10**9)
            assert sent(chain, signed(chain, ALICE, value_wei=5)).succeeded

    def test_gas_beyond_one_transaction(self) -> None:
        with EmbeddedChain(fund=FUND) as chain:
            with pytest.raises(TransactionFailed, match="EIP-7825"):
                chain.send_raw(signed(chain, ALICE, gas=GAS_MAX + 1))
            assert sent(chain, signed(chain, ALICE, gas=GAS_MAX)).succeeded

    def test_a_nonce_too_far_ahead(self) -> None:
        with EmbeddedChain(fund=FUND) as chain:
            with pytest.raises(TransactionFailed, match="nonce 1, but 0 is next"):
                chain.send_raw(signed(chain, ALICE, nonce=1))
            # A refused one leaves nothing behind.
            assert sent(chain, signed(chain, ALICE, nonce=0)).block == 1
