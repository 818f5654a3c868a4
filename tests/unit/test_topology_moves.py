"""The changes of the topology as values: what each gives, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.topology.errors import MoveRefused, StaleEpoch
from shared.topology.moves import Move, What, at_site, failed_site, first_of, returning
from shared.topology.state import Epoch, State

THREE = State(members=("a", "b", "c", "w"), witnesses=("w",))
PRIMARIES = frozenset({"a", "c"})


def move(what: What, site: str, to: str = "", **more: object) -> Move:
    """One change by me."""
    return replace(Move(what, site, to, "me", "why", primaries=PRIMARIES, at=5.0, claim=f"{what}{site}{to}"), **more)


FAILED_OVER = move(What.FAILOVER, "a", "b")(THREE)


def test_a_failover_moves_all_of_a_site_and_says_so_in_the_history() -> None:
    """The sources of others stay where they are; a new epoch begins."""
    assert (FAILED_OVER.primary("a"), FAILED_OVER.primary("c")) == ("b", "c")
    (entry,) = FAILED_OVER.history
    assert (entry.what, entry.why, entry.by, entry.at) == ("failover a to b", "why", "me", 5.0)
    assert FAILED_OVER.epoch == Epoch(1, "failoverab")
    assert at_site(FAILED_OVER, {"web": "a", "db": "c", "nas": "b"}, "b") == ["web", "nas"]


def test_only_what_was_taken_goes_back() -> None:
    """Not what another site is the primary of, nor what the stand-in had before."""
    primaries = {"web": "a", "db": "c", "nas": "b"}
    assert returning(FAILED_OVER, primaries, "a") == ["web"]
    assert returning(THREE, primaries, "a") == []
    twice = move(What.FAILOVER, "b", "c")(FAILED_OVER)
    assert returning(twice, primaries, "b") == ["web", "nas"]


def test_a_move_that_is_made_twice_is_made_once() -> None:
    """Also where others were made in between, as its answer may have been lost."""
    back = move(What.FAILBACK, "a")(FAILED_OVER)
    assert move(What.FAILOVER, "a", "b")(FAILED_OVER) is FAILED_OVER
    assert move(What.FAILOVER, "a", "b")(back) is back


def test_what_fails_over_twice_comes_back_step_by_step() -> None:
    """From a to b, b to c: what a had is at c; b given back has it again, then a."""
    twice = move(What.FAILOVER, "b", "c")(FAILED_OVER)
    assert (twice.primary("a"), twice.primary("b")) == ("c", "c")
    assert move(What.FAILBACK, "b")(twice).primary("a") == "b"
    assert move(What.FAILBACK, "a")(twice).primary("a") == "a"


def test_the_failed_site_itself_may_take_over_from_its_stand_in() -> None:
    """Then each has its own again, and nobody stands in for a."""
    state = move(What.FAILOVER, "b", "a")(FAILED_OVER)
    assert (state.primary("a"), state.primary("b")) == ("a", "a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (move(What.FAILOVER, "c", "w"), "w is a witness"),
        (move(What.FAILOVER, "c", "z"), "z is no member"),
        (move(What.FAILOVER, "c", "c"), "can't stand in for itself"),
        (move(What.FAILOVER, "c", "a"), "a has a stand-in itself, b"),
        (move(What.SWITCHOVER, "a", "b", claim="x"), "b stands in for a already"),
        (move(What.SWITCHOVER, "a", "c"), "b stands in for a already"),
        (move(What.FAILOVER, "w", "c"), "w is the primary of no source"),
        (move(What.FAILOVER, "nowhere", "c"), "nowhere is the primary of no source"),
        (move(What.FAILBACK, "c"), "no site stands in for c"),
        (move(What.FAILBACK, "z"), "z is no member"),
        (move(What.ADD, "a"), "a is a member already"),
        (move(What.REMOVE, "z"), "z is no member"),
        (move(What.REMOVE, "b"), "b is the primary of sources"),
        (move(What.REMOVE_LOST, "c"), "c is the primary of sources"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.what,
)
def test_what_can_not_be_is_refused(change: Move, said: str) -> None:
    """Each with its reason."""
    with pytest.raises(MoveRefused, match=said):
        change(FAILED_OVER)


def test_the_last_one_that_keeps_copies_stays() -> None:
    """A witness alone keeps nothing."""
    state = State(members=("a", "w"), witnesses=("w",))
    with pytest.raises(MoveRefused, match="the last one that keeps copies"):
        move(What.REMOVE, "a", primaries=frozenset())(state)


def test_a_planned_removal_holds_for_the_epoch_that_all_agreed_on() -> None:
    """What came in between may have made it primary."""
    with pytest.raises(StaleEpoch, match="the epoch was 0, and is 1 now"):
        move(What.REMOVE, "w", agreed=Epoch())(FAILED_OVER)
    state = move(What.REMOVE, "w", agreed=FAILED_OVER.epoch)(FAILED_OVER)
    assert (state.members, state.witnesses) == (("a", "b", "c"), ())


def test_a_lost_site_leaves_its_own_stand_in_in_place() -> None:
    """Also for those for whom it stood in itself; added anew it is not primary before it is given back."""
    chain = move(What.FAILOVER, "b", "c")(FAILED_OVER)
    gone = move(What.REMOVE_LOST, "b")(chain)
    assert (gone.members, gone.primary("a"), gone.primary("b")) == (("a", "c", "w"), "c", "c")
    assert move(What.ADD, "b")(gone).primary("b") == "c"
    assert move(What.ADD, "v", witness=True)(gone).witnesses == ("v", "w")


def test_which_site_has_failed_is_clear_only_where_one_other_is_primary() -> None:
    """Else it has to be named."""
    assert failed_site(THREE, ["a"], "b") == "a"
    with pytest.raises(MoveRefused, match="several sites are primary: a, c"):
        failed_site(THREE, ["a", "c"], "b")
    with pytest.raises(MoveRefused, match="b is the primary of every source already"):
        failed_site(FAILED_OVER, ["a"], "b")


def test_the_history_names_some_sources_and_counts_the_rest() -> None:
    """Thousands may be behind."""
    assert first_of(["x"] * 22) == "; ".join(["x"] * 20) + "; and 2 more"
    assert first_of(["x"]) == "x"
