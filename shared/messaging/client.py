"""What a command does with the job system: open a run by hand and ring, and follow a run wherever it is worked on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shared.ledger.connect import connect
from shared.ledger.errors import LedgerAway, UnknownRun
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunRequest, new_run_id
from shared.messaging.broker import broker_url
from shared.messaging.names import queue_of
from shared.observability.logs import mask_url

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

_POLL = 0.2  # seconds


def ledger_of(fleet: Fleet, host: str = "") -> Ledger:
    """The fleet's ledger, in the realm of a host or (empty) of the pools."""
    return connect(broker_url(fleet), host)


def open_and_ring(fleet: Fleet, kind: RunKind, source: str, options: Mapping[str, object] | None = None) -> str:
    """Open a run by hand and ring for it; returns its id.

    `options` are JSON: what differs from the configuration (for a restore: what, and to where); no secrets, since they
    lie in Redis. Raises ConfigError (no such source) and LedgerAway (no Redis: is `holdfast up` running?).
    """
    from kombu.exceptions import OperationalError

    from shared.messaging.app import make_app, ring

    facts = fleet.source(source)
    url = broker_url(fleet)
    ledger = connect(url, facts.host or "")
    policy = fleet.policy_for(source)
    request = RunRequest(
        id=new_run_id(),
        kind=kind,
        source=source,
        policy=policy.id if policy else "",
        queue=queue_of(kind, facts),
        options=dict(options or {}),
    )
    ledger.open(request)
    app = make_app(url)
    try:
        ring(app, request.id, request.queue)
    except OperationalError as error:
        raise LedgerAway(f"run {request.id} is noted, but Redis at {mask_url(url)} went away: {error}") from error
    finally:
        app.close()
    return request.id


def follow(fleet: Fleet, run_id: str, *, poll: float = _POLL) -> Iterator[Run]:
    """A run's views, each time that it changed; the last one is final.

    Raises UnknownRun, also when the run is gone in between (Redis was wiped), and LedgerAway.
    """
    last: Run | None = None
    home: Ledger | None = None
    while last is None or not last.state.is_final:
        if home is None:
            home, run = find(fleet, run_id)
        else:
            found = home.get(run_id)
            if found is None:
                raise UnknownRun(f"run {run_id} is no longer in the ledger", hint="Was Redis emptied?")
            run = found
        if run != last:
            last = run
            yield run
        if not run.state.is_final:
            time.sleep(poll)


def find(fleet: Fleet, run_id: str) -> tuple[Ledger, Run]:
    """A run and the realm it lies in. Raises UnknownRun and LedgerAway."""
    pools = ledger_of(fleet)
    for host in realms(fleet):
        ledger = pools.realm(host)
        run = ledger.get(run_id)
        if run is not None:
            return ledger, run
    raise UnknownRun(f"there is no run {run_id}")


def realms(fleet: Fleet) -> list[str]:
    """The hosts whose runs lie apart, after the empty one of the pools."""
    return ["", *sorted({source.host for source in fleet.sources.values() if source.host})]
