"""A repository with a history: snapshots of one tree, each with its run's commit, made in a moment."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

from shared.repository.committed import COMMITS, SNAPSHOTS
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, encode_snapshot, make_tags


def run_of(day: int) -> str:
    """The run of that day."""
    return f"{day:032x}"


def add_day(repo: Repository, like: Snapshot, day: int, *, source: str = "web1", unreadable: int = 0) -> str:
    """A snapshot of that day of March 2026 at noon, with the tree of another; its id."""
    time = int(datetime(2026, 3, day, 12, tzinfo=UTC).timestamp()) * 10**9
    slot = f"2026-03-{day:02}T12:00:00Z"
    run = run_of(day) if source == "web1" else hashlib.sha256(f"{source} {day}".encode()).hexdigest()[:32]
    tags = make_tags(
        source=source, run=run, kind="incremental", slot=slot, last_full="", unreadable=unreadable, began=time, more=[]
    )
    sealed = repo.seal_small(encode_snapshot(replace(like, time=time, tags=tags)))
    name = hashlib.sha256(sealed).hexdigest()
    repo.store.put_if_absent(COMMITS + run, sealed)
    repo.store.put(SNAPSHOTS + name, sealed, sha256=name)
    return name
