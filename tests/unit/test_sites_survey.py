"""What `holdfast sites` makes of what is known: cli.sites."""

from __future__ import annotations

import pytest

from cli.sites import seen as told
from cli.sites import view as shown
from cli.sites.facts import Loss, Report, Row, survey
from shared.errors import StorageError
from shared.health.observation import Observation, Verdict
from shared.topology.moves import Move, What
from shared.topology.register import Standing, View
from shared.topology.state import State

HOURS = [f"2026-03-02T{hour:02d}:00:00Z" for hour in range(5)]
THREE = State(members=("a", "b", "w"), witnesses=("w",))
AGREE = dict.fromkeys(("a", "b", "w"), Standing.AGREES)


def rows(
    a: dict[str, str | None], b: dict[str, str | None], *, state: State = THREE, copies: frozenset[str] = frozenset()
) -> dict[str, Row]:
    """Sources web and db of a, and nas of b."""
    view = View(state, True, True, AGREE, {})
    primaries = {"web": "a", "db": "a", "nas": "b"}
    every = dict.fromkeys(primaries)
    found = survey(view, primaries, {"a": {**every, **a}, "b": {**every, **b}}, {"b": copies}, {})
    return {row.site: row for row in found}


def test_what_only_one_site_has_would_be_lost_with_it() -> None:
    """What is nowhere else first, then what is older elsewhere."""
    found = rows({"web": HOURS[3], "db": HOURS[2], "nas": ""}, {"web": HOURS[1], "db": "", "nas": HOURS[0]})
    assert found["a"].lost == (Loss("db", HOURS[2], ""), Loss("web", HOURS[3], HOURS[1]))
    assert found["b"].lost == (Loss("nas", HOURS[0], ""),)
    assert (found["w"].lost, found["w"].witness) == ((), True)


def test_a_site_is_behind_where_its_primary_has_something_newer() -> None:
    """Of what it has, or is to have; a source that was never meant for it is not counted."""
    newest = {"web": HOURS[3], "db": HOURS[3], "nas": ""}
    assert rows(newest, {"web": HOURS[1], "db": "", "nas": ""})["b"].behind == 1
    assert rows(newest, {"web": HOURS[1], "db": "", "nas": ""}, copies=frozenset({"db"}))["b"].behind == 2
    assert rows(newest, {"web": HOURS[3], "db": "", "nas": ""})["b"].behind == 0


def test_what_nobody_knows_is_counted() -> None:
    """Of the sources that are expected at a site: those of a site that another stands in for, too."""
    state = Move(What.FAILOVER, "a", "b", primaries=frozenset({"a"}))(THREE)
    found = rows({}, {"web": HOURS[1], "db": HOURS[1], "nas": HOURS[1]}, state=state)
    assert (found["a"].unknown, found["a"].replaced_by, found["a"].primary_of) == (2, "b", 0)
    assert (found["b"].unknown, found["b"].stands_in_for, found["b"].primary_of) == (0, ("a",), 3)


@pytest.mark.parametrize(
    ("voted", "standing", "well"),
    [
        (True, AGREE, True),
        (True, {**AGREE, "a": Standing.SILENT}, False),
        (True, {**AGREE, "a": Standing.BEHIND}, False),
        (False, dict.fromkeys(AGREE, Standing.ABSENT), False),
        (False, {"a": Standing.ABSENT}, True),
        (False, {"a": Standing.SILENT}, False),
    ],
)
def test_all_is_well_where_all_have_voted_and_agree(voted: bool, standing: dict[str, Standing], well: bool) -> None:
    """A single site need not."""
    made = tuple(Row(name, False, how) for name, how in standing.items())
    assert Report(1, "x", voted, True, True, made).is_well is well


def test_a_report_says_what_to_do() -> None:
    """Under the table, a line each."""
    state = Move(What.FAILOVER, "a", "b", primaries=frozenset({"a"}))(THREE)
    standing = {**AGREE, "a": Standing.SILENT, "w": Standing.FORGOT}
    view = View(state, False, True, standing, {"a": StorageError("site a: refused")})
    have = {"a": {"web": None}, "b": {"web": HOURS[1]}}
    found = survey(view, {"web": "a"}, have, {}, {})
    lines = shown.lines(Report(1, "x", True, False, False, found, ("c",)))
    assert [line.split()[:2] for line in lines[:4]] == [
        ["SITE", "ROLE"],
        ["a", "copies,"],
        ["b", "primary"],
        ["w", "witness"],
    ]
    assert "a: site a: refused" in lines
    assert "w does not know what was decided: holdfast sites settle" in lines
    assert lines[-4:] == [
        "epoch 1, which no majority holds",
        "c is configured and does not vote: holdfast sites add c",
        "what the sites have is told by themselves alone: the ledger was not asked, or is away",
        "of 1 copy it is not known how new they are",
    ]


def test_what_is_seen_stands_under_the_table() -> None:
    """Who saw it, from where, how long ago, and what is not as it should be; nothing where nobody looked."""
    now = 1_800_000_000.0
    seen = [
        Observation("a", "probes@h1", "dc1", now - 4, Verdict.UP, "", 0.02, free=12 * 10**9, clock=-0.4),
        Observation("b", "probes@h1", "dc1", now - 5, Verdict.DOWN, "no answer within 5 s\x1b[2J", 5.0),
        Observation("b", "failover@h2", "dc2", now, Verdict.UP, "", 0.1, certificate=now + 10 * 86400, clock=2.0),
    ]
    assert told.lines((), now) == []
    assert told.lines(seen, now) == [
        "",
        "SITE  SEEN BY      FROM  AS    TOOK   FREE   CERTIFICATE  CLOCK  WHEN",
        "a     probes@h1    dc1   up    0.0 s  12 GB  -            -0 s   4.0 s ago",
        "b     probes@h1    dc1   down  5.0 s  -      -            -      5.0 s ago",
        "b     failover@h2  dc2   up    0.1 s  -      10d 0h left  +2 s   0.0 s ago",
        "b from dc1: no answer within 5 s\\x1b[2J",
    ]
    first, second, third = told.as_json(seen)
    assert (first["why"], first["free"], first["certificate"], first["time"]) == (
        None,
        12 * 10**9,
        None,
        "2027-01-15T07:59:56Z",
    )
    assert (second["verdict"], second["clock"]) == ("down", None)
    assert third["certificate"] == "2027-01-25T08:00:00Z"
