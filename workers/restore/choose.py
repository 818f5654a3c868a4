"""Which snapshot is meant, and where in it to begin."""

from __future__ import annotations

import os

import orjson

from shared.errors import RestoreError
from shared.repository.errors import Damaged
from shared.repository.gojson import json_string, parse_time, time_string
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, decode_snapshot
from shared.repository.tree import Node, decode_tree
from shared.storage.api import MissingObject
from workers.access import WholeFirst
from workers.restore.places import join, shown

_ID_LENGTH = 64
_REPLACED = "\ufffd".encode()


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

    def passed_over(_: str, error: Damaged) -> None:
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
        nodes = _nodes(repo, index, snapshot, tree, base)
        node = next((node for node in nodes if node.name == name), None)
        if node is None or node.subtree is None:
            raise RestoreError(
                f"snapshot {snapshot.id[:8]} of {time_string(snapshot.time)} holds no directory /{shown(base)}"
            )
        tree = node.subtree
    return tree


def find_file(repo: Repository, index: WholeFirst, snapshot: Snapshot, path: bytes) -> Node:
    """The file at `path` (relative). Raises RestoreError, Damaged."""
    above, _, name = path.rpartition(b"/")
    nodes = _nodes(repo, index, snapshot, find_tree(repo, index, snapshot, above), path)
    node = next((node for node in nodes if node.name == name), None)
    if node is None or node.type != "file":
        what = f"what is a {node.type}, and no file, at" if node else "no"
        raise RestoreError(
            f"snapshot {snapshot.id[:8]} of {time_string(snapshot.time)} holds {what} /{shown(path)}",
            hint="`holdfast dump` writes a directory as a tar" if node else "`holdfast find` looks in all snapshots",
        )
    return node


def stream_path(snapshot: Snapshot) -> str:
    """The path of the one file that a stream's snapshot holds; empty for others."""
    paths = snapshot.paths
    return os.fsdecode(paths[0]) if len(paths) == 1 and paths[0].startswith(b"/stream/") else ""


def find_paths(repo: Repository, index: WholeFirst, snapshot: Snapshot) -> list[bytes]:
    """The paths that were backed up, relative, in their very bytes.

    A snapshot's JSON has U+FFFD for each byte that is not UTF-8; the names in its trees are whole. Two paths
    may look the same there, so each that fits is meant. What fits none, as the paths of a restic backup of a
    relative path may, stays as it is recorded. Raises StorageError.
    """
    found: dict[bytes, None] = {}
    for recorded in snapshot.paths:
        names = [name for name in recorded.split(b"/") if name]
        fitting = _fitting(repo, index, snapshot, names) if _REPLACED in recorded else []
        found.update(dict.fromkeys(fitting or [b"/".join(names)]))
    return list(found)


def _fitting(repo: Repository, index: WholeFirst, snapshot: Snapshot, names: list[bytes]) -> list[bytes]:
    """The paths in the trees that a snapshot's JSON has as `names`."""
    level: list[tuple[bytes, bytes | None]] = [(b"", snapshot.tree)]
    broken: list[bytes] = []
    for depth, name in enumerate(names):
        below: list[tuple[bytes, bytes | None]] = []
        for path, tree in level:
            if tree is None:
                continue
            try:
                nodes = _nodes(repo, index, snapshot, tree, path)
            except (Damaged, MissingObject):  # the walk comes by here again, and tells what is damaged
                broken.append(b"/".join([*filter(None, [path]), *names[depth:]]))
                continue
            below += [(join(path, node.name), node.subtree) for node in nodes if _as_recorded(node.name) == name]
        level = below
    return [path for path, _ in level] + broken


def _as_recorded(name: bytes) -> bytes:
    recorded: str = orjson.loads(json_string(name))
    return recorded.encode()


def _nodes(repo: Repository, index: WholeFirst, snapshot: Snapshot, tree: bytes, path: bytes) -> list[Node]:
    (location,) = index.lookup(BlobType.TREE, [tree])
    if location is None:
        raise Damaged(f"snapshot {snapshot.id[:8]}: the tree {tree.hex()[:16]} above {shown(path)} is in no index")
    pack, offset, length, uncompressed = location
    raw = repo.load_blob(pack, Blob(tree, BlobType.TREE, offset, length, uncompressed))
    return decode_tree(raw, [])
