"""A larger fleet, two schedulers, four workers and a Valkey, each killed again and again, at moments from a seed.

`make soak` does it for an hour with thousands of sources and the real leases, and writes docs/soak.md.
"""

from __future__ import annotations

import pytest

from tests.support.chaos.plan import KILLS, Scale
from tests.support.chaos.play import play

SOURCES, SECONDS, PACE, SEED = 40, 10.0, 5.0, 11


def test_soak(pytestconfig: pytest.Config, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing due is lost or run twice, every end is true, and nothing is left behind."""
    sources, seconds = pytestconfig.getoption("--soak-sources"), pytestconfig.getoption("--chaos-seconds")
    scale = Scale(sources=sources or SOURCES, workers=4, faults=KILLS, checked=200 if sources else 20)
    seed = pytestconfig.getoption("--chaos-seed") or SEED
    report = pytestconfig.getoption("--chaos-report")
    play(seed, seconds or SECONDS, 1.0 if seconds else PACE, scale, report, capfd)
