"""The journal of a run: what it is read as, and how long one is kept that nobody removes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from workers.backup.journal import KEPT, Journal


def test_whoever_commits_removes_the_journals_of_the_forgotten(tmp_path: Path) -> None:
    """Its own, and those a week old, of runs that were cancelled or ended elsewhere; not those of runs under way."""
    journals = {run: Journal(str(tmp_path), "repository", "a", run) for run in ("mine", "forgotten", "young")}
    for journal in journals.values():
        journal.add("aa" * 32)
    folder = tmp_path / "journal"
    for age, run in ((KEPT + 60, "forgotten"), (KEPT - 60, "young")):
        path = Path(journals[run]._path)
        os.utime(path, (time.time() - age,) * 2)
    journals["mine"].remove()
    assert {run: journal.read() for run, journal in journals.items()} == {
        "mine": [],
        "forgotten": [],
        "young": ["aa" * 32],
    }
    assert len(list(folder.iterdir())) == 1
    journals["mine"].remove()  # no error where it is gone
