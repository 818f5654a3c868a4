"""Connections to Redis for the ledger: bounded in time, made after a fork and not before."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.ledger.ledger import Ledger

SOCKET_TIMEOUT = 5.0  # seconds; a supervisor must get back to its engine


def connect(url: str, host: str = "", *, timeout: float = SOCKET_TIMEOUT) -> Ledger:
    """The ledger at a URL (redis://, rediss://, unix://). Connects at the first call; safe to make before a fork."""
    client = redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # an agent writes its own realm as it likes, and must not hold up who looks at all
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=25,
        # Once: a connection that Redis's restart has cut is made anew. What is not answered in time is not asked again.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        client_name="holdfast",
    )
    return Ledger(client, host)
