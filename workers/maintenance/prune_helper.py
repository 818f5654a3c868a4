"""A helper process of a prune: reads trees for what they refer to, and copies used blobs into new packs.

Invariants: a blob is copied as it is sealed, and only after its content was authenticated, unpacked and hashed; a pack
is told of only once it is durable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from shared.repository.crypto import Buffer, MasterKey
from shared.repository.errors import Damaged
from shared.repository.indexcache import IndexCache
from shared.repository.pack import Blob, BlobType, PackBuilder, from_records
from shared.repository.repository import Repository, pack_key
from shared.repository.tree import references
from shared.storage.api import MissingObject, Permanent, Staged
from workers.access import Look, WholeFirst, is_remote, open_index, repository_store
from workers.backup.engine.packer import StoredPack, Uploader
from workers.backup.spec import SiteSpec
from workers.crew import serve
from workers.helpers import Channel
from workers.maintenance.prune_plan import Parts
from workers.maintenance.used import Collector, Run
from workers.restore.memory import keep_freed_memory
from workers.restore.reading import Reader, Span

_GAP = 1 << 20  # bytes that are rather read than gone around
_AT_ONCE = 16 << 20  # bytes of a pack that are read with one request


def main(channel: Channel) -> None:
    """Serve one coordinator until its socket closes."""
    keep_freed_memory()
    serve(channel, lambda *setup: _Helper(channel.look, *setup))


class _Helper:
    """The tasks. Each public method is one."""

    def __init__(
        self, look: Look, key: bytes, site: dict[str, Any], repository: str, restic_id: str, more: dict[str, Any]
    ) -> None:
        self._site = SiteSpec(**site)
        self._repository = repository
        self._store = repository_store(self._site, repository, connections=more["connections"], look=look)
        self._repo = Repository(self._store, MasterKey.from_bytes(key), restic_id=restic_id)
        self._reader = Reader(self._store, self._repo.sealer(), remote=is_remote(self._site))
        self._cache_dir = more["cache_dir"]
        self._target = more["pack_size"]
        self._uploader = Uploader(self._store, uploads=more["connections"], spool=self._cache_dir)
        self._used = Collector(self._cache_dir)
        self._index: IndexCache | None = None
        self._places: WholeFirst | None = None
        self._open: dict[BlobType, tuple[PackBuilder, Staged]] = {}

    def look(self, absent: list[bytes]) -> Any:
        """Read the index anew; trees are read from packs that are not `absent`, if they can be."""
        if self._index is None:
            self._index = open_index(self._repo, self._site, self._repository, self._cache_dir)
        else:
            self._index.refresh()
        self._places = WholeFirst(self._index, frozenset(absent))
        return ()

    def trees(self, ids: list[bytes]) -> tuple[list[tuple[bytes, list[bytes]]], list[tuple[bytes, str]]]:
        """Read trees. Answers (tree, subtrees) of each, and (tree, what is wrong) of those that can't be had."""
        assert self._places is not None  # noqa: S101 -- `look` comes first
        found: list[tuple[bytes, list[bytes]]] = []
        wrong: list[tuple[bytes, str]] = []
        packs: defaultdict[bytes, list[Span]] = defaultdict(list)
        for tree, place in zip(ids, self._places.lookup(BlobType.TREE, ids), strict=True):
            if place is None:
                wrong.append((tree, "it is in no index"))
            else:
                packs[place.pack].append(Span(place.offset, place.length, place.uncompressed, tree))
        for pack, spans in packs.items():
            for span, content in self._reader.trees(pack, spans):
                try:
                    if isinstance(content, Damaged):
                        raise content
                    subtrees, data = references(content)
                except Damaged as error:
                    wrong.append((span.id, str(error.args[0])))
                else:
                    found.append((span.id, subtrees))
                    self._used.add(data)
        return found, wrong

    def used(self) -> tuple[list[Run]]:
        """Answers where the ids of the data blobs are that were met since the last time."""
        return (self._used.take(),)

    def repack(self, pack: bytes, parts: Parts) -> tuple[bytes, str, list[StoredPack]]:
        """Copy blobs of a pack. Answers what is wrong with it, if anything is, and packs that are durable now."""
        blobs = sorted(
            (blob for kind, records in parts for blob in from_records(BlobType(kind), records)),
            key=lambda blob: blob.offset,
        )
        try:
            for run in runs(blobs):
                start = run[0].offset
                size = run[-1].offset + run[-1].length - start
                stored = memoryview(self._store.get_range(pack_key(pack), start, size))
                for blob in run:
                    sealed = stored[blob.offset - start :][: blob.length]
                    self._reader.open(Span(blob.offset, blob.length, blob.uncompressed, blob.id), sealed, blob.type)
                    self._keep(blob, sealed)
        except (Damaged, MissingObject, Permanent) as error:
            return pack, str(error.args[0]), self._uploader.finished()
        return pack, "", self._uploader.finished()

    def _keep(self, blob: Blob, sealed: Buffer) -> None:
        if blob.type not in self._open:
            staged = self._uploader.stage()
            builder = PackBuilder(self._repo.sealer(), blob.type, staged.write, target=self._target)
            self._open[blob.type] = builder, staged
        builder, staged = self._open[blob.type]
        builder.add_sealed(blob.id, sealed, blob.uncompressed)
        if builder.full:
            del self._open[blob.type]
            self._uploader.upload(builder, staged)

    def flush(self) -> tuple[list[StoredPack]]:
        """Close what is being filled. Answers the packs that were not told of yet; all are durable."""
        while self._open:
            self._uploader.upload(*self._open.popitem()[1])
        self._uploader.wait()
        return (self._uploader.finished(),)


def runs(blobs: list[Blob]) -> Iterator[list[Blob]]:
    """What is read with one request: near each other, and not too much."""
    run: list[Blob] = []
    for blob in blobs:
        far = run and blob.offset - run[-1].offset - run[-1].length > _GAP
        if run and (far or blob.offset + blob.length - run[0].offset > _AT_ONCE):
            yield run
            run = []
        run.append(blob)
    if run:
        yield run
