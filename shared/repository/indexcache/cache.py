"""The index cache: which blobs a repository has at a site, and where, without holding them in memory.

Invariant: what it says is what the index files named by `index_ids` say, or it is built anew from them.
It is derived data. Deleting it, cutting it, changing any of its bytes at any time costs the time to
load index files again, and never gives a wrong answer or an error.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from shared.repository.indexcache.assembly import Assembly, Load, Progress
from shared.repository.indexcache.folder import Folder
from shared.repository.indexcache.layout import cache_key
from shared.repository.indexcache.scan import Scan
from shared.repository.indexcache.segment import Corrupt, Location
from shared.repository.pack import Blob, BlobType
from shared.storage.api import MissingObject, ObjectStore

INDEX = "index/"
ID_SIZE = 32
_Answer = TypeVar("_Answer")
_NONE: frozenset[bytes] = frozenset()


class IndexCache:
    """The index of one repository at one site. Not for several threads at once; a forked child may go on with it.

    Any method may raise what loading an index file raises (StorageError, Damaged), as a part of the cache
    that turns out corrupt is built anew at that moment.
    """

    def __init__(self, assembly: Assembly, store: ObjectStore, load: Load) -> None:
        self._assembly = assembly
        self._store = store
        self._load = load
        self._named: tuple[frozenset[bytes], frozenset[str]] = (_NONE, frozenset())

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        store: ObjectStore,
        repository_id: str,
        site: str,
        load: Load,
        progress: Progress | None = None,
    ) -> IndexCache:
        """Open, and bring up to date, the cache of this repository at this site below `directory`.

        `store` is seen from below the repository; only `index/` is listed. `load` gives the packs (id of 32
        bytes, blobs) of an index file by its hexadecimal id, and is called for those that are not cached;
        it may raise MissingObject. `progress` gets (index files loaded, index files to load).
        """
        key = cache_key(repository_id, site)
        folder = Folder(os.path.join(directory, "index-" + key.hex()[:32]))
        cache = cls(Assembly(folder, key, load, progress), store, load)
        cache.refresh()
        return cache

    def refresh(self) -> None:
        """List `index/` again: load what is new, drop what is gone."""
        names = (info.key.removeprefix(INDEX) for info in self._store.list(INDEX))
        self._assembly.settle(frozenset(bytes.fromhex(name) for name in names if _is_id(name)))

    def prepare(self, index: str, packs: Iterable[tuple[bytes, Sequence[Blob]]]) -> None:
        """Write down what an index file (hex) lists, so that a later `refresh` need not load it.

        The one method for another thread. What can't be written is left to `refresh`.
        """
        self._assembly.prepare(bytes.fromhex(index), packs)

    def close(self) -> None:
        """Close its files; nothing is known after that."""
        self._assembly.close()

    @property
    def index_ids(self) -> frozenset[str]:
        """The hexadecimal ids of the index files that it stands on."""
        indexes = self._assembly.indexes
        if self._named[0] is not indexes:  # asked for with every batch of a backup, so kept
            self._named = (indexes, frozenset(index.hex() for index in indexes))
        return self._named[1]

    @property
    def blob_count(self) -> int:
        """How many entries the index files have; a blob that lies in two packs counts twice."""
        return sum(segment.live_blobs for segment in self._assembly.segments)

    @property
    def pack_count(self) -> int:
        """How many packs the index files list; one that two of them list counts twice."""
        return sum(segment.live_packs for segment in self._assembly.segments)

    def lookup(
        self, blob_type: BlobType, ids: Sequence[bytes], absent: AbstractSet[bytes] = _NONE
    ) -> list[Location | None]:
        """Where each of these blobs lies, outside the packs (ids) in `absent`; None where it does not.

        `ids` are 32 bytes each, in any order; the answers come in that order. Ask for many at once.
        Raises ValueError for an id of another length.
        """
        keys, ordered = _keys(blob_type, ids)

        def ask() -> dict[bytes, Location]:
            found: dict[bytes, Location] = {}
            rest = ordered
            for segment in self._assembly.segments:
                found.update(segment.locate(rest, absent))
                rest = [key for key in rest if key not in found]
            return found

        found = self._trusted(ask)
        return [found.get(key) for key in keys]

    def missing(self, blob_type: BlobType, ids: Sequence[bytes], absent: AbstractSet[bytes] = _NONE) -> list[bool]:
        """Whether each of these blobs lies in no pack outside `absent`. Otherwise as `lookup`, and cheaper."""
        keys, ordered = _keys(blob_type, ids)

        def ask() -> set[bytes]:
            found: set[bytes] = set()
            rest = ordered
            for segment in self._assembly.segments:
                found |= segment.present(rest, absent)
                rest = [key for key in rest if key not in found]
            return found

        found = self._trusted(ask)
        return [key not in found for key in keys]

    def packs(self) -> Iterator[tuple[bytes, int]]:
        """Every pack and the size in bytes that its index entries imply, ascending by id.

        A pack that two index files list comes once, or once per size where they do not agree.
        """
        last: tuple[bytes, int] | None = None
        while True:
            streams = [((pack, size) for pack, size, _, _ in s.packs()) for s in self._assembly.segments]
            try:
                for entry in heapq.merge(*streams):
                    if last is None or entry > last:
                        yield entry
                        last = entry
            except Corrupt as corrupt:  # what was given is given; go on behind it
                self._assembly.repair(corrupt.segment)
            else:
                return

    def scan(self, visit: Callable[[Scan], _Answer]) -> _Answer:
        """What `visit` makes of all records. It is called again, from the start, where a part turned out corrupt."""
        return self._trusted(lambda: visit(Scan(self._assembly.segments)))

    def pack_blobs(self, packs: Collection[bytes]) -> Iterator[tuple[bytes, Sequence[Blob]]]:
        """What these packs hold, read again from the index files that list them, one file at a time.

        A pack that two index files list comes twice, one that none lists not at all.
        """
        wanted = frozenset(packs)
        for index in sorted(self._trusted(lambda: self._listing(wanted))):
            try:
                for pack, blobs in self._load(index.hex()):
                    if pack in wanted:
                        yield pack, blobs
            except MissingObject:
                continue  # pruned meanwhile, so it lists nothing any more

    def listing(self, packs: Collection[bytes]) -> frozenset[str]:
        """The hexadecimal ids of the index files that list any of these packs."""
        wanted = frozenset(packs)
        return frozenset(index.hex() for index in self._trusted(lambda: self._listing(wanted)))

    def _listing(self, packs: AbstractSet[bytes]) -> set[bytes]:
        return {
            segment.sources[source].index_id
            for segment in self._assembly.segments
            for pack, _, _, source in segment.packs()
            if pack in packs
        }

    def _trusted(self, ask: Callable[[], _Answer]) -> _Answer:
        """An answer in which no byte was corrupt. It ends: what the disk does not keep is soon held in memory."""
        while True:
            try:
                return ask()
            except Corrupt as corrupt:
                self._assembly.repair(corrupt.segment)


def _keys(blob_type: BlobType, ids: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """What segments are asked for: in the caller's order, and once each in ascending order."""
    suffix = bytes((blob_type,))
    keys = [blob_id + suffix for blob_id in ids]
    if any(len(key) != ID_SIZE + 1 for key in keys):
        raise ValueError("a blob's id has 32 bytes")
    return keys, sorted(set(keys))


def _is_id(name: str) -> bool:
    return len(name) == 2 * ID_SIZE and set(name) <= set("0123456789abcdef")
