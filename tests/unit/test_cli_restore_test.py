"""What `holdfast restore-test` says."""

from __future__ import annotations

from cli.commands.restore_test import describe
from workers.maintenance.restore_test_spec import RestoreTestReport


def report() -> RestoreTestReport:
    """A sample that came back whole."""
    made = RestoreTestReport("fra", "web1", "web1", "ab" * 32, "2026-03-01T02:00:00.5Z")
    made.files, made.bytes, made.files_total, made.bytes_total = 100, 10**8, 2000, 10**10
    made.duration, made.rate = 2.0, 5e7
    return made


def test_a_sample_says_how_long_all_of_it_takes() -> None:
    """And one of all of it does not."""
    made = report()
    lines = describe(made.to_json())
    assert lines[0].startswith("restored 100 of 2,000 files, 100 MB, of web1 at fra as it was 2026-03-01 ")
    assert lines[1:] == [
        "in 2.0 s, 50 MB/s; at this rate all of it, 10 GB, takes at most about 3m 20s",
        "compared: all of it is as it was backed up",
    ]
    made.whole = True
    assert describe(made.to_json())[1] == "in 2.0 s, 50 MB/s"


def test_what_is_wrong_comes_first_and_the_verdict_last() -> None:
    """However much it is, it fits on a screen; and the report in the ledger."""
    made = report()
    for number in range(1000):
        made.add(f"/f{number}", "lost")
    assert describe(made.to_json())[-1] == "NOT RESTORED: 1,000 errors"
    assert (made.exit_code, len(made.problems)) == (3, 20)
    made.add_packs(f"{number:064x}" for number in range(1000))
    lines = describe(made.to_json())
    assert (lines[0], lines[20]) == ("/f0: lost", "and 980 more problems")
    assert lines[-2:] == ["and 90 more packs", "DAMAGED: 1,000 errors; see `holdfast verify web1 --data`"]
    assert (made.exit_code, len(made.damaged_packs), len(lines)) == (24, 100, 35)


def test_a_snapshot_that_can_not_be_read_is_damage() -> None:
    """Though an older one came back whole."""
    made = report()
    made.add_snapshot("cd" * 32, "it can't be read")
    lines = describe(made.to_json())
    assert (lines[0], made.exit_code) == (f"snapshots/{'cd' * 32}: it can't be read", 24)
    assert lines[-1].startswith("DAMAGED: 1 error;")


def test_without_files_there_is_no_verdict() -> None:
    """A note says why."""
    made = RestoreTestReport("fra", "web1", "web1", "ab" * 32, "2026-03-01T02:00:00Z", notes=["it holds no files"])
    lines = describe(made.to_json())
    assert (lines[0], len(lines)) == ("note: it holds no files", 2)
