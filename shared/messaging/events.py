"""Events: what has happened, told to whoever listens. They only make things faster: nothing may depend on one.

A topic exchange bound to durable queues is a Redis list per queue, kept until taken; each is bounded in length, the
oldest dropped first. A listener adds a queue of its own to `QUEUES`: it must be declared before the first event. All
are sealed (`signed`), and lie under names that no agent's ACL allows.
"""

from __future__ import annotations

import binascii
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from shared.messaging import signed
from shared.messaging.broker import celery_broker
from shared.messaging.names import SITE_SEEN, SNAPSHOT_COMMITTED

__all__ = ["HEALTH", "QUEUES", "REPLICATION", "SITE_SEEN", "SNAPSHOT_COMMITTED", "Ear", "connection", "publish"]

if TYPE_CHECKING:
    from shared.messaging.signed import Event, Judge

EXCHANGE = Exchange("holdfast.events", type="topic", durable=True)
REPLICATION = Queue("holdfast.events.replication", EXCHANGE, routing_key="snapshot.*", durable=True)
HEALTH = Queue("holdfast.events.health", EXCHANGE, routing_key="site.*", durable=True)
QUEUES = (REPLICATION, HEALTH)
KEPT = 10_000  # events in a queue that nobody reads

_KEPT_FOR = 3600  # seconds after the last one
_AGAIN = 1.0  # seconds for which Redis is left alone once it was away
_SOCKET = 2.0  # seconds
_NONE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error)  # what no message raises
_AWAY = (RedisError, OSError, KombuError)


def connection(url: str) -> Connection:
    """A way to Redis for events, for a process that has no Celery. Connects to nothing yet; one to each process."""
    settings = celery_broker(url)
    options = {"socket_timeout": _SOCKET, "socket_connect_timeout": _SOCKET, "priority_steps": [0], "max_retries": 1}
    if url.startswith("unix://"):
        del options["socket_connect_timeout"]
    return Connection(
        settings["broker_url"],
        ssl=settings.get("broker_use_ssl", False),
        connect_timeout=_SOCKET,
        transport_options=options,
    )


def publish(producers: Any, message: Mapping[str, object], *, kept: tuple[str, str] | None = None) -> dict[str, int]:
    """Tell of one sealed event; how many wait in each queue now. `producers`: kombu's, of an app or a connection.

    `kept`: a hash and its field in which it lies besides, for who looks at the newest. Raises kombu's OperationalError
    where Redis is away, full or read-only.
    """
    try:
        with producers.acquire(block=True, timeout=5) as producer:
            bound, waiting = _send(producer, message, kept)
            if not bound:  # Redis was emptied since this process declared them, so nobody was told
                for queue in QUEUES:
                    producer.channel.state.queue_bindings_delete(queue.name)
                    queue(producer.channel).declare()
                _, waiting = _send(producer, message, kept)
            return waiting
    except RedisError as error:
        raise OperationalError(str(error)) from error


def _send(producer: Any, message: Mapping[str, object], kept: tuple[str, str] | None) -> tuple[bool, dict[str, int]]:
    """Whether there were queues that it could reach, and how many wait in each."""
    key = str(message["event"])
    producer.publish(message, exchange=EXCHANGE, routing_key=key, serializer="json", declare=list(QUEUES))
    pipe = producer.channel.client.pipeline(transaction=False)
    pipe.exists(producer.channel.keyprefix_queue % EXCHANGE.name)
    for queue in QUEUES:
        pipe.ltrim(queue.name, 0, KEPT - 1)  # the newest stand at the head
        pipe.llen(queue.name)
    if kept is not None:
        pipe.hset(*kept, json.dumps(message))
        pipe.expire(kept[0], _KEPT_FOR)
    bound, *said = pipe.execute()
    return bool(bound), {queue.name: said[2 * number + 1] for number, queue in enumerate(QUEUES)}


class Ear:
    """Takes what lies in one queue. For one thread; it may be made before a fork, and connects when first asked."""

    def __init__(self, url: str, queue: Queue, judge: Judge) -> None:
        self.judge = judge
        self._url = url
        self._queue = queue
        self._connection: Connection | None = None
        self._channel: Any = None
        self._not_before = 0.0

    def drain(self, at_most: int = 1000) -> list[Event]:
        """What has come that is to be believed, oldest first. Waits for nothing; none where Redis is away."""
        found: list[Event] = []
        if time.monotonic() < self._not_before:
            return found
        try:
            channel = self._open()
            for _ in range(at_most):
                try:
                    message = channel.basic_get(self._queue.name, no_ack=True)
                except _NONE:
                    self.judge.ignore(signed.MALFORMED)  # taken it is all the same
                    continue
                if message is None:
                    break
                event = self.judge.judge(message.body if isinstance(message.body, bytes | str) else b"")
                if event is not None:
                    found.append(event)
        except _AWAY:
            self.close()
            self._not_before = time.monotonic() + _AGAIN
        return found

    def close(self) -> None:
        """Give up the connection; the next look makes another."""
        with suppress(*_AWAY):
            if self._connection is not None:
                self._connection.release()
        self._connection = self._channel = None

    def _open(self) -> Any:
        if self._channel is None:
            self._connection = connection(self._url)
            self._connection.connect()
            self._channel = self._connection.channel()
            self._queue(self._channel).declare()  # nothing is told to a queue that nobody has declared
        return self._channel
