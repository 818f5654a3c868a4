"""Committing a run: one run, one snapshot per site, whoever else works on it and whenever one dies.

    1  every pack is stored, every index file is put                        (the engine's pass)
    2  our lock still exists; the index files that the pass relied on still do
    3  put-if-absent of holdfast/commits/<run>, the sealed snapshot itself
    4  our lock is looked at once more; those very bytes under snapshots/<their SHA-256>

Killed between 3 and 4, the next attempt finds the commit. Its snapshot is there: done. Its tombstone is
there: the run is superseded. Else it walks the winner's trees: where all is indexed and not absent it
puts the winner's bytes; where something is missing it replaces the commit, by compare-and-swap, with its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum, auto

from shared.errors import BackupError
from shared.repository.absent import absent_packs
from shared.repository.committed import COMMITS, FORGOTTEN, SNAPSHOTS
from shared.repository.errors import Damaged
from shared.repository.indexcache import IndexCache, Location
from shared.repository.locks import RepositoryLock
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, decode_snapshot
from shared.repository.tree import decode_tree
from shared.storage.api import MissingObject

_WALK_BATCH, _DATA_BATCH = 4096, 1 << 16  # trees, and blobs of files, that are looked up together

LookAfter = Callable[[], None]  # what is to be done now and then in a long stretch: keep the lock, heed a signal


class State(Enum):
    """What an earlier attempt of the run left."""

    NONE = auto()  # no commit
    DONE = auto()  # its snapshot is there
    FORGOTTEN = auto()  # its snapshot was forgotten on purpose
    OPEN = auto()  # committed, its snapshot not put yet


@dataclass(slots=True)
class Commit:
    """A run's commit as found: `sealed` are the snapshot's stored bytes, `version` is for compare-and-swap."""

    state: State
    sealed: bytes = b""
    version: str = ""
    snapshot: Snapshot | None = None

    @property
    def id(self) -> str:
        """The snapshot's id in hex."""
        return hashlib.sha256(self.sealed).hexdigest()


def find_commit(repo: Repository, run: str) -> Commit:
    """What earlier attempts of the run have committed. A commit that can't be read counts as open."""
    try:
        sealed, version = repo.store.get_versioned(COMMITS + run)
    except MissingObject:
        return Commit(State.NONE)
    commit = Commit(State.OPEN, sealed, version)
    try:
        commit.snapshot = decode_snapshot(repo.open_small(sealed), commit.id)
        commit.snapshot.size = len(sealed)
    except Damaged:
        return commit
    if _exists(repo, SNAPSHOTS + commit.id):
        commit.state = State.DONE
    elif _exists(repo, FORGOTTEN + commit.id):
        commit.state = State.FORGOTTEN
    return commit


def put_snapshot(
    repo: Repository, run: str, json: bytes, index: IndexCache, lock: RepositoryLock, look_after: LookAfter
) -> Commit:
    """Steps 3 and 4 for our own snapshot, or the end of whoever won. For `look_after` see `is_whole`.

    Returns the commit that stands, in state DONE or FORGOTTEN. Raises BackupError where others keep winning
    with commits that are not whole, Locked where our lock is gone, StorageError.
    """
    sealed = repo.seal_small(json)
    for _ in range(5):
        if repo.store.put_if_absent(COMMITS + run, sealed):
            return _publish(repo, sealed, lock)
        found = find_commit(repo, run)
        if found.state in (State.DONE, State.FORGOTTEN):
            return found
        if found.state is State.NONE:
            continue  # deleted in between: try again
        if found.snapshot is not None and is_whole(repo, found.snapshot, index, look_after):
            return _publish(repo, found.sealed, lock)
        if repo.store.compare_and_swap(COMMITS + run, sealed, version=found.version):
            return _publish(repo, sealed, lock)
    raise BackupError(f"run {run} could not be committed: others keep committing it", hint="Run it again")


def finish_open(repo: Repository, commit: Commit, lock: RepositoryLock) -> Commit:
    """Step 4 for a commit that was found whole. Raises Locked, StorageError."""
    return _publish(repo, commit.sealed, lock)


def is_whole(repo: Repository, snapshot: Snapshot, index: IndexCache, look_after: LookAfter) -> bool:
    """Whether everything that a snapshot refers to is indexed, in packs that are there: the listing is compared.

    Costs a listing of all packs and a walk of all trees, which may take hours, and is asked only after a kill
    between two steps. `look_after` is called with each tree.
    """
    index.refresh()  # the winner's own index files may be newer than what we have read
    return is_stored(repo, snapshot.tree, index, absent_packs(repo.store, index.packs(), look_after), look_after)


def is_stored(
    repo: Repository, root: bytes, index: IndexCache, absent: AbstractSet[bytes], look_after: LookAfter
) -> bool:
    """Whether a tree and all that it refers to is indexed, in packs that are not `absent`. See `is_whole`."""
    seen = {root}
    pending = [root]
    data: set[bytes] = set()
    while pending:
        trees = pending[-_WALK_BATCH:]
        del pending[-_WALK_BATCH:]
        found = index.lookup(BlobType.TREE, trees, absent)
        for tree, location in zip(trees, found, strict=True):
            if location is None:
                return False
            look_after()
            try:
                nodes = decode_tree(_load_tree(repo, tree, location))
            except (Damaged, MissingObject):
                return False
            for node in nodes:
                data.update(node.content or ())
                if node.subtree is not None and node.subtree not in seen:
                    seen.add(node.subtree)
                    pending.append(node.subtree)
            if len(data) >= _DATA_BATCH:
                if any(index.missing(BlobType.DATA, list(data), absent)):
                    return False
                data.clear()
    return not any(index.missing(BlobType.DATA, list(data), absent))


def _load_tree(repo: Repository, tree: bytes, location: Location) -> bytes:
    blob = Blob(tree, BlobType.TREE, location.offset, location.length, location.uncompressed)
    return repo.load_blob(location.pack, blob)


def _publish(repo: Repository, sealed: bytes, lock: RepositoryLock) -> Commit:
    # A winner that slept since its commit may have been unlocked, pruned and superseded.
    lock.ensure_held()
    commit = Commit(State.DONE, sealed)
    repo.store.put(SNAPSHOTS + commit.id, sealed, sha256=commit.id)
    commit.snapshot = decode_snapshot(repo.open_small(sealed), commit.id)
    commit.snapshot.size = len(sealed)
    return commit


def _exists(repo: Repository, key: str) -> bool:
    try:
        repo.store.stat(key)
    except MissingObject:
        return False
    return True
