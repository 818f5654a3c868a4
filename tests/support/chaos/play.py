"""A chaos run as a test: it says how far it is, writes its report, and fails by what is wrong."""

from __future__ import annotations

import tempfile

import pytest

from tests.support.chaos.everything import run_chaos
from tests.support.chaos.plan import Scale
from tests.support.chaos.report import summary, write_report


def play(seed: int, seconds: float, pace: float, scale: Scale, report: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Run it, and assert that nothing is wrong."""

    def say(line: str) -> None:
        with capfd.disabled():
            print(f"\n  {line}", end="", flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as directory:
        outcome = run_chaos(directory, seed, seconds, pace, say, scale)
    say(summary(outcome))
    if report:
        write_report(outcome, report)
    assert outcome.failures == [], "\n".join(outcome.failures)
