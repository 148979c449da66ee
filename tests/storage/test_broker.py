"""What a consumer of RabbitMQ does with messages that it cannot take, without a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from rios.storage import broker
from rios.storage.broker import Consumer
from rios.words.errors import LedgerUnavailable
from tests.waiting import until


class Channel:
    """Gives each message once, and again what was given back."""

    def __init__(self, *bodies: bytes, fails: int = 0) -> None:
        self.waiting = list(enumerate(bodies))
        self.fails = fails
        self.acked: list[bytes] = []
        self.dropped: list[bytes] = []
        self._held: dict[int, bytes] = {}
        self.is_closed = False

    def consume(self, _: str, inactivity_timeout: float) -> Iterator[Any]:
        if self.fails:
            self.fails -= 1
            raise AssertionError("an error of the library")
        while True:
            if not self.waiting:
                threading.Event().wait(0.01)
                yield None, None, None
                continue
            tag, body = self.waiting.pop(0)
            self._held[tag] = body
            yield SimpleNamespace(delivery_tag=tag), SimpleNamespace(message_id=f"event:{tag}"), body

    def basic_ack(self, tag: int) -> None:
        self.acked.append(self._held.pop(tag))

    def basic_nack(self, tag: int, *, requeue: bool) -> None:
        body = self._held.pop(tag)
        if requeue:
            self.waiting.append((tag, body))
        else:
            self.dropped.append(body)

    def basic_qos(self, **_: Any) -> None: ...

    def close(self) -> None: ...


def _consumed(channel: Channel, monkeypatch: pytest.MonkeyPatch, take: Any) -> Consumer:
    monkeypatch.setattr(broker, "_PAUSE_S", 0.01)
    monkeypatch.setattr(broker.pika, "BlockingConnection", lambda _: channel)
    monkeypatch.setattr(broker, "_declared", lambda connection: connection)
    return Consumer("amqp://localhost/", take)


def test_what_is_no_event_is_given_up_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(b"no JSON", b"{}", b'{"id": 1}')
    taken: list[int] = []
    with closing(_consumed(channel, monkeypatch, lambda body: taken.append(json.loads(body)["id"]))):
        until(lambda: channel.acked, "the event behind", deadline_s=30)
    assert (taken, channel.dropped) == ([1], [b"no JSON", b"{}"])


def test_an_event_waits_while_it_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(b"{}")
    away = [LedgerUnavailable("the database is away"), LedgerUnavailable("the database is away")]

    def take(_: bytes) -> None:
        if away:
            raise away.pop()

    with closing(_consumed(channel, monkeypatch, take)):
        until(lambda: channel.acked, "the event", deadline_s=30)
    assert not channel.dropped


def test_an_error_of_the_library_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(b"{}", fails=2)
    with closing(_consumed(channel, monkeypatch, lambda _: None)):
        until(lambda: channel.acked, "the event", deadline_s=30)
