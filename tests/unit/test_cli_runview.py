"""How runs are shown: cli.runview, and the rate and time left of cli.progress."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from cli import format as show
from cli.progress import pace
from cli.runview import as_json, details, table, ways_out
from cli.terminal import shown
from shared.ledger.model import Attempt, Run, RunKind, RunRequest, RunState

NOW = 1_772_420_000.0
ID = "8f21" * 8
REQUEST = RunRequest(ID, RunKind.FULL, "db/orders", "all", "2026-03-02T02:00:00Z", "backup")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local time is UTC."""
    monkeypatch.setattr(show, "moment", show.iso)


RUNNING = Run(
    REQUEST,
    RunState.RUNNING,
    attempt=2,
    opened=NOW - 100,
    started=NOW - 10,
    owner="w@h:7",
    progress={"files": 3, "bytes": 50_000_000, "bytes_total": 200_000_000, "current": "/srv/\x1bevil"},
    error="its worker stopped answering",
    attempts=(Attempt(1, "w@g:5", NOW - 90, NOW - 30, "its worker stopped answering"),),
)
FAILED = Run(
    REQUEST,
    RunState.FAILED,
    attempt=1,
    opened=NOW - 100,
    started=NOW - 90,
    ended=NOW - 60,
    owner="w@h:7",
    error="denied: PUT repos/db/data " + "x" * 100,
    exit_code=32,
    attempts=(Attempt(1, "w@h:7", NOW - 90, NOW - 60, "denied"),),
)
QUEUED = Run(RunRequest(ID, RunKind.VERIFY, "web1", queue="maintenance"), RunState.QUEUED, rings=2, opened=NOW - 100)


def plain(lines: list[str]) -> list[str]:
    """As a terminal gets them, without colour."""
    return [click.unstyle(shown(line)) for line in lines]


def test_a_list_of_runs() -> None:
    """One line each; an error is cut, and a run that waits has taken no time."""
    lines = plain(table([RUNNING, FAILED, QUEUED], NOW))
    assert lines[0].split() == ["ID", "STATE", "KIND", "SOURCE", "WHEN", "TOOK"]
    assert lines[1].startswith("8f218f218f21  running  backup-full  db/orders  10 s ago    10 s  its worker stopped")
    assert (len(lines[2]) < 160, lines[2].endswith("xxx...")) == (True, True)
    assert lines[3] == "8f218f218f21  queued   verify       web1       1m 40s ago  -"
    assert table([], NOW) == ["there are no such runs"]


def test_a_run_under_way_in_full() -> None:
    """With its progress, rate and time left, and the attempts before; control characters are shown escaped."""
    lines = plain(details(RUNNING, NOW))
    assert "so far   3 files, 50 MB of 200 MB, 5.0 MB/s, 30 s left: /srv/\\x1bevil" in lines
    assert "attempt  1 by w@g:5, 2026-03-02T02:51:50Z, 1m 00s: its worker stopped answering" in lines
    assert lines[-2:] == ["try      holdfast runs follow 8f218f218f21", "try      holdfast runs cancel 8f218f218f21"]


def test_a_failed_run_in_full() -> None:
    """The error whole, its exit code, and the way out."""
    lines = plain(details(FAILED, NOW))
    assert f"error    {FAILED.error} (exit code 32)" in lines
    assert lines[-1] == "try      holdfast runs retry 8f218f218f21 --follow"


def test_what_a_backup_did_is_said_as_the_backup_says_it() -> None:
    """And what it could not read, below."""
    result = {"snapshot": "4231" * 16, "source": "db/orders", "site": "fra", "kind": "full", "files_new": 1204}
    result |= {"complete": False, "unreadable": 1, "problems": ["/srv/x: permission denied"]}
    lines = plain(details(replace(RUNNING, state=RunState.INCOMPLETE, ended=NOW, error="", result=result), NOW))
    assert "result   snapshot 42314231 of db/orders at fra: full, INCOMPLETE: 1 unreadable" in lines
    assert "problem  /srv/x: permission denied" in lines
    assert lines[-1] == "try      holdfast snapshots db/orders"


def test_a_run_that_nobody_takes() -> None:
    """Says so, and sends to `status`, which knows whether a worker serves the queue."""
    lines = plain(details(QUEUED, NOW))
    assert "state    queued for 1m 40s, rung for 2 times; no worker has it" in lines
    assert any("holdfast status" in command for command in ways_out(QUEUED))


def test_a_run_for_programs() -> None:
    """Times in UTC, what is not there is null."""
    got = as_json(FAILED)
    assert (got["id"], got["state"], got["ended"], got["exit_code"]) == (ID, "failed", "2026-03-02T02:52:20Z", 32)
    assert (got["parent"], as_json(QUEUED)["started"]) == (None, None)
    assert got["attempts"][0]["error"] == "denied"


@pytest.mark.parametrize(
    ("event", "count", "seconds", "said"),
    [
        ({"bytes": 150, "bytes_total": 250}, 100, 10.0, "10 B/s, 10 s left"),
        ({"bytes": 150}, 100, 10.0, "10 B/s"),
        ({"bytes": 150, "bytes_total": 150}, 100, 10.0, "10 B/s"),
        ({"bytes": 150, "bytes_total": 250}, 0, 10.0, ""),
        ({}, 0, 0.0, ""),
    ],
)
def test_rate_and_time_left(event: dict[str, int], count: int, seconds: float, said: str) -> None:
    """As far as they can be told."""
    assert pace(event, count, seconds) == said


def test_what_a_hosts_agent_tells_says_so_and_stays_in_its_column() -> None:
    """Lines of an error are no lines of ours; who tells of another's source is named."""
    forged = replace(FAILED, host="web1", error="x\ntry      rm -rf /\x1b[2J")
    lines = "\n".join(plain(details(forged, NOW))).splitlines()
    assert "host     web1, whose agent tells all of this" in lines
    assert [line for line in lines if "rm -rf" in line] == ["         try      rm -rf /\\x1b[2J (exit code 32)"]
    assert "db/orders on web1" in plain(table([forged], NOW, {"db/orders": "db"}))[1]
    assert "db/orders on" not in plain(table([forged], NOW, {"db/orders": "web1"}))[1]
