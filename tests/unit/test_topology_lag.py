"""What one site lacks that another has."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.repository.snapshot import Snapshot
from shared.topology.lag import Lack, Point, lacking, lacks, points_of, thought_lost

HOURS = [f"2026-03-02T{hour:02d}:00:00Z" for hour in range(5)]
NOW = datetime(2026, 3, 2, 4, tzinfo=UTC).timestamp()


def points(*hours: int) -> list[Point]:
    """Snapshots of these hours."""
    return [Point(f"id{hour}", HOURS[hour], f"same{hour}") for hour in hours]


def test_what_is_older_than_the_newest_that_both_have_is_not_lacking() -> None:
    """Retention has taken it away here, or it was never owed."""
    assert lacking(points(0, 1, 2, 3), points(2)) == points(3)
    assert lacking(points(0, 1, 2), points(0, 1, 2, 3)) == []
    assert lacking(points(0, 1), []) == points(0, 1)


def test_both_may_lack_something() -> None:
    """After two sites took backups apart."""
    here, there = points(0, 1), points(0, 2)
    assert lacks({"web": there}, {"web": here}) == [Lack("web", HOURS[2], HOURS[1], ("id2",))]
    assert lacks({"web": here}, {"web": there}) == [Lack("web", HOURS[1], HOURS[2], ("id1",))]


def test_of_a_site_that_is_gone_the_ledger_knows_the_newest() -> None:
    """What it knows nothing of may be lost; what has no snapshot anywhere is not."""
    ours = {"even": points(0, 2), "behind": points(1), "none": []}
    known = {"even": HOURS[2], "behind": HOURS[3], "none": "", "unknown": None}
    assert thought_lost(["even", "behind", "none", "unknown"], known, ours) == [
        Lack("behind", HOURS[3], HOURS[1]),
        Lack("unknown", None, ""),
    ]


def test_no_more_may_be_lost_than_the_rpo_says() -> None:
    """Counted from what the site that takes over has; without an RPO nothing was agreed on."""
    lack = Lack("web", HOURS[3], HOURS[2])
    assert lack.within(7200.0, NOW)
    assert not lack.within(7199.0, NOW)
    assert not lack.within(None, NOW)
    assert not Lack("web", HOURS[3], "").within(7200.0, NOW)


def test_a_copy_is_known_by_its_time_and_tree() -> None:
    """Its id is another where stock restic has copied it; one without a slot counts from when it began."""

    def snapshot(name: str, *tags: str, at: int = 3) -> Snapshot:
        return Snapshot(at * 3_600_000_000_000, b"t" * 32, [b"/"], tags=["hf.source=web", *tags], id=name)

    made = points_of([snapshot("b", at=4), snapshot("a", f"hf.slot={HOURS[1]}")])["web"]
    assert [(one.id, one.slot) for one in made] == [("b", "1970-01-01T04:00:00Z"), ("a", HOURS[1])]
    assert lacking(made, points_of([snapshot("c", at=4), snapshot("d")])["web"]) == []
