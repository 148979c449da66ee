"""Requests that end together are begun together, and none is left when the accountant is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rios.dmoe.accountant import Accountant

DEADLINE_S = 30


def _told(said: list[str], name: str, until: threading.Event | None = None) -> Callable[[], Callable[[], None]]:
    def wait() -> None:
        if until is not None:
            assert until.wait(DEADLINE_S)
        said.append(f"{name} posted")

    def begin() -> Callable[[], None]:
        said.append(name)
        return wait

    return begin


def test_what_waits_is_begun_before_any_of_it_is_waited_for() -> None:
    said: list[str] = []
    slow, accountant = threading.Event(), Accountant()
    first = accountant.add(_told(said, "a", slow))
    others = [accountant.add(_told(said, name)) for name in "bcd"]
    assert not first.done()
    slow.set()
    for done in (first, *others):
        done.result(DEADLINE_S)
    posted = [place for place, one in enumerate(said) if one.endswith("posted")]
    assert max(said.index(name) for name in "bcd") < posted[1], "a was waited for; of the others, none before all began"
    assert sorted(said) == sorted([*"abcd", *(f"{name} posted" for name in "abcd")])
    accountant.close()


def test_what_was_added_is_finished_and_what_comes_later_too() -> None:
    said: list[str] = []
    accountant = Accountant()
    added = [accountant.add(_told(said, str(number))) for number in range(20)]
    accountant.close()
    assert all(done.done() for done in added)
    assert accountant.add(_told(said, "late")).done()
    assert said[-2:] == ["late", "late posted"]
    assert len(said) == 42
    accountant.close()


def test_one_that_accounts_for_nothing_has_no_thread() -> None:
    before = set(threading.enumerate())
    accountant = Accountant()
    assert "rios-accounts" not in {thread.name for thread in set(threading.enumerate()) - before}
    accountant.close()
