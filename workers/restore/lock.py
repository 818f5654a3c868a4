"""The lock of whoever reads a repository for long: it keeps a prune from taking packs away meanwhile."""

from __future__ import annotations

import os

from shared.repository.locks import RepositoryLock
from shared.repository.repository import VERSION, Repository
from shared.storage.api import Denied, Permanent, StoreFull


def begin_lock(repo: Repository, notes: list[str]) -> RepositoryLock | None:
    """A shared lock, begun and to be confirmed; None where there can be none, which is told in `notes`."""
    if repo.version != VERSION:
        notes.append("no lock: the repository's format version is only read")
        return None
    lock = repo.lock(holder=f"{os.uname().nodename}/holdfast/restore-{os.getpid()}")
    try:
        lock.begin()
    except (Denied, Permanent, StoreFull) as error:
        notes.append(f"no lock, as the site can't be written to: {error}")
        return None
    return lock
