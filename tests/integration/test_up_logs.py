"""The logs of `holdfast up`: bounded, and no backup stops for them."""

from __future__ import annotations

import os
from pathlib import Path

from shared.ledger.model import RunKind, RunState
from shared.messaging.client import ledger_of, open_and_ring
from tests.support.fleets import SmallFleet
from tests.support.ledgers import until
from tests.support.ups import Up
from workers.logfiles import AT_MOST

NAMES = ("valkey", "worker", "restore", "scheduler", "beat")


def test_a_disk_that_is_full_under_the_logs_stops_no_backup(tmp_path: Path) -> None:
    """Each write is refused, and two of the logs can't even be made."""
    small = SmallFleet(str(tmp_path))
    logs = Path(small.state_dir) / "log"
    logs.mkdir()
    for name in NAMES:
        (logs / f"{name}.log").symlink_to("/dev/full")
    for name in ("worker", "beat"):
        (logs / f"{name}.log").unlink()
        (logs / f"{name}.log").symlink_to("/dev/null/nothing")
    up = Up(small)
    try:
        until(lambda: "web1  backup-full  succeeded" in up.said, what="the first backup")
        ledger = ledger_of(small.fleet)
        by_hand = open_and_ring(small.fleet, RunKind.INCREMENTAL, "web1")
        until(lambda: (run := ledger.get(by_hand)) and run.state is RunState.SUCCEEDED, what="one by hand")
        ledger.client.close()
        assert "starting it again" not in up.said
    finally:
        assert up.stop() == 0


def test_a_log_that_has_grown_is_put_aside_while_all_runs_on(tmp_path: Path) -> None:
    """The worker's, Valkey's and those of the others; what comes later stands in new files."""
    small = SmallFleet(str(tmp_path))
    up = Up(small)
    try:
        until(lambda: "web1  backup-full  succeeded" in up.said, what="the first backup")
        logs = Path(small.state_dir) / "log"
        for name in ("worker", "valkey"):
            with (logs / f"{name}.log").open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(b"\n" * AT_MOST)
        until(lambda: all((logs / f"{name}.log.1").exists() for name in ("worker", "valkey")), what="a rotation")
        run = open_and_ring(small.fleet, RunKind.INCREMENTAL, "web1")
        until(lambda: f'"{run}"' in up.log("worker"), what="the worker's lines in the new file")
    finally:
        assert up.stop() == 0
    assert "User requested shutdown" in up.log("valkey")
    assert sorted(path.name for path in logs.iterdir()) == sorted(
        [f"{name}.log" for name in NAMES] + ["worker.log.1", "valkey.log.1"]
    )
