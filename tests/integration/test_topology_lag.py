"""What a site that is gone had, as the ledger knows it."""

from __future__ import annotations

import os
from pathlib import Path

from shared.ledger.model import Evidence
from shared.messaging.client import ledger_of
from shared.topology.lag import from_ledger, read_site, thought_lost
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger

SLOT = "2026-03-02T01:00:00Z"


def test_the_ledger_knows_the_newest_of_a_site_that_is_gone(tmp_path: Path) -> None:
    """By source; of others it says that it knows nothing; where Redis is away too nobody does."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        small = SmallFleet(str(tmp_path), broker=server.url)
        small.add_source("web2", host="far")
        fleet = small.fleet
        ledger.note_evidence("web1", "a", Evidence(SLOT, SLOT))
        known = from_ledger(fleet, lambda: ledger_of(fleet), "a", ["web1", "web2"])
        assert known == {"web1": SLOT, "web2": None}
        ours = read_site(fleet, "a", ["web1", "web2"])
        assert ours == {"web1": [], "web2": []}
        lost = [lack.describe() for lack in thought_lost(known, known, ours)]
        assert lost == [f"web1: newest {SLOT}, here none", "web2: what the other has is not known, here none"]
    assert from_ledger(fleet, lambda: ledger_of(fleet), "a", ["web1"]) is None


def test_what_a_replication_has_told_of_a_host_s_source_counts(tmp_path: Path) -> None:
    """It is known in the pools' realm, and what backups have left in the host's: the newer of both is what is there."""
    later = "2026-03-03T01:00:00Z"
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        small = SmallFleet(str(tmp_path), broker=server.url)
        small.add_source("web2", host="far")
        fleet = small.fleet
        ledger.note_evidence("web2", "a", Evidence(SLOT, SLOT))
        assert from_ledger(fleet, lambda: ledger_of(fleet), "a", ["web2"]) == {"web2": SLOT}
        ledger.realm("far").note_evidence("web2", "a", Evidence(later, later))
        assert from_ledger(fleet, lambda: ledger_of(fleet), "a", ["web2"]) == {"web2": later}
