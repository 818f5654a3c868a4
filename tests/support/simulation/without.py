"""Each guard alone, patched out of the shipped modules: what the simulation must then find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from workers.failover import guards, judge, machine, pilot


def _objecting(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """One that stands in a list of guards objects to nothing."""

    def patch(to: pytest.MonkeyPatch) -> None:
        gone = getattr(guards, name)
        for which in ("OURS", "ALL"):
            to.setattr(guards, which, tuple(one for one in getattr(guards, which) if one is not gone))
        to.setattr(guards, name, lambda *_: "")

    return patch


def _by(module: Any, name: str, answer: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A predicate answers always the same."""
    return lambda to: to.setattr(module, name, lambda *_: answer)


def _always_fresh(to: pytest.MonkeyPatch) -> None:
    for module in (judge, pilot):
        to.setattr(module, "is_fresh", lambda *_: True)


def _any_one_place(to: pytest.MonkeyPatch) -> None:
    to.setattr(judge, "enough_agree", lambda votes, *_: votes > 0)


def _any_word_is_yes(to: pytest.MonkeyPatch) -> None:
    shipped = machine.step
    to.setattr(pilot, "step", lambda site, seen, rules, me: shipped(site, seen, replace(rules, automatic=True), me))


def _whatever_the_epoch(to: pytest.MonkeyPatch) -> None:
    shipped = pilot._Timely
    to.setattr(pilot, "_Timely", lambda *args, **more: shipped(*args, **{**more, "agreed": None}))


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    **{
        name: _objecting(name)
        for name in (
            "just_started",
            "clock_jumped",
            "clock_off",
            "not_long_enough",
            "paused",
            "in_maintenance",
            "cooling_down",
            "too_many_moves",
            "unfit",
            "too_far_behind",
        )
    },
    "tells_our_time": _by(judge, "tells_our_time", answer=True),
    "has_lost_its_network": _by(judge, "has_lost_its_network", answer=False),
    "enough_agree": _any_one_place,
    "is_fresh": _always_fresh,
    "automatic": _any_word_is_yes,
    "decided_long_ago": _by(pilot, "decided_long_ago", answer=False),
    "is_overtaken": _by(pilot, "is_overtaken", answer=False),
    "agreed": _whatever_the_epoch,
}


@contextmanager
def without(guard: str) -> Iterator[None]:
    """Without one of them."""
    with pytest.MonkeyPatch.context() as to:
        GUARDS[guard](to)
        yield
