"""Whatever happens, in whatever order: no wei is made or lost, and ledger, roots and contracts say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.ledger import Ledger
from rios.words.errors import RiosError
from tests.billing.ledger.history import Player, Wish, contents, perform, wishes
from tests.storage.databases import drop_database, new_tables


@settings(max_examples=40, deadline=None)
@given(wishes)
def test_no_wei_is_made_or_lost(wanted: Sequence[Wish]) -> None:
    with Ledger.open() as ledger:
        player = Player(ledger)
        for wish in wanted:
            player.play(wish)
        player.check()


@settings(max_examples=20, deadline=None)
@given(wishes, st.randoms(use_true_random=False))
def test_messages_in_any_order_leave_a_sound_ledger(wanted: Sequence[Wish], rng: Random) -> None:
    with Ledger.open() as ledger:
        player = Player(ledger)
        for wish in wanted:
            player.play(wish)
    calls = player.calls * 2
    rng.shuffle(calls)
    with Ledger.open() as ledger:
        for call in calls:
            try:
                perform(ledger, call)
            except RiosError:
                continue
        found = ledger.totals()
        assert found.sound
        for name, floor in ledger.claimable().items():
            assert found.balances[name] >= floor
        for name, wei in found.balances.items():
            if name.startswith("user:") and not name.endswith(":overdrawn"):
                assert wei >= 0


def test_both_databases_come_to_the_same(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    for seed in range(4):
        url = new_tables("postgres", tmp_path)
        with Ledger.open() as here, Ledger.open(url, timeout_s=20) as there:
            players = [Player.drawn(ledger, Random(seed), 200) for ledger in (here, there)]
            for player in players:
                player.check()
            assert contents(here) == contents(there)
            done.update(entry.kind for entry in here.entries())
            done.update(event.name for event in here.chain_events())
            done.update(hold.state for hold in here.holds())
        drop_database(url)
    # Random histories that come to nothing would show nothing.
    assert done.keys() >= {"deposit", "trial", "hold", "usage", "release", "refund", "repay", "chain"}
    assert done.keys() >= {"Charged", "Claimed", "Withdrawn", "WithdrawalRequested", "posted", "expired", "open"}
