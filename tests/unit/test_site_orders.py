"""What people tell the failover's machine, on members in memory: a word changes one thing, and only what was meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.sites.orders import as_json, describe, notable, said_yes, waiting
from shared.topology.errors import MoveRefused
from shared.topology.notes import Note, Orders, Phase, note_of, with_note, with_orders
from shared.topology.register import Register
from shared.topology.state import State
from tests.support.voting import MemberStore, register_of

NOW = 1_772_420_000.0
PROPOSED = Note(Phase.PROPOSED, "b", "dc2/1", NOW - 60, "site a is down", turn=3)


def noted(note: Note) -> Register:
    """Three members that have voted, and what the failover worker noted of site a."""
    register = register_of({name: MemberStore(name) for name in "abw"}, list("abw"))
    write(register, "a", note)
    return register


def write(register: Register, site: str, note: Note) -> State:
    """As the failover worker does it."""
    return register.change(lambda state: with_note(state, site, note_of(state, site), note))


def test_a_yes_is_to_what_was_shown() -> None:
    """It is noted, raises no epoch, and asked again it is said once."""
    register = noted(PROPOSED)
    before = register.look().state
    shown = waiting(before)
    after = register.change(lambda state: said_yes(state, shown))
    assert note_of(after, "a") == replace(PROPOSED, accepted=True, turn=4)
    assert after.epoch == before.epoch
    assert register.change(lambda state: said_yes(state, shown)) == after


@pytest.mark.parametrize(
    "meanwhile",
    [
        replace(PROPOSED, to="c", turn=4),
        Note(Phase.BLOCKED, why="site b is too far behind", turn=4),
        Note(turn=4),
    ],
    ids=["another target", "another loss", "it works again"],
)
def test_a_yes_is_not_to_what_came_meanwhile(meanwhile: Note) -> None:
    """Another target, or another loss, nobody has said yes to: it stays as it is."""
    register = noted(PROPOSED)
    shown = waiting(register.look().state)
    write(register, "a", meanwhile)
    with pytest.raises(MoveRefused, match="what waits at site a is another thing by now"):
        register.change(lambda state: said_yes(state, shown))
    assert note_of(register.look().state, "a") == meanwhile


def test_only_what_is_proposed_or_blocked_waits() -> None:
    """All of it, or that of the site that is named; else it is told that nothing does."""
    state = noted(PROPOSED).look().state
    blocked = Note(Phase.BLOCKED, why="no other site keeps copies", turn=1)
    state = with_note(state, "b", Note(), blocked)
    assert waiting(state) == {"a": PROPOSED, "b": blocked}
    assert waiting(state, "b") == {"b": blocked}
    with pytest.raises(MoveRefused, match="nothing waits for a yes of site w"):
        waiting(state, "w")
    with pytest.raises(MoveRefused, match=r"nothing waits for a yes\. "):
        waiting(with_note(State(members=("a",)), "a", Note(), Note(Phase.PROMOTING, "b")))


def test_only_what_is_not_as_on_any_other_day_is_told() -> None:
    """A pause, a maintenance that goes on, and each site that is not healthy; one that has ended is not."""
    state = State(members=("a", "b"))
    assert notable(state, NOW) == []
    state = with_note(state, "a", Note(), PROPOSED)
    state = with_note(state, "b", Note(), Note(maintenance_until=NOW + 60))
    state = with_orders(state, Orders("ann: moving racks"))
    assert notable(state, NOW) == [
        "failover by itself is paused by ann: moving racks: holdfast sites resume",
        "site a: proposed to b, 1m 00s ago: site a is down",
        "site b: in maintenance until 2026-03-02 02:54:20 UTC",
    ]
    assert describe(state, "b", NOW + 61) == "site b: healthy"
    assert [one["maintenance_until"] for one in as_json(state)["notes"]] == [None, "2026-03-02T02:54:20Z"]
