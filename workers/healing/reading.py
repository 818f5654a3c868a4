"""Blobs as they are sealed, out of packs that may be damaged.

Invariant: a blob is given only once its content was authenticated, unpacked and hashed; one that is damaged does not
keep its neighbours from being had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from shared.repository.errors import Damaged
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import pack_key
from shared.storage.api import MissingObject, ObjectStore, Permanent
from workers.maintenance.prune_helper import runs
from workers.restore.reading import Reader, Span


class Whole(NamedTuple):
    """A blob that is whole. `sealed` does not depend on where it lies; `content` is that of a tree, else empty."""

    blob: Blob
    sealed: bytes
    content: bytes


def whole_blobs(store: ObjectStore, reader: Reader, pack: bytes, blobs: Iterable[Blob]) -> Iterator[Whole]:
    """Those of these blobs of one pack that are whole. Raises StorageError, but not for a pack that is gone or cut."""
    for run in runs(sorted(blobs, key=lambda blob: blob.offset)):
        yield from _run(store, reader, pack, run)


def _run(store: ObjectStore, reader: Reader, pack: bytes, run: Sequence[Blob]) -> Iterator[Whole]:
    start = run[0].offset
    size = max(blob.offset + blob.length for blob in run) - start
    try:
        stored = memoryview(store.get_range(pack_key(pack), start, size))
    except MissingObject:
        return
    except Permanent:  # cut: what lies before the cut can still be had
        if len(run) > 1:
            for blob in run:
                yield from _run(store, reader, pack, [blob])
        return
    for blob in run:
        sealed = stored[blob.offset - start :][: blob.length]
        try:
            content = reader.open(Span(blob.offset, blob.length, blob.uncompressed, blob.id), sealed, blob.type)
        except Damaged:
            continue
        yield Whole(blob, bytes(sealed), bytes(content) if blob.type is BlobType.TREE else b"")
