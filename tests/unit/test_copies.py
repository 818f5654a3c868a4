"""Which sites get copies, and when they are due."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scheduler.replication import Copy, copies_due, request_of, some_of, upkeep_of_copies
from scheduler.upkeep import DAY, Upkeep, upkeep
from shared.config.fleet import Fleet
from shared.config.models import Copies
from shared.ledger.model import UPKEEP, RunKind, slot_text
from shared.ledger.sweep import SourceState
from shared.topology import copy_sites

SITES = {"fra": "eu", "ams": "eu", "nyc": "us", "sfo": "us", "tyo": "asia"}
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
OLD, NEW = "2026-03-04T00:00:00Z", "2026-03-04T11:00:00Z"


def chosen(
    copies: Copies, source: str = "web1", primary: str = "fra", sites: dict[str, str] = SITES
) -> tuple[str, ...]:
    """The sites of a source whose configured primary is fra."""
    return copy_sites(copies, sites, source=source, configured="fra", primary=primary)


def test_named_sites_get_copies_and_the_primary_does_not() -> None:
    """Where another stands in for it, the configured primary is one of them: it has most of them already."""
    copies = Copies(sites=("ams", "nyc"))
    assert chosen(copies) == ("ams", "nyc")
    assert chosen(copies, primary="ams") == ("fra", "nyc")
    assert chosen(Copies(sites=("fra", "ams"))) == ("ams",)


def test_a_site_that_is_gone_gets_none() -> None:
    """Named or drawn."""
    left = {name: region for name, region in SITES.items() if name != "ams"}
    assert chosen(Copies(sites=("ams", "nyc")), sites=left) == ("nyc",)
    assert "ams" not in chosen(Copies(number=4), sites=left)


def test_sites_that_are_drawn_are_spread_and_stay() -> None:
    """Sources differ; one site less moves only the copies that were there."""
    drawn = {f"web{number}": chosen(Copies(number=2), f"web{number}") for number in range(300)}
    assert {len(set(sites)) for sites in drawn.values()} == {2}
    counts = [sum(site in sites for sites in drawn.values()) for site in ("ams", "nyc", "sfo", "tyo")]
    assert min(counts) > 100
    left = {name: region for name, region in SITES.items() if name != "tyo"}
    for source, sites in drawn.items():
        kept = [site for site in sites if site != "tyo"]
        assert set(kept) <= set(chosen(Copies(number=2), source, sites=left))


def test_after_a_failover_the_old_primary_comes_first() -> None:
    """It has what was there before."""
    for number in range(50):
        assert chosen(Copies(number=2), f"web{number}", primary="nyc")[0] == "fra"


def test_across_regions_each_region_comes_before_a_second_of_one() -> None:
    """The primary's own is the last."""
    for number in range(50):
        regions = [SITES[site] for site in chosen(Copies(number=4, across="regions"), f"web{number}")]
        assert set(regions[:2]) == {"us", "asia"}
        assert sorted(regions[2:]) == ["eu", "us"]


def a_copy(source: str = "web1", site: str = "ams", **more: Any) -> Copy:
    """A row of the table."""
    return Copy(source, site, "all", 5, upkeep(RunKind.REPLICATE, f"{source}\0{site}", DAY), **more)


def a_fleet() -> Fleet:
    """What says which queue: of a fleet with one source."""
    return cast("Fleet", SimpleNamespace(source=lambda _: SimpleNamespace(host="", pool="")))


def done(slot: str) -> str:
    """The ledger's note of replications."""
    return " ".join(slot if kind is RunKind.REPLICATE else "" for kind in UPKEEP)


LATE = done("2026-03-05T00:00:00Z")  # nothing of the daily ones is due


@pytest.mark.parametrize(
    ("origin", "copy", "slots"),
    [
        (SourceState(NEW, NEW), SourceState(OLD, OLD, "", LATE), [NEW]),
        (SourceState(NEW, NEW), SourceState("", "", "", LATE), [NEW]),
        (SourceState(NEW, NEW), SourceState(NEW, NEW, "", LATE), []),
        (SourceState(OLD, OLD), SourceState(NEW, NEW, "", LATE), []),
        (SourceState("", ""), SourceState("", ""), []),
    ],
)
def test_a_copy_that_is_behind_is_due(origin: SourceState, copy: SourceState, slots: list[str]) -> None:
    """For the newest slot that its primary has; where that has nothing, or nothing is known of it, none is."""
    found = copies_due([(a_copy(), origin, copy)], NOW)
    assert [due.slot for _, due in found] == slots
    assert all(due.options == {"site": "ams"} for _, due in found)


def test_once_a_day_one_is_due_all_the_same() -> None:
    """What no run of the ledger has made comes with it."""
    row = a_copy()
    slot = row.daily.slot(NOW.timestamp())
    now = datetime.fromtimestamp(slot + 60, UTC)
    same = SourceState(OLD, OLD)
    ((_, due),) = copies_due([(row, same, same._replace(upkeep=done("2026-01-01T00:00:00Z")))], now)
    assert due.slot == slot_text(datetime.fromtimestamp(slot, UTC))
    assert copies_due([(row, same, same._replace(upkeep=done(due.slot)))], now) == []


def test_what_is_furthest_behind_comes_first() -> None:
    """A copy that has nothing at all before all others."""
    rows = [(a_copy(name), SourceState(NEW, NEW), SourceState(last, "")) for name, last in (("a", OLD), ("b", ""))]
    assert [row.source for row, _ in copies_due(rows, NOW)] == ["b", "a"]


def test_where_very_many_are_due_each_has_its_turn() -> None:
    """Thousands of a site that is away keep no other out."""
    wanted = copies_due(
        [(a_copy(f"web{number}"), SourceState(NEW, NEW), SourceState("", "")) for number in range(1700)], NOW
    )
    seen: set[str] = set()
    for second in range(17):
        some = some_of(wanted, NOW.replace(second=second))
        assert len(some) == 500
        seen.update(row.source for row, _ in some)
    assert len(seen) == 1700


def test_a_run_is_one_for_source_site_and_slot() -> None:
    """Opened twice it is the same; at another site another."""
    ids = set()
    for site in ("ams", "nyc", "ams"):
        ((row, due),) = copies_due([(a_copy(site=site), SourceState(NEW, NEW), SourceState("", ""))], NOW)
        request = request_of(a_fleet(), row, due)
        assert (request.queue, request.options, request.policy) == ("replication", {"site": site}, "all")
        ids.add(request.id)
    assert len(ids) == 2


def test_a_site_that_comes_back_is_asked_first_for_what_it_alone_has() -> None:
    """Only the configured primary, while another stands in for it."""
    rows = [(a_copy(stood_in_for=back), SourceState(NEW, NEW), SourceState(OLD, OLD, "", LATE)) for back in (1, 0)]
    assert [due.options for _, due in copies_due(rows, NOW)] == [{"site": "ams", "both_ways": True}, {"site": "ams"}]


def test_copies_are_kept_in_order_where_they_are() -> None:
    """Forgets, prunes and verifications, at their own site, once it has something; a paused source forgets nothing."""
    kinds = (RunKind.FORGET, RunKind.PRUNE, RunKind.VERIFY)
    wanted = tuple(Upkeep(kind, 86400, 0, 0) for kind in kinds)
    there, nothing = SourceState(OLD, OLD), SourceState("", "")
    midnight = datetime(2026, 3, 4, 0, 1, tzinfo=UTC)
    rows = [(a_copy(upkeep=wanted), there, there), (a_copy("web2", upkeep=wanted), there, nothing)]
    found = [(row.source, due.kind, due.options) for row, due in upkeep_of_copies(rows, midnight)]
    assert found == [("web1", kind, {"site": "ams"}) for kind in kinds]
    (first, *_) = upkeep_of_copies(rows, midnight)
    assert request_of(a_fleet(), *first).queue == "maintenance"
    resting = a_copy(upkeep=wanted, rests_until=midnight.timestamp() + 1)
    assert [due.kind for _, due in upkeep_of_copies([(resting, there, there)], midnight)] == [*kinds[1:]]
