"""RabbitMQ: domain events published with confirms, and consumed from one durable queue by whichever gateway is free."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions

from rios.storage.breaker import Breaker
from rios.words.errors import InvalidRequest, RiosError

log = logging.getLogger(__name__)

EXCHANGE, QUEUE = "rios.events", "rios.webhooks"
TIMEOUT_S = 3.0
_HEARTBEAT_S = 4
_PAUSE_S = 0.5
_PREFETCH = 32
_LOST = (pika.exceptions.AMQPError, OSError)


class Unpublished(RiosError):
    """The broker has not confirmed a message: it is published again later."""


def parameters(url: str) -> pika.URLParameters:
    """How to connect to the broker at `url`, such as amqp://user@host:5672/. Raises InvalidRequest."""
    try:
        found = pika.URLParameters(url)
    except (ValueError, TypeError, IndexError) as error:
        raise InvalidRequest("the URL of the broker is none; write amqp://user@host:5672/") from error
    found.socket_timeout = found.stack_timeout = found.blocked_connection_timeout = TIMEOUT_S
    found.heartbeat = _HEARTBEAT_S
    found.connection_attempts = 1
    return found


class Publisher:
    """Publishes durable messages. Belongs to one thread; close it there or when that has ended."""

    def __init__(self, url: str) -> None:
        self.breaker = Breaker("broker", retry_s=_PAUSE_S)
        self._parameters = parameters(url)
        self._connection: Any = None
        self._channel: Any = None
        self._used_at = 0.0

    def publish(self, key: str, body: bytes, *, topic: str) -> None:
        """Return once the broker has it on its disk. Raises Unpublished; it may have come all the same."""
        if not self.breaker.allows():
            raise Unpublished("the broker did not answer a moment ago")
        try:
            channel = self._opened()
            channel.basic_publish(
                EXCHANGE, topic, body, mandatory=True,
                properties=pika.BasicProperties(delivery_mode=2, message_id=key, content_type="application/json"),
            )  # fmt: skip
        except _LOST as error:
            self.breaker.failed(error)
            self.close()
            raise Unpublished(f"the broker does not confirm: {type(error).__name__}: {error}") from error
        self._used_at = time.monotonic()
        self.breaker.succeeded()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection, self._channel = self._connection, None, None
        _close(connection)

    def _opened(self) -> Any:
        # Nobody answers heartbeats between two messages: a connection that was idle is taken for dead.
        if self._channel is not None and time.monotonic() - self._used_at > _HEARTBEAT_S / 2:
            self.close()
        if self._channel is None:
            self._connection = pika.BlockingConnection(self._parameters)
            self._channel = _declared(self._connection)
            self._channel.confirm_delivery()
        return self._channel


class Consumer:
    """Gives every message to `take`, at least once, and forgets it when that has returned. Close it."""

    def __init__(self, url: str, take: Callable[[bytes], None]) -> None:
        """take: raises RiosError for what is to come again; what it fails of otherwise is given up."""
        self._parameters = parameters(url)
        self._take = take
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._consume, name="rios-consumer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the message that is under way."""
        self._stop.set()
        self._thread.join(4 * TIMEOUT_S)

    def _consume(self) -> None:
        while not self._stop.is_set():
            connection = None
            try:
                connection = pika.BlockingConnection(self._parameters)
                channel = _declared(connection)
                channel.basic_qos(prefetch_count=_PREFETCH)
                self._messages(channel)
            except _LOST as error:
                log.info("events are not consumed", extra={"reason": repr(error)})
                self._stop.wait(_PAUSE_S)
            except Exception:  # nobody else consumes for this gateway: whatever it was, it begins again
                log.exception("events are not consumed")
                self._stop.wait(_PAUSE_S)
            finally:
                _close(connection)

    def _messages(self, channel: Any) -> None:
        for method, properties, body in channel.consume(QUEUE, inactivity_timeout=_PAUSE_S):
            if self._stop.is_set():
                return
            if method is None:
                continue
            try:
                self._take(body)
            except RiosError as error:  # such as a database that is down: the message waits here
                log.warning("an event is taken again later", extra={"reason": str(error)})
                channel.basic_nack(method.delivery_tag, requeue=True)
                self._stop.wait(_PAUSE_S)
            except Exception:  # it is no event: given back it would come again, here and to every other gateway
                log.exception("a message is given up", extra={"key": properties.message_id})
                channel.basic_nack(method.delivery_tag, requeue=False)
            else:
                channel.basic_ack(method.delivery_tag)


def _declared(connection: Any) -> Any:
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, EXCHANGE, routing_key="#")
    return channel


def _close(connection: Any) -> None:
    if connection is None or connection.is_closed:
        return
    try:
        connection.close()
    except _LOST as error:
        log.info("the connection to the broker was gone", extra={"reason": repr(error)})
