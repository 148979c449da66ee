"""A chain behind a URL: anvil, or any node that speaks Ethereum's JSON-RPC, by web3.py."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from rios.billing.chain.abi import address as address_of
from rios.billing.chain.abi import explain
from rios.billing.chain.protocol import (
    DEFAULT_TIMEOUT_S,
    GAS_MAX,
    Block,
    Fees,
    Log,
    Receipt,
    Topics,
    Verdict,
)
from rios.storage.breaker import Breaker
from rios.words.errors import ChainMismatch, ChainUnavailable, InvalidRequest, TransactionFailed
from rios.words.ids import Address

T = TypeVar("T")
_TIP_WEI = 10**9
"""For nodes that suggest none."""
# What nodes say, in the words of geth, anvil, Nethermind, Besu and Erigon; no code tells their refusals apart.
_KNOWN = ("already known", "already imported", "known transaction", "alreadyknown", "already in the pool")
_NONCE_USED = ("nonce too low", "noncetoolow", "oldnonce", "nonce is too low", "old nonce")
_UNDERPRICED = (
    "underpriced",
    "max fee per gas less than block base fee",
    "feetoolow",
    "fee too low",
    "less than base fee",
)
# A block that was named and is not there now: it is being taken back, the node is behind, or has pruned its state.
_NO_BLOCK = (
    "header not found",
    "block not found",
    "unknown block",
    "blockoutofrange",
    "missing trie node",
    "no state available",
    "state not available",
    "historical state",
)
_METHOD_MISSING = -32601


class _Refused(Exception):
    """A node answered with an error."""

    def __init__(self, method: str, error: Mapping[str, Any]) -> None:
        self.code = error.get("code")
        self.message = str(error.get("message", "no message"))
        self.data = _revert_data(error.get("data"))
        super().__init__(f"{method}: {self.message}")


class RpcChain:
    """See `Chain`. Nothing is asked before the first call."""

    def __init__(
        self,
        url: str,
        *,
        chain_id: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        breaker: Breaker | None = None,
    ) -> None:
        """url: http:// or https://; what follows the host may be a secret and is never shown.

        chain_id: which chain it has to be; without, the one it is at first.
        timeout_s: each call ends within it.
        breaker: while it is open, calls end at once; without, each asks the node.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest("the URL of a chain needs http:// or https:// and a host")
        port = f":{parts.port}" if parts.port else ""
        self._name = f"{parts.scheme}://{parts.hostname}{port}"
        self._url = url
        self._timeout_s = timeout_s
        self._breaker = breaker
        self._chain_id = chain_id
        self._checked = False
        self._provider: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RpcChain {self._name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See `Chain`. Calls after it connect anew."""
        with self._lock:
            self._provider = None

    # Asking.

    def _request(self, method: str, *parameters: Any) -> Any:
        """What a node answers to a method. Raises _Refused, ChainUnavailable."""
        breaker = self._breaker
        if breaker is not None and not breaker.allows():
            raise ChainUnavailable(f"{breaker.why}; it is asked again every {breaker.retry_s:g} s")
        answer = _within(self._timeout_s, lambda: self._post(method, parameters))
        if isinstance(answer, str):
            error = ChainUnavailable(f"{self._name} did not answer {method} within {self._timeout_s:g} s: {answer}")
            if breaker is not None:
                breaker.failed(error)
            raise error
        if breaker is not None:
            breaker.succeeded()
        if refusal := answer.get("error"):
            raise _Refused(method, refusal if isinstance(refusal, Mapping) else {"message": refusal})
        if "result" not in answer:
            raise ChainUnavailable(f"{self._name} answered {method} with neither a result nor an error")
        return answer["result"]

    def _post(self, method: str, parameters: Sequence[Any]) -> Mapping[str, Any] | str:
        """The answer, or why there is none. No exception leaves: its text would show the URL, which may be a secret."""
        import requests

        for last in (False, True):
            try:
                answer = self._connection().make_request(method, list(parameters))
            except requests.Timeout:
                return "it took too long"
            except requests.ConnectionError as error:
                # A connection kept open may have been closed by the node meanwhile: once more, on a new one.
                if last:
                    return f"no connection ({type(error).__name__})"
            except (requests.RequestException, ValueError, TypeError) as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                return f"HTTP status {status}" if status else f"no JSON ({type(error).__name__})"
            else:
                return answer if isinstance(answer, Mapping) else "no JSON object"
        return "no connection"

    def _connection(self) -> Any:
        with self._lock:
            if self._provider is None:
                from web3 import HTTPProvider  # 3 s: nobody without a node waits for it

                self._provider = HTTPProvider(
                    self._url, request_kwargs={"timeout": self._timeout_s}, exception_retry_configuration=None
                )
            return self._provider

    def _ask(self, method: str, *parameters: Any) -> Any:
        """As `_request`, of the right chain, and with a refusal as ChainUnavailable."""
        if not self._checked:
            self.check()
        try:
            return self._request(method, *parameters)
        except _Refused as refusal:
            raise ChainUnavailable(f"{self._name} refused {refusal}") from refusal

    # See `Chain`.

    @property
    def chain_id(self) -> int:
        """See `Chain`."""
        if not self._checked or self._chain_id is None:
            self.check()
        assert self._chain_id is not None
        return self._chain_id

    def check(self) -> None:
        """See `Chain`."""
        try:
            found = self._parsed(_int, self._request("eth_chainId"))
        except _Refused as refusal:
            raise ChainUnavailable(f"{self._name} refused {refusal}") from refusal
        if self._chain_id is not None and found != self._chain_id:
            raise ChainMismatch(
                f"{self._name} is of chain {found}, not {self._chain_id}; give the URL of a node of that chain"
            )
        self._chain_id, self._checked = found, True

    def block_number(self) -> int:
        """See `Chain`."""
        return self._parsed(_int, self._ask("eth_blockNumber"))

    def head(self) -> Block:
        """See `Chain`."""
        return self._parsed(_block, self._ask("eth_getBlockByNumber", "latest", False))

    def finalized(self) -> Block | None:
        """See `Chain`."""
        if not self._checked:
            self.check()
        try:
            raw = self._request("eth_getBlockByNumber", "finalized", False)
        except _Refused:
            # Chains without the tag refuse it, each with words of its own; a node that is down did not get this far.
            return None
        return None if raw is None else self._parsed(_block, raw)

    def block(self, which: int | str) -> Block | None:
        """See `Chain`."""
        if isinstance(which, str):
            raw = self._ask("eth_getBlockByHash", which, False)
        else:
            raw = self._ask("eth_getBlockByNumber", hex(which), False)
        return None if raw is None else self._parsed(_block, raw)

    def logs(
        self, *, from_block: int, to_block: int, addresses: Sequence[Address], topics: Topics = ()
    ) -> Sequence[Log]:
        """See `Chain`."""
        query = {"fromBlock": hex(from_block), "toBlock": hex(to_block), "address": list(addresses)}
        found = self._ask("eth_getLogs", {**query, "topics": list(topics)} if topics else query)
        logs = self._parsed(lambda raw: [_log(item) for item in raw], found)
        return sorted(logs, key=lambda log: (log.block, log.index))

    def call(
        self, to: Address, data: bytes, *, sender: Address | None = None, value_wei: int = 0, block: int | None = None
    ) -> bytes:
        """See `Chain`."""
        where = "latest" if block is None else hex(block)
        return self._parsed(_bytes, self._run("eth_call", sender, to, data, value_wei, where))

    def estimate(self, *, sender: Address, to: Address | None, data: bytes, value_wei: int = 0) -> int:
        """See `Chain`."""
        gas = self._parsed(_int, self._run("eth_estimateGas", sender, to, data, value_wei))
        if gas > GAS_MAX:
            raise TransactionFailed(f"a transaction to {to} needs {gas} gas, more than {GAS_MAX} (EIP-7825); split it")
        return gas

    def _run(
        self, method: str, sender: Address | None, to: Address | None, data: bytes, value_wei: int, *more: str
    ) -> Any:
        fields = {"from": sender, "to": to, "data": "0x" + data.hex(), "value": hex(value_wei)}
        if not self._checked:
            self.check()
        try:
            return self._request(method, {name: value for name, value in fields.items() if value is not None}, *more)
        except _Refused as refusal:
            if refusal.data is not None:
                raise TransactionFailed(f"a call of {to or 'nobody'} reverts: {explain(refusal.data)}") from refusal
            if more and any(word in refusal.message.lower() for word in _NO_BLOCK):
                raise ChainUnavailable(f"{self._name} has no state of block {more[0]} now: {refusal}") from refusal
            raise TransactionFailed(f"{self._name} cannot run a call of {to or 'nobody'}: {refusal}") from refusal

    def send_raw(self, raw: bytes) -> Verdict:
        """See `Chain`. The chain's id is asked for each time, for what is signed here must not go elsewhere."""
        self.check()
        try:
            self._request("eth_sendRawTransaction", "0x" + raw.hex())
        except _Refused as refusal:
            said = refusal.message.lower()
            for verdict, words in (
                (Verdict.KNOWN, _KNOWN),
                (Verdict.NONCE_USED, _NONCE_USED),
                (Verdict.UNDERPRICED, _UNDERPRICED),
            ):
                if any(word in said for word in words):
                    return verdict
            raise TransactionFailed(f"{self._name} refused a transaction: {refusal.message}") from refusal
        return Verdict.ACCEPTED

    def receipt(self, tx_hash: str) -> Receipt | None:
        """See `Chain`."""
        raw = self._ask("eth_getTransactionReceipt", tx_hash)
        return None if raw is None else self._parsed(_receipt, raw)

    def nonce(self, address: Address, *, block: int | None = None) -> int:
        """See `Chain`."""
        where = "latest" if block is None else hex(block)
        return self._parsed(_int, self._ask("eth_getTransactionCount", address, where))

    def fees(self) -> Fees:
        """See `Chain`."""
        raw = self._ask("eth_getBlockByNumber", "latest", False)
        try:
            tip = self._parsed(_int, self._request("eth_maxPriorityFeePerGas"))
        except _Refused as refusal:
            if refusal.code != _METHOD_MISSING:
                raise ChainUnavailable(f"{self._name} refused {refusal}") from refusal
            tip = _TIP_WEI
        return Fees(base_wei=self._parsed(lambda block: _int(block.get("baseFeePerGas", "0x0")), raw), tip_wei=tip)

    def balance(self, address: Address) -> int:
        """See `Chain`."""
        return self._parsed(_int, self._ask("eth_getBalance", address, "latest"))

    def code(self, address: Address) -> bytes:
        """See `Chain`."""
        return self._parsed(_bytes, self._ask("eth_getCode", address, "latest"))

    def _parsed(self, parse: Callable[[Any], T], raw: Any) -> T:
        try:
            return parse(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ChainUnavailable(
                f"{self._name} answered in another form than Ethereum's JSON-RPC has: {type(error).__name__}: {error}"
            ) from error


def _within(timeout_s: float, function: Callable[[], T]) -> T | str:
    """The value of `function`, or a text after `timeout_s`.

    The time-outs of a socket count from byte to byte, so a node that trickles could hold a caller for ever.
    """
    box: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put(function())
        except BaseException as error:  # noqa: BLE001  # it is raised where somebody waits
            box.put(error)

    threading.Thread(target=run, name="rios-chain-call", daemon=True).start()
    try:
        result = box.get(timeout=timeout_s)
    except queue.Empty:
        return "it took too long"
    if isinstance(result, BaseException):
        raise result
    return result


def _int(value: Any) -> int:
    return int(value, 16)


def _bytes(value: Any) -> bytes:
    return bytes.fromhex(value.removeprefix("0x"))


def _hash(value: Any) -> str:
    if len(_bytes(value)) != 32:
        raise ValueError(f"{value!r} is no hash")
    return str(value).lower()


def _block(raw: Any) -> Block:
    return Block(
        number=_int(raw["number"]),
        hash=_hash(raw["hash"]),
        parent_hash=_hash(raw["parentHash"]),
        timestamp=_int(raw["timestamp"]),
        bloom=_bytes(raw["logsBloom"]),
    )


def _log(raw: Any) -> Log:
    return Log(
        address=address_of(raw["address"]),
        topics=tuple(_hash(topic) for topic in raw["topics"]),
        data=_bytes(raw["data"]),
        block=_int(raw["blockNumber"]),
        block_hash=_hash(raw["blockHash"]),
        tx_hash=_hash(raw["transactionHash"]),
        index=_int(raw["logIndex"]),
    )


def _receipt(raw: Any) -> Receipt | None:
    if raw.get("blockHash") is None:
        return None  # some nodes give a receipt before the block of it
    created = raw.get("contractAddress")
    return Receipt(
        tx_hash=_hash(raw["transactionHash"]),
        block=_int(raw["blockNumber"]),
        block_hash=_hash(raw["blockHash"]),
        succeeded=_int(raw["status"]) == 1,
        gas_used=_int(raw["gasUsed"]),
        gas_price_wei=_int(raw["effectiveGasPrice"]),
        created=None if created is None else address_of(created),
        logs=tuple(_log(item) for item in raw["logs"]),
    )


def _revert_data(value: Any) -> bytes | None:
    """What a contract reverted with. Some nodes put it into an object of their own."""
    if isinstance(value, Mapping):
        value = value.get("data")
    if not isinstance(value, str) or not value.startswith("0x"):
        return None
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        return None
