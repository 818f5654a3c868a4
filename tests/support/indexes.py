"""A site that has nothing but index files, and the truth about them to compare an index cache with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from shared.repository.indexcache import IndexCache, Location, assembly, layout, merge, run, segment, writer
from shared.repository.indexcache.scan import Scan
from shared.repository.pack import Blob, BlobType, pack_size
from shared.storage.api import MissingObject, ObjectInfo, ObjectStore, Transient

Packs = list[tuple[bytes, list[Blob]]]
# Named here, as the class below has a method of the name `list`.
Blobs = list[tuple[bytes, Blob]]
Sizes = list[tuple[bytes, int]]


def name(text: str) -> bytes:
    """A uniformly distributed id of 32 bytes that is always the same for `text`."""
    return hashlib.sha256(text.encode()).digest()


def some_packs(tag: str, *, packs: int, blobs: int) -> Packs:
    """Packs of data and, every third, of trees, with ids made from `tag`."""
    made: Packs = []
    for pack in range(packs):
        kind = BlobType.TREE if pack % 3 == 2 else BlobType.DATA
        listed, offset = [], 0
        for blob in range(blobs):
            length = 40 + blob
            listed.append(Blob(name(f"{tag} {pack} {blob}"), kind, offset, length, blob % 2 * 3 * length))
            offset += length
        made.append((name(f"{tag} {pack}"), listed))
    return made


class IndexSite:
    """Index files in memory, with what the cache needs of a store, and a record of what was loaded."""

    def __init__(self) -> None:
        self.files: dict[str, Packs] = {}
        self.loaded: list[str] = []
        self.vanishing: set[str] = set()  # listed, but gone when they are loaded
        self.failing: set[str] = set()  # not to be had at the moment

    def put(self, tag: str, packs: Packs) -> str:
        """Add an index file; its id in hex."""
        index = name(f"index {tag}").hex()
        self.files[index] = packs
        return index

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The listing of `index/`."""
        assert prefix == "index/"
        for index in [*self.files, *self.vanishing]:
            yield ObjectInfo(prefix + index, 1, 0.0)

    def load(self, index: str) -> Iterator[tuple[bytes, Sequence[Blob]]]:
        """What an index file lists; raises on the way, as a real one may."""
        self.loaded.append(index)
        if index in self.vanishing:
            raise MissingObject(f"index/{index}")
        if index in self.failing:
            raise Transient(f"index/{index}")
        yield from self.files[index]

    def open(self, directory: str, *, repository_id: str = "repository", site: str = "site") -> IndexCache:
        """A cache of this site."""
        store = cast("ObjectStore", self)
        return IndexCache.open(directory, store=store, repository_id=repository_id, site=site, load=self.load)

    def blobs(self) -> Blobs:
        """Every blob with its pack."""
        return [(pack, blob) for packs in self.files.values() for pack, blobs in packs for blob in blobs]

    def locations(self) -> dict[tuple[BlobType, bytes], set[Location]]:
        """Where each blob lies."""
        found: dict[tuple[BlobType, bytes], set[Location]] = {}
        for pack, blob in self.blobs():
            place = Location(pack, blob.offset, blob.length, blob.uncompressed)
            found.setdefault((blob.type, blob.id), set()).add(place)
        return found

    def sizes(self) -> Sizes:
        """Every pack with its size, ascending."""
        return sorted({(pack, pack_size(blobs)) for packs in self.files.values() for pack, blobs in packs})


def assert_true(
    cache: IndexCache, site: IndexSite, *, also: Sequence[bytes] = (), absent: frozenset[bytes] = frozenset()
) -> None:
    """Hold all that a cache says against what the site has; `also` are ids to ask for besides."""
    truth = site.locations()
    ids = [blob for _, blob in truth] + list(also) + [name("nowhere")]
    for kind in BlobType:
        expected = [{place for place in truth.get((kind, blob), ()) if place.pack not in absent} for blob in ids]
        found = cache.lookup(kind, ids, absent)
        for got, allowed in zip(found, expected, strict=True):
            assert got in allowed if allowed else got is None
        assert cache.missing(kind, ids, absent) == [not allowed for allowed in expected]
    assert list(cache.packs()) == site.sizes()
    assert cache.index_ids == frozenset(site.files)
    assert cache.blob_count == len(site.blobs())
    assert cache.scan(scanned) == sorted(site.blobs())


def scanned(scan: Scan) -> Blobs:
    """All that a scan gives: every blob with its pack, a 256th at a time."""
    found = []
    for first, parts in enumerate(scan.parts()):
        for number, records in parts:
            for blob, kind, pack, *place in layout.RECORD.iter_unpack(records):
                entry = scan.packs[number][pack]
                assert blob[0] == first
                if entry is not None:
                    found.append((entry[0], Blob(blob, BlobType(kind), *place)))
    return sorted(found)


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Make every bound of the cache so small that a handful of blobs fills blocks, windows, runs and merges."""
    patch.setattr(layout, "BLOCK_MAX", 150)
    patch.setattr(layout, "RECORDS_PER_SLOT", 2)
    patch.setattr(segment, "WINDOW_BLOCKS", 2)
    patch.setattr(segment, "GAP_BLOCKS", 1)
    patch.setattr(writer, "FLUSH", 300)
    patch.setattr(run, "RUN_RECORDS", 6)
    patch.setattr(run, "_BATCH", 5)
    patch.setattr(merge, "SMALL", 3)
    patch.setattr(merge, "FAN_IN", 3)
    patch.setattr(assembly, "FAN_IN", 3)
    patch.setattr(merge, "_WINDOW_RECORDS", 12)
    patch.setattr(merge, "_BATCH_PACKS", 2)
