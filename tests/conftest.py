"""What every test may ask for."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

from tests.support.fixtures import minio_server, valkey_server

__all__ = ["minio_server", "valkey_server"]


# Where nothing keeps what is compiled, each of the many processes that tests start compiles Holdfast anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("holdfast", deadline=None)  # no test is timed: the machine may be busy
settings.load_profile("holdfast")


def pytest_configure() -> None:
    """Begin as in a terminal: whoever runs in the background, or under nohup, hands on that signals are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kill-points=all`: the kill tests at every operation, reads too, in every way (some minutes).

    `--chaos-seconds`: so many seconds of faults, with the real leases; see `make chaos`.
    """
    parser.addoption("--kill-points", choices=["some", "all"], default="some", help="how many moments to kill at")
    parser.addoption("--kill-seed", type=int, default=None, help="the seed that a failed test of kills has printed")
    parser.addoption(
        "--chaos-seconds", type=float, default=0.0, help="seconds of faults; 0: as in CI, at five times the pace"
    )
    parser.addoption("--chaos-seed", type=int, default=None, help="what the faults are drawn from")
    parser.addoption("--soak-sources", type=int, default=0, help="how many sources `make soak` has; 0: as in CI")
    parser.addoption("--chaos-report", default="", help="where the report goes, as Markdown")
