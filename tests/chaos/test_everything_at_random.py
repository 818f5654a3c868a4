"""Two hundred sources with constant work, and everything that can die, freeze or go away does, drawn from a seed.

`make chaos ARGS="--chaos-seconds=3600"` does the same for an hour, with the real leases, and writes docs/chaos.md.
"""

from __future__ import annotations

import pytest

from tests.support.chaos.plan import Fault, Scale, draw_plan
from tests.support.chaos.play import play

SECONDS, PACE, SEED, CHECKED = 50.0, 5.0, 4, 50


def test_a_plan_is_its_seeds_and_holds_every_fault() -> None:
    """Drawn twice it is the same; another seed's is another; the short one and the long one leave nothing out."""
    for seconds, pace in ((SECONDS, PACE), (600.0, 1.0)):
        plan = draw_plan(SEED, seconds, pace)
        assert draw_plan(SEED, seconds, pace) == plan
        assert draw_plan(SEED + 1, seconds, pace) != plan
        assert {planned.fault for planned in plan} == set(Fault)
        assert max(planned.at + planned.lasts for planned in plan) <= seconds


def test_everything_at_random(pytestconfig: pytest.Config, capfd: pytest.CaptureFixture[str]) -> None:
    """Every run ends, truly; a slot has one snapshot; repositories are whole; nothing is left behind."""
    seconds = pytestconfig.getoption("--chaos-seconds")
    seed = pytestconfig.getoption("--chaos-seed") or SEED
    scale = Scale() if seconds else Scale(checked=CHECKED)
    play(seed, seconds or SECONDS, 1.0 if seconds else PACE, scale, pytestconfig.getoption("--chaos-report"), capfd)
