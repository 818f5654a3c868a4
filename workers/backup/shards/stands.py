"""Whether what a shard has stored is all there still, told from two listings, without a walk of its trees.

A shard's trees refer to blobs that are listed by index files which were there at its end, in packs that did not count
as absent then. An index file never changes. So where the same index files are there as at its end, of those written by
then, and the same packs count as absent, nothing of it can be missing. Else its trees are walked: it may all be there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from shared.storage.api import ObjectStore
from workers.backup.spec import BackupResult


@dataclass(slots=True)
class ShardResult(BackupResult):
    """What a shard left behind: its tree, and what that rests on. Its time is when it began, by its worker's clock."""

    until: float = 0.0  # when the newest index file was written, by the store's clock
    index: str = ""  # a digest of the index files written until then
    absent: str = ""  # a digest of the packs that counted as absent


def rests_on(store: ObjectStore, relied_on: AbstractSet[str], absent: Iterable[bytes]) -> dict[str, Any]:
    """The fields of a ShardResult at a shard's end; empty where an index file that it relied on is gone."""
    listed = _listed(store)
    if not relied_on <= listed.keys():
        return {}
    until = max(listed.values(), default=0.0)
    return {"until": until, "index": _digest_until(listed, until), "absent": _digest(one.hex() for one in absent)}


class Standing:
    """The index files and the absent packs of now, for whoever finishes a run: under a lock of his own."""

    def __init__(self, store: ObjectStore, absent: Iterable[bytes]) -> None:
        self._listed = _listed(store)
        self._absent = _digest(one.hex() for one in absent)

    def holds(self, done: Mapping[str, Any]) -> bool:
        """Whether a shard's result (as JSON) certainly stands."""
        if not done.get("index"):
            return False
        index = _digest_until(self._listed, float(done["until"]))
        return (done["absent"], done["index"]) == (self._absent, index)


def _listed(store: ObjectStore) -> dict[str, float]:
    return {info.key.rpartition("/")[2]: info.modified for info in store.list("index/")}


def _digest_until(listed: Mapping[str, float], until: float) -> str:
    return _digest(name for name, modified in listed.items() if modified <= until)


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(names)).encode()).hexdigest()
