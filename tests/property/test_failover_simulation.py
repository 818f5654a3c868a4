"""The failover's machine is right under faults of every kind, and guards are needed for that."""

from __future__ import annotations

import pytest

from tests.support.simulation.play import Weather, play
from tests.support.simulation.without import without

_DOWN = Weather(0.5, 0, 0, 0, 0, 0, "ack")
_TOLD = Weather(3, 0, 0, 0, 0, 5, "maintenance")
# By guard, a schedule that goes wrong without it.
FOUND_BY: dict[str, tuple[int, Weather | None]] = {
    "automatic": (12, None),
    "cooling_down": (1, None),
    "enough_agree": (4, Weather(0.5, 6, 0, 0, 1, 0, "ack")),
    "has_lost_its_network": (14, _DOWN),
    "in_maintenance": (11, _TOLD),
    "not_long_enough": (0, None),
    "paused": (0, Weather(3, 0, 0, 0, 0, 5, "pause")),
    "too_far_behind": (45, Weather(5, 3, 0, 0, 0, 0, "ack")),
    "too_many_moves": (5, Weather(6, 0, 0, 0, 0, 9, "ack")),
    "unfit": (37, _TOLD),
}


@pytest.mark.parametrize("first", [0, 25])
def test_nothing_goes_wrong_whatever_fails(first: int) -> None:
    """After every step of each schedule all that must hold holds, and once faults stop all comes to rest."""
    wrong = [played for seed in range(first, first + 25) if (played := play(seed)).wrong]
    assert wrong == []


@pytest.mark.parametrize("guard", FOUND_BY)
def test_without_a_guard_something_goes_wrong(guard: str) -> None:
    """The schedule that is right with it goes wrong without."""
    seed, often = FOUND_BY[guard]
    assert play(seed, often).wrong == ""
    with without(guard):
        assert play(seed, often).wrong != ""
