"""A disk that is full: under the cache, under the logs, under what a command writes. Backups go on or say why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.ledger.model import RunKind, RunState
from shared.messaging.client import open_and_ring
from tests.support import forked
from tests.support.command import environment, open_shop
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.namespaces import run_mounted

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
BACKUPS = """
import json, os, subprocess, sys
cache, conf = sys.argv[1:]
found = []
for full in ((), ("--full",)):
    command = [sys.executable, "-m", "cli.main", "backup", "data", "--direct", *full]
    done = subprocess.run(command, cwd=conf, capture_output=True, text=True)
    found.append((done.returncode, done.stdout + done.stderr))
print(json.dumps([found, os.statvfs(cache).f_bavail]))
"""


@pytest.mark.parametrize("size", ["4k", "48k"])
def test_a_full_disk_under_the_cache_harms_no_repository(tmp_path: Path, size: str) -> None:
    """What can do without the cache does; else the message names the place, with exit code 40, and nothing is lost."""
    shop = open_shop(tmp_path)
    for number in range(300):
        (shop.data / f"more-{number}").write_bytes(os.urandom(2000))
    cache = tmp_path / "cache"
    cache.mkdir()
    config = shop.conf / "holdfast.yaml"
    config.write_text(config.read_text() + f"\ncache_dir: {cache}\n")
    before = shop.ask("backup", "data", "--direct")["snapshot"]
    (shop.data / "new").write_text("new")
    printed = run_mounted(BACKUPS, str(cache), str(shop.conf), mounts=f'mount -t tmpfs -o size={size} tmpfs "$1"')
    found, left = json.loads(printed)
    assert left < 4  # blocks: it was full
    for code, said in found:
        assert code in {0, 40}, said
        assert code == 0 or (f"space and rights of {cache}" in said and "No space left on device" in said)
    made = [code for code, _ in found].count(0)
    listed = [one["id"] for one in shop.ask("snapshots", "data")["snapshots"]]
    assert (len(listed), before in listed) == (1 + made, True)
    assert "\nwhole" in shop.run("verify", "data", "--data", "--direct")
    assert shop.ask("backup", "data", "--direct")["complete"] is True


def test_logs_that_can_not_be_written_stop_no_run(tmp_path: Path) -> None:
    """Worker, scheduler and beat with a full disk for a log: what is due is backed up all the same."""
    with own_ledger(str(tmp_path / "valkey")) as (ledger, server), open("/dev/full", "wb") as log:
        small = SmallFleet(str(tmp_path), broker=server.url)
        modules = (["tests.support.fake_worker"], ["scheduler", "worker"], ["scheduler", "beat", "--tick", "0.5"])
        processes = [
            forked.Popen([sys.executable, "-m", *module, "--config", small.path], cwd=ROOT, stdout=log, stderr=log)
            for module in modules
        ]
        try:
            until(lambda: [run.state for run in ledger.recent()] == [RunState.SUCCEEDED], what="what is due")
            run_id = open_and_ring(small.fleet, RunKind.INCREMENTAL, "web1")
            until(lambda: (run := ledger.get(run_id)) and run.state is RunState.SUCCEEDED, what="a run by hand")
            assert [process.poll() for process in processes] == [None, None, None]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(40)


def test_output_that_can_not_be_written_is_said_and_is_no_bug(tmp_path: Path) -> None:
    """On the other stream, with a way out; no trace is written."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "version"],
            cwd=tmp_path,
            env={**environment(), "TMPDIR": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: what this command writes: No space left on device\nhint: Free space there, and run it again\n",
    )
    assert list(tmp_path.iterdir()) == []
