"""Nodes that are away, hang, lie, or talk nonsense: each call ends by its deadline, with an error that says so."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
from typing import Any

import pytest

from rios.billing.chain.abi import encode
from rios.billing.chain.contracts import check_contracts
from rios.billing.chain.intents import MemoryIntentStore
from rios.billing.chain.protocol import GAS_MAX, Verdict
from rios.billing.chain.rpc import RpcChain
from rios.billing.chain.sender import Sender
from rios.storage.breaker import Breaker
from rios.words.errors import ChainMismatch, ChainUnavailable, InvalidRequest, TransactionFailed
from tests.billing.chain.anvil import ANVIL_CHAIN_ID, Anvil
from tests.billing.chain.conftest import needs_npm
from tests.billing.chain.lying import Proxy, refusal, result, through
from tests.billing.chain.nets import ALICE, NOBODY, Net, on_anvil, sent, signed

SECRET = "kd8f3hs-secret-project-key"
OTHER_CHAIN = ANVIL_CHAIN_ID + 1


@pytest.mark.parametrize("url", ["", "localhost:8545", "ws://localhost:1", "file:///etc/passwd", "http://"])
def test_only_http_is_a_node(url: str) -> None:
    with pytest.raises(InvalidRequest, match="http"):
        RpcChain(url)


class TestAway:
    def test_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            chain = RpcChain(f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}", timeout_s=5)
            with pytest.raises(ChainUnavailable, match="no connection"):
                chain.head()

    def test_it_takes_calls_and_answers_none(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            chain = RpcChain(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
            with pytest.raises(ChainUnavailable, match=r"did not answer eth_chainId within 0.2 s: it took too long"):
                chain.block_number()

    def test_it_answers_byte_by_byte(self) -> None:
        """No read of the socket ever waits long."""
        over = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:

            def trickle() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                    while not over.wait(0.02):
                        connection.sendall(b" ")

            thread = threading.Thread(target=trickle)
            thread.start()
            chain = RpcChain(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.3)
            try:
                with pytest.raises(ChainUnavailable, match="it took too long"):
                    chain.block_number()
            finally:
                over.set()
                thread.join()

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            (500, "HTTP status 500"),
            (429, "HTTP status 429"),
            (b"<html>welcome</html>", "no JSON"),
            (b"[]", "no JSON object"),
            ({"jsonrpc": "2.0", "id": 1}, "neither a result nor an error"),
            ({"jsonrpc": "2.0", "id": 1, "result": "no number"}, "another form"),
            ({"jsonrpc": "2.0", "id": 1, "result": None}, "another form"),
        ],
    )
    def test_it_talks_nonsense(self, said: Any, why: str) -> None:
        with (
            Proxy(lambda _: said) as node,
            RpcChain(node.url, timeout_s=5) as chain,
            pytest.raises(ChainUnavailable, match=why),
        ):
            chain.check()

    @pytest.mark.parametrize("said", [{}, {"number": "0x1"}, {"number": "0x1", "hash": "0x12"}, 7, "0x"])
    def test_it_has_blocks_of_another_form(self, said: Any) -> None:
        with (
            Proxy(lambda call: result(call, "0x1" if call["method"] == "eth_chainId" else said)) as node,
            RpcChain(node.url, timeout_s=5) as chain,
            pytest.raises(ChainUnavailable, match="another form"),
        ):
            chain.head()

    def test_what_is_secret_in_a_url_is_never_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with Proxy(lambda _: 500) as node:
            chain = RpcChain(f"{node.url}/v3/{SECRET}?key={SECRET}", timeout_s=5)
            shown = [repr(chain)]
            for answer in (500, b"no", {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}}):
                node.answer = lambda _, said=answer: said  # type: ignore[misc]
                with pytest.raises(ChainUnavailable) as failure:
                    chain.head()
                shown += traceback.format_exception(failure.value)
        with pytest.raises(ChainUnavailable) as failure:
            chain.head()
        shown += traceback.format_exception(failure.value)
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("rios")]
        assert SECRET not in "".join(shown + ours)


class TestWords:
    """What nodes say to a transaction."""

    @pytest.mark.parametrize(
        ("message", "verdict"),
        [
            ("already known", Verdict.KNOWN),
            ("transaction already imported", Verdict.KNOWN),
            ("AlreadyKnown", Verdict.KNOWN),
            ("nonce too low: next nonce 5, tx nonce 3", Verdict.NONCE_USED),
            ("OldNonce, Current nonce: 5, nonce of rejected tx: 3", Verdict.NONCE_USED),
            ("replacement transaction underpriced", Verdict.UNDERPRICED),
            ("max fee per gas less than block base fee: address 0x.., maxFeePerGas: 1", Verdict.UNDERPRICED),
            ("FeeTooLow, MaxFeePerGas too low", Verdict.UNDERPRICED),
        ],
    )
    def test_each_node_has_its_own(self, message: str, verdict: Verdict) -> None:
        with Proxy(_sends(message)) as node, RpcChain(node.url) as chain:
            assert chain.send_raw(b"\x02") is verdict

    def test_all_else_is_a_refusal(self) -> None:
        with (
            Proxy(_sends("insufficient funds for gas * price + value")) as node,
            RpcChain(node.url) as chain,
            pytest.raises(TransactionFailed, match="insufficient funds"),
        ):
            chain.send_raw(b"\x02")

    @pytest.mark.parametrize("nested", [False, True])
    def test_reverts_are_explained(self, nested: bool) -> None:
        data = "0x08c379a0" + (32).to_bytes(32).hex() + (2).to_bytes(32).hex() + b"no".ljust(32, b"\0").hex()

        def answer(call: dict[str, Any]) -> Any:
            if call["method"] == "eth_chainId":
                return result(call, "0x1")
            return refusal(call, "execution reverted", code=3, data={"data": data} if nested else data)

        with (
            Proxy(answer) as node,
            RpcChain(node.url) as chain,
            pytest.raises(TransactionFailed, match=r"reverts: no$"),
        ):
            chain.call(NOBODY, b"")

    @pytest.mark.parametrize(
        "message",
        [
            "header not found",
            "BlockOutOfRangeError: block height is 45 but requested was 43",
            "missing trie node 1f2e (path )",
            "No state available for block 0x2b",
            "historical state 0x1f2e is not available",
        ],
    )
    def test_a_block_that_is_not_there_now_is_no_refusal(self, message: str) -> None:
        """As while it is taken back: whoever asks later is answered."""
        with Proxy(_sends(message)) as node, RpcChain(node.url) as chain:
            with pytest.raises(ChainUnavailable, match="no state of block 0x2b now"):
                chain.call(NOBODY, b"", block=43)
            with pytest.raises(TransactionFailed, match="cannot run a call"):
                chain.estimate(sender=NOBODY, to=NOBODY, data=b"")

    def test_an_estimate_beyond_one_transaction(self) -> None:
        def answer(call: dict[str, Any]) -> Any:
            return result(call, "0x1" if call["method"] == "eth_chainId" else hex(GAS_MAX + 1))

        with (
            Proxy(answer) as node,
            RpcChain(node.url) as chain,
            pytest.raises(TransactionFailed, match="EIP-7825"),
        ):
            chain.estimate(sender=NOBODY, to=NOBODY, data=b"")

    def test_a_chain_without_a_finalized_tag(self) -> None:
        def answer(call: dict[str, Any]) -> Any:
            return result(call, "0x1") if call["method"] == "eth_chainId" else refusal(call, "unknown block tag")

        with Proxy(answer) as node, RpcChain(node.url) as chain:
            assert chain.finalized() is None


def _sends(message: str) -> Any:
    def answer(call: dict[str, Any]) -> Any:
        return result(call, "0x1") if call["method"] == "eth_chainId" else refusal(call, message)

    return answer


class TestChainId:
    pytestmark = needs_npm

    def test_another_chain_than_asked_for(self, anvil: Anvil) -> None:
        with RpcChain(anvil.url, chain_id=OTHER_CHAIN) as chain:
            for ask in (chain.head, lambda: chain.chain_id, lambda: chain.balance(NOBODY)):
                with pytest.raises(ChainMismatch, match=f"of chain {ANVIL_CHAIN_ID}, not {OTHER_CHAIN}"):
                    ask()

    def test_a_node_that_changes_chains_gets_nothing_signed(self, live: Net) -> None:
        """Behind one URL there is another chain after a while: what is signed for one never reaches the other."""
        lies = False

        def changed(call: dict[str, Any], said: dict[str, Any]) -> Any:
            return result(call, hex(OTHER_CHAIN)) if lies and call["method"] == "eth_chainId" else said

        with Proxy(through(live.anvil.url, changed)) as node, RpcChain(node.url) as chain:
            addresses = live.deploy()
            check_contracts(chain, addresses)
            sender, mint = Sender(chain, ALICE, MemoryIntentStore()), encode("RosToken", "mint", NOBODY, 1)
            sender.send("first", addresses.token, mint)
            lies, before = True, live.chain.nonce(ALICE.address)
            with pytest.raises(ChainMismatch, match=f"of chain {OTHER_CHAIN}, not {ANVIL_CHAIN_ID}"):
                sender.send("second", addresses.token, mint, gas=200_000)
            with pytest.raises(ChainMismatch):
                check_contracts(chain, addresses)
            raws = [call for call in node.calls if call["method"] == "eth_sendRawTransaction"]
            assert (len(raws), live.chain.nonce(ALICE.address)) == (1, before)
            lies = False
            assert sender.send("second", addresses.token, mint).succeeded


class TestRestarted:
    pytestmark = needs_npm

    def test_calls_go_on_when_it_is_back(self, anvil: Anvil) -> None:
        chain = on_anvil(anvil).chain
        sent(chain, signed(chain, ALICE, value_wei=5))
        anvil.stop()
        with pytest.raises(ChainUnavailable, match="no connection"):
            chain.block_number()
        anvil.start()
        assert (chain.block_number(), chain.balance(NOBODY)) == (1, 5)

    def test_one_that_hangs(self, anvil: Anvil) -> None:
        assert RpcChain(anvil.url).block_number() == 0
        with anvil.frozen(), pytest.raises(ChainUnavailable, match="it took too long"):
            RpcChain(anvil.url, timeout_s=0.5).block_number()
        assert RpcChain(anvil.url).block_number() == 0


class TestBreaker:
    def test_nobody_waits_for_a_node_that_is_known_not_to_answer(self) -> None:
        now = 0.0
        breaker = Breaker("chain", clock=lambda: now)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            chain = RpcChain(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2, breaker=breaker)
            with pytest.raises(ChainUnavailable, match="it took too long"):
                chain.block_number()
            first, _ = silent.accept()
            silent.setblocking(False)
            for _ in range(3):
                with pytest.raises(ChainUnavailable, match=r"within 0.2 s.*asked again every 1 s"):
                    chain.block_number()
            with pytest.raises(BlockingIOError):  # nobody has asked
                silent.accept()
            now = 1.0
            with pytest.raises(ChainUnavailable, match="it took too long"):
                chain.block_number()
            silent.settimeout(60)
            silent.accept()[0].close()
            first.close()

    def test_what_a_node_refuses_is_an_answer(self) -> None:
        breaker = Breaker("chain")
        breaker.failed(OSError("it was away"))
        with Proxy(lambda call: refusal(call, "no")) as node:
            with pytest.raises(ChainUnavailable, match="it was away"):
                RpcChain(node.url, breaker=breaker).block_number()
            breaker.succeeded()
            with pytest.raises(ChainUnavailable, match="refused"):
                RpcChain(node.url, breaker=breaker).block_number()
            assert breaker.why is None
