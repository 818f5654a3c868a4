"""Redis was emptied under a fleet: what is due then is what the sites' snapshots say, and nothing else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scheduler.evidence import SiteEvidence
from scheduler.tick import tick
from shared.config.fleet import Fleet
from shared.ledger.model import RunKind, slot_text
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger
from tests.support.many import store_snapshots

NOW = datetime.now(UTC)
SOURCES = 60  # of each kind
POLICY = "full: 30d, incremental: 1h"


def fleet_of(small: SmallFleet, names: list[str]) -> Fleet:
    """A fleet of these sources, each of a host of its own."""
    with open(small.path) as file:
        head = file.read().partition("sources:")[0]
    with open(small.path, "w") as file:
        file.write(head + "sources:\n")
        file.writelines(f"  {name}: {{host: h-{name}, paths: [/srv]}}\n" for name in names)
    return small.fleet


def test_an_emptied_ledger_opens_what_evidence_at_the_sites_would(tmp_path: Path) -> None:
    """A third is served, a third is late, a third was never backed up: no other run is opened, of no other kind."""
    served, late, never = ([f"{kind}{number}" for number in range(SOURCES)] for kind in ("served", "late", "never"))
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        fleet = fleet_of(SmallFleet(str(tmp_path), broker=server.url, policy=POLICY), served + late + never)
        fresh, old = slot_text(NOW), slot_text(NOW - timedelta(hours=3))
        store_snapshots(fleet, dict.fromkeys(served, fresh) | dict.fromkeys(late, old))
        sites = SiteEvidence(fleet)
        opened: dict[str, RunKind] = {}
        for _ in range(60):
            ticked = tick(fleet, ledger, lambda _: None, sites, NOW, ask=sites.ask)
            opened |= {request.source: request.kind for request in ticked.opened}
            if not any("is being asked" in reason for reason in ticked.held.values()):
                break
        sites.close()
        assert ticked.unknown == {}
        assert opened == dict.fromkeys(late, RunKind.INCREMENTAL) | dict.fromkeys(never, RunKind.FULL)
        assert tick(fleet, ledger, lambda _: None, sites, NOW).opened == []
