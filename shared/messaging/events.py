"""Events: what has happened, told to whoever listens. They only make things faster: nothing may depend on one.

A topic exchange bound to durable queues is a Redis list per queue, kept until taken; each is bounded in length, the
oldest dropped first. A listener adds a queue of its own to `QUEUES`: it must be declared before the first event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from celery import Celery

SNAPSHOT_COMMITTED = "snapshot.committed"  # run, source, repository, site, snapshot (hex)

EXCHANGE = Exchange("holdfast.events", type="topic", durable=True)
REPLICATION = Queue("holdfast.events.replication", EXCHANGE, routing_key="snapshot.*", durable=True)
QUEUES = (REPLICATION,)
KEPT = 10_000  # events in a queue that nobody reads


def publish(app: Celery, event: str, body: Mapping[str, object]) -> None:
    """Tell of one event. Raises kombu's OperationalError where Redis is away, full or read-only."""
    message = {"event": event, **body}
    try:
        with app.producer_pool.acquire(block=True, timeout=5) as producer:
            producer.publish(message, exchange=EXCHANGE, routing_key=event, serializer="json", declare=list(QUEUES))
            for queue in QUEUES:
                producer.channel.client.ltrim(queue.name, 0, KEPT - 1)  # the newest stand at the head
    except RedisError as error:
        raise OperationalError(str(error)) from error
