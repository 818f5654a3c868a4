"""Bringing back what was overwritten, in a bucket that keeps versions.

What is named by its hash never changes, so two versions of such an object that differ are one too many: somebody has
overwritten it. Where the newest does not hash to the name and an older one does, the older bytes are put again. Nothing
is removed, and what was deleted stays so: prune deletes, and nobody else may.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.storage.api import ObjectVersion, VersionedStore

_FOLDERS = ("keys/", "snapshots/", "index/", "data/")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Healing:
    """Keys below the repository."""

    looked_at: int = 0
    healed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # overwritten, and no older version is whole


def heal(store: VersionedStore, look_after: Callable[[], None] = lambda: None, *, dry_run: bool = False) -> Healing:
    """Look at every version of what a repository holds, and bring back what was overwritten.

    `look_after` is called for each object, and may raise. In a `dry_run` nothing is put. Raises StorageError.
    """
    done = Healing()
    for folder in _FOLDERS:
        for key, versions in groupby(store.versions(folder), lambda one: one.key):
            look_after()
            done.looked_at += 1
            name = key.rpartition("/")[2]
            there = list(versions)
            if not _ID.fullmatch(name) or not there[0].etag or len({one.etag for one in there}) == 1:
                continue
            whole = next(_whole(store, name, there), None)
            if whole is None:
                done.lost.append(key)
            elif whole[0] is not there[0]:
                if not dry_run:
                    store.put(key, whole[1], sha256=name)
                done.healed.append(key)
    return done


def _whole(store: VersionedStore, name: str, versions: list[ObjectVersion]) -> Iterator[tuple[ObjectVersion, bytes]]:
    """Those whose bytes hash to the name, the newest first."""
    for one in versions:
        if not one.etag:
            continue
        try:
            data = store.get_version(one.key, one.version)
        except MissingObject:
            continue  # purged since the listing
        if hashlib.sha256(data).hexdigest() == name:
            yield one, data
