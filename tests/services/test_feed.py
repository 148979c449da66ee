"""A panel's feed goes on telling where some of it cannot be had."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rios.services.feed import Event, Feed
from rios.services.panel import Panel
from rios.words.errors import NotAllowed, NotSignedIn, RiosError
from tests.waiting import until

DEADLINE_S = 10.0


class _Refusing:
    """A network of which nothing can be had; `fault` is why."""

    address, account = "https://rios.lab.example", "ann"

    def __init__(self, fault: RiosError) -> None:
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._fault


@pytest.mark.parametrize("fault", [NotSignedIn("the token is over"), NotAllowed("another role")])
def test_who_is_not_told_of_jobs_is_told_why_there_are_no_figures(fault: RiosError) -> None:
    """A token that ends while a panel is open: without this its last figures stood there for ever."""
    net = _Refusing(fault)
    feed = Feed(Panel(lambda: net, kind="remote"), look_s=0.01)
    heard: list[Event] = []
    feed.follow(heard.append)
    try:
        until(lambda: len(heard) >= 5, "the sections", deadline_s=DEADLINE_S)
    finally:
        feed.close()
    said = {one["name"]: one["section"]["error"] for one in (json.loads(event.data) for event in heard)}
    assert said["wallet"]["type"] == type(fault).__name__
    assert said["network"] is None
