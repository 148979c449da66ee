"""What is to be done on the chain: the same rules in memory and in the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.billing.chain.intents import Attempt, Intent, IntentState, IntentStore, MemoryIntentStore, intent
from rios.billing.ledger import Ledger
from rios.billing.ledger.intents import SqlIntentStore, insert
from rios.words.errors import LedgerConflict
from tests.billing.make import OWNERS
from tests.storage.databases import KINDS, drop_database, new_tables

SENDER, OTHER = OWNERS[0], OWNERS[1]
ATTEMPT = Attempt(tx_hash="0xab", raw=b"\x02\xff", max_fee_wei=2**80, tip_wei=1)


def new(key: str = "a", *, sender: str = SENDER, chain_id: int = 7, data: bytes = b"\x00\x01") -> Intent:
    return intent(key, chain_id=chain_id, sender=sender, to=OTHER, data=data, value_wei=10**30, gas=50_000)


@pytest.fixture(params=["memory", *KINDS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IntentStore]:
    if request.param == "memory":
        yield MemoryIntentStore()
        return
    url = new_tables(request.param, tmp_path)
    with Ledger.open(url, timeout_s=20) as ledger:
        yield SqlIntentStore(ledger)
    drop_database(url)


def test_a_key_is_one_effect(store: IntentStore) -> None:
    assert store.get("a") is None
    assert store.insert(new()) == store.insert(new()) == store.get("a") == new()
    for other in (new(data=b"x"), new(sender=OTHER), new(chain_id=8)):
        with pytest.raises(LedgerConflict, match="another effect"):
            store.insert(other)
    sent = new().changed(state=IntentState.SENT, nonce=0, attempts=(ATTEMPT,))
    store.save(sent)
    assert store.get("a") == sent
    assert store.insert(new()) == sent, "what became of it stays"


def test_only_the_next_version_is_kept(store: IntentStore) -> None:
    store.insert(new())
    one = new().changed(error="one")
    store.save(one)
    for late in (new().changed(error="two"), one.changed().changed(), new("unknown").changed()):
        with pytest.raises(LedgerConflict, match="read it again"):
            store.save(late)
    store.save(one.changed(error=None))
    found = store.get("a")
    assert found is not None
    assert (found.version, found.error) == (2, None)


def test_a_nonce_is_of_one_intent(store: IntentStore) -> None:
    for key in ("a", "b"):
        store.insert(new(key))
    store.insert(new("c", sender=OTHER))
    store.save(new("a").changed(nonce=5))
    with pytest.raises(LedgerConflict, match="nonce 5"):
        store.save(new("b").changed(nonce=5))
    store.save(new("b").changed(nonce=6))
    store.save(new("c", sender=OTHER).changed(nonce=5))
    store.save(new("a").changed(nonce=5).changed(state=IntentState.MINED, nonce=5))


def test_those_that_have_not_ended_in_their_order(store: IntentStore) -> None:
    for key in ("z", "a", "m"):
        store.insert(new(key))
    store.insert(new("other", sender=OTHER))
    store.insert(new("chain", chain_id=8))
    assert [found.key for found in store.unfinished(7, SENDER)] == ["z", "a", "m"]
    store.save(new("a").changed(state=IntentState.SENT, nonce=1))
    store.save(new("z").changed(state=IntentState.DONE, nonce=0))
    assert [found.key for found in store.unfinished(7, SENDER)] == ["a", "m"]
    assert [found.key for found in store.unfinished(8, SENDER)] == ["chain"]


def test_an_intent_is_kept_with_the_entries_it_follows_from(ledger: Ledger) -> None:
    store = SqlIntentStore(ledger)
    ledger.transact(lambda batch: insert(batch, new()))
    assert store.get("a") == new()

    def undone(batch: object) -> None:
        insert(batch, new("b"))  # type: ignore[arg-type]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.transact(undone)
    assert store.get("b") is None
    store.insert(new("c"))
    assert [found.key for found in store.unfinished(7, SENDER)] == ["a", "c"]
