"""The places from which the sites are looked at: who looks says that it is there, and the tick rings for each place.

    hf:places      sorted set: places, by when somebody there was last heard of (ms)
    probe.<place>  list: at most one ring

A ring says nothing: who takes it looks at all sites, once. So of several probers of a place one looks each time, and
one ring that is lost costs one look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from shared.ledger.codec import milliseconds
from shared.ledger.guard import guarded
from shared.messaging.names import probe_queue

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

PLACES = "hf:places"
GONE = 60.0  # seconds; also how long a ring waits for somebody
_AT_MOST = 1000  # places

# KEYS: places. ARGV: the place, ms after which one is gone
_HERE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RING_SCRIPT = """
redis.call('LTRIM', KEYS[1], 1, 0)
redis.call('LPUSH', KEYS[1], '1')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""


def here(pools: Ledger, place: str) -> None:
    """Somebody looks from this place. Raises LedgerAway, LedgerError."""
    guarded(lambda: pools.client.eval(_HERE, 1, PLACES, place, str(milliseconds(GONE))))


def ring_all(pools: Ledger) -> list[str]:
    """Ring once for each place; which there are. Raises LedgerAway, LedgerError."""
    places = cast("list[str]", guarded(lambda: pools.client.zrange(PLACES, 0, _AT_MOST - 1)))
    pipe = pools.client.pipeline(transaction=False)
    for place in places:
        pipe.eval(_RING_SCRIPT, 1, probe_queue(place), str(milliseconds(GONE)))
    if places:
        guarded(pipe.execute)
    return places


def await_ring(pools: Ledger, place: str, seconds: float) -> bool:
    """Whether somebody rings within so long (less than the connection's time-out). Raises LedgerAway, LedgerError."""
    return guarded(lambda: pools.client.brpop([probe_queue(place)], timeout=seconds)) is not None
