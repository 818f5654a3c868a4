"""`holdfast exporter` as a person or a service starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from tests.support.fleets import SmallFleet
from tests.support.monitoring import ROOT, get


@pytest.mark.parametrize(
    ("how", "metrics", "option"),
    [(signal.SIGTERM, "off", ["--listen", "127.0.0.1:0"]), (signal.SIGINT, "127.0.0.1:0", [])],
)
def test_it_serves_without_redis_and_ends_cleanly(
    tmp_path: os.PathLike[str], how: signal.Signals, metrics: str, option: list[str]
) -> None:
    """It says where it serves, answers while Redis is away, and a signal ends it with exit code 0."""
    small = SmallFleet(str(tmp_path), broker="redis://127.0.0.1:1/0", metrics=metrics)
    command = [sys.executable, "-m", "cli.main", "exporter", *option, "--json", "-c", small.path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            page = get(urlsplit(json.loads("".join(lines))["url"]).port or 0, "/metrics")[1]
            process.send_signal(how)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert "holdfast_ledger_up 0.0" in page


def test_without_a_configuration_it_does_not_start(tmp_path: os.PathLike[str]) -> None:
    """A file that is not there is named, with the exit code of a wrong configuration."""
    path = os.path.join(tmp_path, "none.yaml")
    command = [sys.executable, "-m", "cli.main", "exporter", "-c", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 10
    assert path in done.stderr


def test_switched_off_it_wants_an_address(tmp_path: os.PathLike[str]) -> None:
    """The configuration serves no metrics: who wants them all the same says where."""
    small = SmallFleet(str(tmp_path))
    command = [sys.executable, "-m", "cli.main", "exporter", "-c", small.path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 10
    assert "exporter.listen is off" in done.stderr
    assert "--listen names an address" in done.stderr
