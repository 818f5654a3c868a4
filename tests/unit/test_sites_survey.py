"""What `holdfast sites` makes of what is known: cli.sites."""

from __future__ import annotations

import pytest

from cli.sites import view as shown
from cli.sites.facts import Loss, Report, Row, survey
from shared.errors import StorageError
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
