"""Intents as values, and their stores where several ask at once; the rest of a store is in tests/billing/ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rios.billing.chain.embedded import EmbeddedChain
from rios.billing.chain.intents import (
    Attempt,
    Intent,
    IntentState,
    IntentStore,
    MemoryIntentStore,
    intent,
)
from rios.billing.chain.sender import Sender
from rios.billing.ledger.intents import SqlIntentStore
from rios.billing.ledger.ledger import Ledger
from rios.words.errors import InvalidAmount, InvalidRequest, LedgerConflict
from tests.billing.chain.conftest import FUND
from tests.billing.chain.nets import ALICE, NOBODY
from tests.storage.databases import new_tables

CHAIN = 2**52  # beyond what a column of 32 bits holds
ATTEMPT = Attempt(tx_hash="0x" + 64 * "1", raw=b"\x02raw", max_fee_wei=2**70, tip_wei=1)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IntentStore]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryIntentStore()
        return
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, timeout_s=20) as ledger:
        yield SqlIntentStore(ledger)


def _intent(key: str = "root-1", **more: Any) -> Intent:
    fields = {"chain_id": CHAIN, "sender": ALICE.address, "to": NOBODY, "data": b"\x01", "value_wei": 2**200, **more}
    return intent(key, **fields)


def _sent(found: Intent, nonce: int) -> Intent:
    return found.changed(state=IntentState.SENT, nonce=nonce, gas=21_000, attempts=(ATTEMPT,))


class TestStore:
    def test_one_of_many_wins(self, store: IntentStore) -> None:
        made = store.insert(_intent())
        together, won, lost = threading.Barrier(6), [], []

        def one(nonce: int) -> None:
            together.wait(20)
            try:
                store.save(_sent(made, nonce))
                won.append(nonce)
            except LedgerConflict:
                lost.append(nonce)

        threads = [threading.Thread(target=one, args=(nonce,)) for nonce in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (len(won), len(lost)) == (1, 5)
        assert store.get("root-1") == _sent(made, won[0])

    def test_a_sender_uses_it(self, store: IntentStore) -> None:
        with EmbeddedChain(fund=FUND) as chain:
            for _ in range(2):
                sender = Sender(chain, ALICE, store)
                for number in range(3):
                    assert sender.send(f"gift-{number}", NOBODY, b"", value_wei=1).succeeded
                assert list(sender.pump()) == []
            assert chain.balance(NOBODY) == 3
            assert [_kept(store, f"gift-{number}").state for number in range(3)] == 3 * [IntentState.DONE]


def _kept(store: IntentStore, key: str) -> Intent:
    found = store.get(key)
    assert found is not None
    return found


class TestIntent:
    def test_it_is_json_without_a_float(self) -> None:
        found = _sent(_intent(), 7).changed(tx_hash="0x1", block=5, block_hash="0x2", error="no")
        assert Intent.from_dict(json.loads(json.dumps(found.to_dict()), parse_float=_refuse)) == found
        creation = _intent(to=None)
        assert Intent.from_dict(json.loads(json.dumps(creation.to_dict()))) == creation

    @pytest.mark.parametrize("state", list(IntentState))
    def test_its_ends(self, state: IntentState) -> None:
        assert _intent().changed(state=state).finished == (state in (IntentState.DONE, IntentState.FAILED))

    def test_what_it_does_is_checked(self) -> None:
        with pytest.raises(InvalidRequest, match="the receiver"):
            _intent(to="0x12")
        with pytest.raises(InvalidRequest, match="the sender"):
            _intent(sender="nobody")
        for value in (-1, 1.0, True):
            with pytest.raises(InvalidAmount):
                _intent(value_wei=value)

    def test_what_became_of_it_is_no_part_of_its_effect(self) -> None:
        assert _sent(_intent(), 7).effect == _intent().effect == _intent("another", gas=5).effect


def _refuse(text: str) -> float:
    raise AssertionError(f"{text} is a float")
