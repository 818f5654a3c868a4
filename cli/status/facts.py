"""The facts that `holdfast status` judges by: the configuration's sources, and the ledger's overview of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cli.status.judge import Source
from shared import topology
from shared.config.inventory import place_in, trouble
from shared.errors import ConfigError
from shared.ledger.model import RunKind
from shared.ledger.overview import Overview, overview
from shared.messaging.client import ledger_of, realms
from shared.messaging.names import SCHEDULER, queue_of

if TYPE_CHECKING:
    from shared.config.fleet import Fleet


def inventory_trouble(fleet: Fleet) -> str:
    """What is wrong with the asking of the inventory, by this machine's own notes; empty for nothing."""
    if fleet.inventory is None:
        return ""
    return trouble(place_in(fleet.state_dir).read_state(), fleet.inventory, time.time())


def gather(fleet: Fleet) -> tuple[list[Source], Overview]:
    """All that is to be known, in one round trip to Redis; no site is asked. Raises ConfigError, LedgerError."""
    current = topology.current(fleet)
    sources: list[Source] = []
    places: list[tuple[str, str, str]] = []
    led: set[tuple[str, str]] = set()
    now = time.time()
    for name, facts in fleet.sources.items():
        followed = fleet.policy_for(name) if not facts.is_over else None  # whose upkeep is due
        rests = facts.rests(now)
        policy = None if rests else followed
        try:
            site = current.primary(name)
        except ConfigError:
            site = ""  # no policy selects it, and there are several sites
        queue = queue_of(RunKind.INCREMENTAL, facts)
        owner, rpo = facts.owner or "", policy.rpo if policy else None
        place = fleet.repository_of(name), site
        verify = test = None
        if followed is not None:
            verify = followed.verify if place not in led else None  # of a repository one source is asked
            test = followed.restore_test
            led.add(place)
        planned = policy is not None
        sources.append(
            Source(
                name,
                queue,
                owner,
                rpo,
                scheduled=planned,
                verify=verify,
                restore_test=test,
                rests=rests,
                gone=facts.left > 0,
                host=facts.host or "",
            )
        )
        places.append((facts.host or "", name, site))
    return sources, overview(ledger_of(fleet), realms(fleet), places, ticks=SCHEDULER)
