"""Requests that end together are begun together, and none is left when the accountant is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

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


def test_what_fails_is_told_to_its_own_and_stops_nobody() -> None:
    def broken() -> Callable[[], None]:
        raise ValueError("it cannot be begun")

    def waits() -> Callable[[], None]:
        def wait() -> None:
            raise ValueError("it was not posted")

        return wait

    said: list[str] = []
    accountant = Accountant()
    failed = [accountant.add(broken), accountant.add(waits)]
    accountant.add(_told(said, "a")).result(DEADLINE_S)
    for done in failed:
        with pytest.raises(ValueError, match="it "):
            done.result(DEADLINE_S)
    accountant.close()
    with pytest.raises(ValueError, match="begun"):
        accountant.add(broken).result(DEADLINE_S)


def test_its_own_thread_may_close_it() -> None:
    said: list[str] = []
    accountant = Accountant()

    def closes() -> Callable[[], None]:
        return accountant.close

    accountant.add(closes).result(DEADLINE_S)
    accountant.add(_told(said, "late")).result(DEADLINE_S)
    assert said == ["late", "late posted"]
