"""Which snapshot is meant, and where in it to begin."""

from __future__ import annotations

from shared.errors import RestoreError
from shared.repository.errors import Damaged
from shared.repository.gojson import parse_time, time_string
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, decode_snapshot
from shared.repository.tree import decode_tree
from shared.storage.api import MissingObject
from workers.access import WholeFirst
from workers.restore.places import shown

_ID_LENGTH = 64


def choose_snapshot(
    repo: Repository, wanted: str, *, source: str = "", before: str = "", notes: list[str] | None = None
) -> Snapshot:
    """The snapshot of this id, of an id that begins so, or the latest of `source` not later than `before`.

    For "latest" one that can't be read is passed over, and told in `notes`. Raises RestoreError, Damaged,
    StorageError.
    """
    if wanted != "latest":
        return _by_id(repo, wanted.lower())
    try:
        limit = parse_time(before) if before else None
    except Damaged as error:
        raise RestoreError(f"{before!r} is no time", hint="Write it as 2026-03-01T12:00:00Z") from error

    def passed_over(error: Damaged) -> None:
        if notes is not None:
            notes.append(f"passed over: {error}")

    found: Snapshot | None = None
    for snapshot in repo.snapshots(passed_over):
        if (source and snapshot.source != source) or (limit is not None and snapshot.time > limit):
            continue
        if found is None or snapshot.time > found.time:
            found = snapshot
    if found is None:
        of = f" of source {source}" if source else ""
        until = f" until {before}" if before else ""
        raise RestoreError(
            f"there is no snapshot{of}{until} at {repo.store.url}", hint="`holdfast snapshots` lists what is there"
        )
    return found


def _by_id(repo: Repository, start: str) -> Snapshot:
    if len(start) == _ID_LENGTH:
        names = [start]
    else:
        names = [info.key.rpartition("/")[2] for info in repo.store.list("snapshots/")]
        names = [name for name in names if start and name.startswith(start)]
    if len(names) > 1:
        raise RestoreError(f"{start} is the beginning of {len(names)} snapshots' ids", hint="Give more of the id")
    try:
        if names:
            return decode_snapshot(repo.load("snapshots", names[0]), names[0])
    except MissingObject:
        pass
    raise RestoreError(
        f"there is no snapshot {start} at {repo.store.url}", hint="`holdfast snapshots` lists what is there"
    )


def find_tree(repo: Repository, index: WholeFirst, snapshot: Snapshot, base: bytes) -> bytes:
    """The id of the tree of the directory `base` (relative, b"" for the top). Raises RestoreError, Damaged."""
    tree = snapshot.tree
    for name in base.split(b"/") if base else []:
        (location,) = index.lookup(BlobType.TREE, [tree])
        if location is None:
            raise Damaged(f"snapshot {snapshot.id[:8]}: the tree {tree.hex()[:16]} above {shown(base)} is in no index")
        pack, offset, length, uncompressed = location
        raw = repo.load_blob(pack, Blob(tree, BlobType.TREE, offset, length, uncompressed))
        node = next((node for node in decode_tree(raw, []) if node.name == name), None)
        if node is None or node.subtree is None:
            raise RestoreError(
                f"snapshot {snapshot.id[:8]} of {time_string(snapshot.time)} holds no directory /{shown(base)}"
            )
        tree = node.subtree
    return tree
