"""What `holdfast status` says of the sites."""

from __future__ import annotations

from dataclasses import replace

from cli.status.judge import Level, judge
from cli.status.sites import problems, seen_failing
from shared.health.observation import Observation, Verdict
from shared.ledger.overview import Overview
from shared.topology.moves import Move, What
from shared.topology.notes import Note, Orders, Phase, with_note, with_orders
from shared.topology.state import State

NOW = 1_772_420_000.0
THREE = State(members=("a", "b", "w"), witnesses=("w",))
ALL = {"a": None, "b": None, "w": None}
WELL = dict.fromkeys(ALL, "agrees")


def said(
    state: State | None,
    standing: dict[str, str],
    *,
    looked: float = NOW - 10,
    configured: dict[str, None] | None = None,
) -> list[str]:
    """Each problem's text and command."""
    found = problems(state, standing, looked, ALL if configured is None else configured, NOW)
    return [f"{one.text} -> {one.command}" for one in found]


def test_nothing_is_said_while_all_agree() -> None:
    """Nor of a single site that never voted, nor where this machine never looked."""
    assert said(THREE, WELL) == []
    assert said(None, {"a": "absent"}, configured={"a": None}) == []
    assert said(None, {}, looked=0.0) == []


def test_a_stand_in_is_named_with_its_time() -> None:
    """Until it is given back."""
    state = Move(What.FAILOVER, "a", "b", primaries=frozenset({"a"}), at=NOW - 60)(THREE)
    (text,) = said(state, WELL)
    assert text.startswith("site b stands in for a since 2026-03-02 ")
    assert text.endswith(" UTC -> holdfast failback a --dry-run") or " UTC)" in text
    assert said(Move(What.FAILBACK, "a")(state), WELL) == []


def test_who_does_not_agree_is_named_as_long_as_the_look_is_new() -> None:
    """Each with its way out."""
    standing = {**WELL, "a": "silent", "b": "behind", "w": "forgot"}
    assert said(THREE, standing) == [
        "site a does not answer: nothing is forgotten or pruned until it does -> holdfast sites",
        "site b missed what the sites decided: nothing is forgotten or pruned -> holdfast sites settle",
        "site w has lost what the sites decided, and does not vote -> holdfast sites settle",
    ]
    assert said(THREE, standing, looked=NOW - 301) == []
    assert said(State(members=("b", "w")), {"b": "agrees", "w": "agrees", "a": "silent"}, configured={"b": None}) == []


def test_sites_that_do_not_vote_are_named() -> None:
    """One that was added to the configuration alone, and a fleet that never voted."""
    assert said(THREE, WELL, configured={**ALL, "c": None}) == [
        "site c is configured and does not vote -> holdfast sites add c"
    ]
    assert said(None, dict.fromkeys(ALL, "absent")) == [
        "the sites have never voted: no failover is possible before -> holdfast sites settle"
    ]


def test_what_people_have_ordered_is_said_until_it_is_taken_back() -> None:
    """However old the look is: a pause, and a maintenance that has not ended."""
    state = with_orders(THREE, Orders("ann: moving racks"))
    state = with_note(state, "b", Note(), Note(maintenance_until=NOW + 60))
    paused, tended = said(state, WELL, looked=NOW - 3600)
    assert paused == "failover by itself is paused by ann: moving racks -> holdfast sites resume"
    assert tended.startswith("site b is in maintenance until 2026-03-02 ")
    assert tended.endswith(": it is not failed over by itself -> holdfast sites maintenance b --end")
    over = with_note(THREE, "b", Note(), Note(maintenance_until=NOW - 1))
    assert said(with_orders(over, Orders(acknowledged=3)), WELL) == []


def test_a_failover_that_waits_for_a_person_needs_somebody_now() -> None:
    """With why and the way out, as long as the look is new; of one that has a stand-in that one is said."""
    note = Note(Phase.PROPOSED, "b", "dc2/1", NOW - 60, "site a is down")
    state = with_note(THREE, "a", Note(), note)
    (one,) = problems(state, WELL, NOW - 10, ALL, NOW)
    assert (one.level, one.command) == (Level.BAD, "holdfast sites accept a")
    assert one.text == "site a: proposed to b, 1m 00s ago: site a is down"
    assert said(state, WELL, looked=NOW - 301) == []

    (one,) = problems(with_note(THREE, "a", Note(), replace(note, phase=Phase.BLOCKED)), WELL, NOW - 10, ALL, NOW)
    assert (one.level, one.command) == (Level.BAD, "holdfast sites")
    (one,) = problems(with_note(THREE, "a", Note(), replace(note, phase=Phase.PROMOTING)), WELL, NOW - 10, ALL, NOW)
    assert one.level is Level.WARNING

    moved = Move(What.FAILOVER, "a", "b", primaries=frozenset({"a"}), at=NOW - 60)(state)
    (text,) = said(moved, WELL)
    assert text.startswith("site b stands in for a")


def test_a_site_that_somebody_sees_fail_is_named() -> None:
    """With from where and why; from several places somebody is needed now."""
    up = Observation("a", "probes@h1", "dc1", NOW, Verdict.UP)
    down = replace(up, site="b", verdict=Verdict.DOWN, why="no answer")
    assert list(seen_failing([up, replace(up, verdict=Verdict.SLOW, why="it took 3 s")])) == []
    (one,) = seen_failing([up, down, replace(down, observer="runs@h1", at=NOW + 1, verdict=Verdict.REFUSED, why="403")])
    assert (one.level, one.text) == (Level.WARNING, "site b refuses, seen from dc1: 403")
    (one,) = seen_failing([replace(down, place="dc2", observer="probes@h2"), down])
    assert (one.level, one.text) == (Level.BAD, "site b is down, seen from dc1 dc2: no answer")


def test_the_fleet_is_no_better_than_its_sites() -> None:
    """They are a part of the judgement."""
    report = judge([], Overview(NOW, True, 0, (), (), ()), "", problems(None, {}, NOW, ALL, NOW))
    assert (report.level, len(report.problems)) == (Level.WARNING, 1)
