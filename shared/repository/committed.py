"""What a run has committed to a repository, for those who only look. How it is committed: `workers.backup.commit`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from shared.repository.snapshot import Snapshot, decode_snapshot
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.repository.repository import Repository

COMMITS, SNAPSHOTS = "holdfast/commits/", "snapshots/"
FORGOTTEN = "holdfast/forgotten/"  # the tombstones of snapshots, by their ids


def committed(repo: Repository, run: str) -> Snapshot | None:
    """The snapshot of a run, by its commit: two requests. None where it is not there, or not yet, or no more.

    Raises StorageError, and Damaged where the commit can't be read.
    """
    try:
        sealed = repo.store.get(COMMITS + run)
        name = hashlib.sha256(sealed).hexdigest()
        repo.store.stat(SNAPSHOTS + name)
    except MissingObject:
        return None
    return decode_snapshot(repo.open_small(sealed), name)
