"""What a run says of itself: the snapshot's fields and tags, and the result that its caller gets."""

from __future__ import annotations

import os

from shared.errors import UsageError
from shared.repository.gojson import time_string
from shared.repository.keys import username
from shared.repository.snapshot import Snapshot, encode_snapshot, make_tags
from shared.version import VERSION
from workers.backup.commit import Commit, State
from workers.backup.engine.coordinator import Counts
from workers.backup.engine.sources import Resolved
from workers.backup.spec import BackupResult, BackupSpec


def check_tags(labels: list[str]) -> None:
    """Raise UsageError for a label that restic could not keep as one tag."""
    for label in labels:
        if "," in label:
            raise UsageError(
                f"the label {label!r} holds a comma, which separates tags", hint="Use another character in its place"
            )


def describe(
    spec: BackupSpec,
    resolved: Resolved,
    counts: Counts,
    tree: bytes,
    parent: Snapshot | None,
    *,
    began: int,
    now: int,
) -> tuple[Snapshot, bytes]:
    """The snapshot of a pass, and its JSON. `began` by this host's clock, `now` by the store's, in nanoseconds."""
    # A full by hand has no slot: its start is what later snapshots are to carry on.
    full_slot = spec.slot or time_string(began)
    last_full = full_slot if spec.kind == "full" else (parent.tag("lastfull") if parent else "")
    files = counts.files_new + counts.files_changed + counts.files_unmodified
    snapshot = Snapshot(
        time=now,
        tree=tree,
        paths=resolved.paths,
        hostname=spec.host or os.uname().nodename,
        username=username(),
        uid=os.getuid(),
        gid=os.getgid(),
        excludes=resolved.selection.excludes,
        tags=make_tags(
            source=spec.tagged,
            run=spec.run,
            kind=spec.kind,
            slot=spec.slot,
            last_full=last_full,
            unreadable=counts.problems,
            began=began,
            more=spec.labels,
        ),
        parent=parent.id if parent else "",
        program_version=f"holdfast {VERSION}",
        summary={
            "backup_start": time_string(began),
            "backup_end": time_string(now),
            "files_new": counts.files_new,
            "files_changed": counts.files_changed,
            "files_unmodified": counts.files_unmodified,
            "data_added": counts.bytes_added,
            "total_files_processed": files,
            "total_bytes_processed": counts.bytes_processed,
        },
    )
    return snapshot, encode_snapshot(snapshot)


def existing_result(spec: BackupSpec, commit: Commit, duration: float) -> BackupResult:
    """The result of a run whose commit stands, as far as the snapshot itself tells; it may be forgotten since."""
    snapshot = commit.snapshot
    return BackupResult(
        snapshot=commit.id,
        kind=spec.kind,
        source=spec.source,
        repository=spec.repository,
        site=spec.site.id,
        time=time_string(snapshot.time) if snapshot else "",
        tree=snapshot.tree.hex() if snapshot else "",
        complete=snapshot.complete if snapshot else False,
        unreadable=snapshot.unreadable if snapshot else 0,
        existed=True,
        superseded=commit.state is State.FORGOTTEN,
        duration=duration,
    )


def fill_in(result: BackupResult, counts: Counts) -> None:
    """Tell what a pass has met."""
    result.problems = counts.listed
    result.unreadable = counts.problems
    result.complete = not counts.problems
    result.files_new = counts.files_new
    result.files_changed = counts.files_changed
    result.files_unmodified = counts.files_unmodified
    result.files_gone = counts.files_gone
    result.dirs = counts.dirs
    result.bytes_processed = counts.bytes_processed
    result.bytes_read = counts.bytes_read
    result.bytes_added = counts.bytes_added
