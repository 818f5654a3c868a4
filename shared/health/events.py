"""Observations as events: on the exchange for who waits for them, and the newest of each beside it for who looks.

    hf:seen   hash: "<site>|<observer>": the sealed event of the newest observation

What is told is written to both. So an event that is lost, or taken by another listener, is found by the next look; and
exporters and commands look without taking anything from anybody. All of it is sealed: no agent can speak of a site, nor
reach either key.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from shared.errors import LedgerError
from shared.health.observation import Observation, Verdict
from shared.ledger.guard import guarded
from shared.messaging.names import SITE_SEEN
from shared.messaging.signed import NotBelieved, verify

if TYPE_CHECKING:
    import redis

    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger
    from shared.messaging.signed import Event, Sealer

SEEN = "hf:seen"
_FORGOTTEN = 3600.0  # seconds after which an observer that says nothing is dropped
_TEXT_AT_MOST = 500
_NAME_AT_MOST = 200


def tell(producers: Any, sealer: Sealer, observations: Iterable[Observation]) -> None:
    """Tell what was seen. Raises kombu's OperationalError where Redis is away; some may have been told then."""
    from shared.messaging.events import publish  # kombu, which commands and exporters have no need of

    for one in observations:
        message = sealer.seal(SITE_SEEN, said_of(one))
        publish(producers, message, kept=(SEEN, f"{one.site}|{sealer.by}"))


def said_of(one: Observation) -> dict[str, Any]:
    """An observation as an event says it."""
    said: dict[str, Any] = {
        "site": one.site,
        "observer": one.observer,
        "place": one.place,
        "at": round(one.at, 3),
        "verdict": one.verdict.value,
        "why": one.why[:_TEXT_AT_MOST],
        "latency": round(one.latency, 4),
    }
    told = {"free": one.free, "certificate": one.certificate, "clock": one.clock}
    return said | {name: value for name, value in told.items() if value is not None}


def observation_of(event: Event) -> Observation | None:
    """What an event says; None where it is another, or a newer release's. Who says it is who has seen it."""
    said = event.said
    try:
        names = [said[name] for name in ("site", "place")]
        if event.name != SITE_SEEN or not all(isinstance(one, str) and 0 < len(one) <= _NAME_AT_MOST for one in names):
            return None
        one = Observation(
            site=names[0],
            observer=event.by,
            place=names[1],
            at=_number(said["at"]),
            verdict=Verdict(said["verdict"]),
            why=str(said.get("why", ""))[:_TEXT_AT_MOST],
            latency=_number(said.get("latency", 0.0)),
        )
        told = {name: _number(said[name]) for name in ("free", "certificate", "clock") if name in said}
        free = told.get("free")
        return replace(
            one, free=None if free is None else int(free), certificate=told.get("certificate"), clock=told.get("clock")
        )
    except (KeyError, ValueError, TypeError):
        return None


def look(
    client: redis.Redis, key: bytes, *, now: float, max_age: float, ahead: float
) -> dict[tuple[str, str], Observation]:
    """The newest observation of each site and observer that is no older. Takes nothing from anybody.

    `client` as the ledger's is; `ahead`: seconds by which who tells may be ahead of us. Raises LedgerAway, LedgerError.
    """
    kept = cast("Mapping[str, str]", guarded(lambda: client.hgetall(SEEN)))
    found: dict[tuple[str, str], Observation] = {}
    dropped = []
    for name, raw in kept.items():
        try:
            one = observation_of(verify(raw, key, now=now, max_age=_FORGOTTEN, ahead=ahead))
        except NotBelieved:
            one = None
        if one is None or name != f"{one.site}|{one.observer}":
            dropped.append(name)
        elif now - one.at <= max_age:
            found[one.site, one.observer] = one
    if dropped:
        with suppress(LedgerError):  # who may only read leaves it to others
            guarded(lambda: client.hdel(SEEN, *dropped))  # of observers that are gone, mostly: they do not pile up
    return found


def looked_up(fleet: Fleet, ledger: Ledger) -> dict[tuple[str, str], Observation]:
    """What was seen lately, once, without hearing: for commands and exporters. Raises ConfigError, LedgerError."""
    ahead = fleet.health.clock_tolerance
    max_age = fleet.health.expires + ahead
    return look(ledger.client, fleet.event_key, now=time.time(), max_age=max_age, ahead=ahead)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(value)
    return float(value)
