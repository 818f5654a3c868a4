"""A ledger on a Valkey of its own, and short ways to fill it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shared.ledger import model
from shared.ledger.connect import connect
from shared.ledger.keys import host_queues
from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunRequest, new_run_id
from tests.support.tools import ValkeyServer

Found = TypeVar("Found")


@contextmanager
def own_ledger(directory: str, *, lease_seconds: float = 15.0) -> Iterator[tuple[Ledger, ValkeyServer]]:
    """A ledger that may be wiped, stopped and killed."""
    with ValkeyServer(directory) as server:
        ledger = connect(server.url, timeout=1.0)
        ledger.lease_seconds = lease_seconds
        try:
            yield ledger, server
        finally:
            ledger.client.close()


def a_run(
    source: str = "web1", kind: RunKind = RunKind.FULL, *, slot: str = "2026-03-04T02:00:00Z", host: str = ""
) -> RunRequest:
    """A request with an id of its own, for the realm of a host or (empty) of the pools."""
    queue = host_queues(host)[0] if host else "backup"
    return RunRequest(new_run_id(), kind, source, policy="all", slot=slot, queue=queue)


def until(look: Callable[[], Found | None], *, seconds: float = 60.0, what: str = "") -> Found:
    """What `look` finds, once it finds something; an AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s in vain{': ' if what else ''}{what}"
        time.sleep(0.05)


def drawn_table() -> list[tuple[str, str, str, str]]:
    """(state, act, what is drawn, number of its footnote or empty) of the table in the model's docstring."""
    lines = [line.strip() for line in (model.__doc__ or "").splitlines() if "|" in line]
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    cells = [
        (row[0], act, re.fullmatch(r"([^ ]+?) ?(?:\((\d)\))?", cell))
        for row in rows
        for act, cell in zip(head[1:], row[1:], strict=True)
    ]
    return [(state, act, cell[1], cell[2] or "") for state, act, cell in cells if cell]


def claimed(ledger: Ledger, run_id: str, owner: str = "me", token: str = "") -> Lease:
    """The lease of a run that can be claimed."""
    claim = ledger.claim(run_id, owner, token=token)
    assert claim.lease is not None, claim.word
    return claim.lease


def state_of(ledger: Ledger, run_id: str) -> str:
    """The state of a run."""
    run = ledger.get(run_id)
    return run.state.value if run else "(none)"


def expire(ledger: Ledger, run_id: str) -> None:
    """As if nobody had renewed the lease for long."""
    ledger.client.hset(ledger.keys.run(run_id), "lease", 0)
    ledger.client.zadd(ledger.keys.open, {run_id: 0})
