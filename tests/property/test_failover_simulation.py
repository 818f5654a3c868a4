"""The failover's machine is right under faults of every kind, and each guard is needed for that."""

from __future__ import annotations

import pytest

from tests.support.simulation.play import play
from tests.support.simulation.without import GUARDS, without

FOUND_BY: dict[str, int] = {}  # by guard, a seed whose schedule goes wrong without it


@pytest.mark.parametrize("first", [0, 25])
def test_nothing_goes_wrong_whatever_fails(first: int) -> None:
    """After every step of each schedule all that must hold holds, and once faults stop all comes to rest."""
    wrong = [played for seed in range(first, first + 25) if (played := play(seed)).wrong]
    assert wrong == []


def test_each_guard_is_tried() -> None:
    """No guard is left out below."""
    assert FOUND_BY.keys() == GUARDS.keys()


@pytest.mark.parametrize("guard", FOUND_BY)
def test_without_a_guard_something_goes_wrong(guard: str) -> None:
    """The schedule that is right with it goes wrong without."""
    seed = FOUND_BY[guard]
    assert play(seed).wrong == ""
    with without(guard):
        assert play(seed).wrong != ""
