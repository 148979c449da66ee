"""A signer in another process: what it answers is used only where it is what was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from rios.billing.chain.protocol import Transaction
from rios.billing.clef import ClefSigner
from rios.billing.keystore import KeySigner
from rios.words.errors import KeystoreError
from rios.words.ids import check_address
from tests.billing.chain.lying import Proxy, refusal, result

KEY = KeySigner(bytes(31) + b"\x0b")
OTHER = KeySigner(bytes(31) + b"\x0c")
ASKED = Transaction(
    chain_id=7, nonce=3, to=OTHER.address, data=b"\x01\x02", value_wei=5, gas=21_000, max_fee_wei=9, tip_wei=1
)
CREATION = dataclasses.replace(ASKED, to=None)


def _clef(signs: Callable[[dict[str, Any]], Any]) -> Proxy:
    """An external signer."""
    return Proxy(signs)


def _raw(signer: KeySigner, transaction: Transaction) -> Callable[[dict[str, Any]], Any]:
    return lambda call: result(call, {"raw": "0x" + signer.sign_transaction(transaction).hex(), "tx": {}})


@pytest.mark.parametrize("asked", [ASKED, CREATION], ids=["call", "creation"])
def test_a_transaction(asked: Transaction) -> None:
    with _clef(_raw(KEY, asked)) as clef:
        assert ClefSigner(clef.url, KEY.address).sign_transaction(asked) == KEY.sign_transaction(asked)
    [call] = clef.calls
    assert call["method"] == "account_signTransaction"
    [wanted] = call["params"]
    assert (wanted["from"], wanted["to"], wanted["nonce"], wanted["value"]) == (KEY.address, asked.to, "0x3", "0x5")


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 8}, {"nonce": 4}, {"to": check_address("0x" + 40 * "1")}, {"to": None}, {"data": b""},
        {"value_wei": 6}, {"gas": 21_001}, {"max_fee_wei": 10}, {"tip_wei": 2},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_another_transaction_is_not_used(change: dict[str, Any]) -> None:
    other = dataclasses.replace(ASKED, **change)
    with _clef(_raw(KEY, other)) as clef, pytest.raises(KeystoreError, match="signed another transaction"):
        ClefSigner(clef.url, KEY.address).sign_transaction(ASKED)


def test_another_key_is_not_used() -> None:
    with _clef(_raw(OTHER, ASKED)) as clef, pytest.raises(KeystoreError, match="signed another transaction"):
        ClefSigner(clef.url, KEY.address).sign_transaction(ASKED)
    signature = "0x" + OTHER.sign_message(b"hi").hex()
    with _clef(lambda call: result(call, signature)) as clef, pytest.raises(KeystoreError, match=OTHER.address):
        ClefSigner(clef.url, KEY.address).sign_message(b"hi")


def test_a_message() -> None:
    with _clef(lambda call: result(call, "0x" + KEY.sign_message(b"hi").hex())) as clef:
        assert ClefSigner(clef.url, KEY.address).sign_message(b"hi") == KEY.sign_message(b"hi")
    assert clef.calls[0]["params"] == ["text/plain", KEY.address, "0x6869"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda call: refusal(call, "Request denied"), "refused .*: Request denied"),
        (lambda call: result(call, None), "should with hex"),
        (lambda call: result(call, {"raw": "0xzz"}), "should with hex"),
        (lambda call: result(call, {"raw": "0x02"}), "signed another transaction"),
        (lambda call: b"no json", "did not answer"),
        (lambda call: b"[]", "no reason given"),
        (lambda call: 500, "did not answer"),
    ],
)
def test_no_signature(answer: Callable[[dict[str, Any]], Any], why: str) -> None:
    with _clef(answer) as clef, pytest.raises(KeystoreError, match=why):
        ClefSigner(clef.url, KEY.address, timeout_s=30).sign_transaction(ASKED)


def test_only_http() -> None:
    with pytest.raises(KeystoreError, match="http"):
        ClefSigner("file:///etc/passwd", KEY.address)
