"""Which packs a site lacks for some snapshots: their trees are walked at the origin, and compared by blob.

Invariant: a blob counts as there only by the other site's own index, outside packs that are doomed or in quarantine
there. That a tree is there says nothing of what it refers to: whole packs are copied, and with them trees of snapshots
that were never asked for. So each distinct tree is read, once in a run.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from shared.repository.errors import Damaged
from shared.repository.indexcache import IndexCache, Location
from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from shared.repository.tree import references
from workers.restore.reading import Reader, Span

_BATCH = 512  # trees that are read at once
_ASKED = 20_000  # data blobs that are looked up at once


class Walk:
    """For one thread, which has others read. `heed` is called between batches, and may raise."""

    def __init__(
        self,
        origin: Repository,
        here: IndexCache,
        there: IndexCache,
        threads: ThreadPoolExecutor,
        heed: Callable[[int], None],
        *,
        remote: bool,
    ) -> None:
        self.absent: set[bytes] = set()  # packs of the other site that count as absent
        self.bad: dict[bytes, str] = {}  # packs of the origin that are not what they should be, and why
        self.doubtful: frozenset[bytes] = (
            frozenset()
        )  # packs of the origin that are read only where nothing else has it
        self.walked: set[bytes] = set()  # trees: all that they refer to is at the other site, or is about to be
        self._origin = origin
        self._here = here
        self._there = there
        self._threads = threads
        self._heed = heed
        self._remote = remote
        self._own = threading.local()

    def needs(self, roots: Iterable[bytes]) -> tuple[set[bytes], set[bytes]]:
        """The origin's packs that are needed for these trees, and the trees that were walked for that.

        Who does not bring these packs over takes the trees out of `walked` again. Raises Damaged where a tree can't be
        read, or where what is needed is nowhere at the origin; StorageError.
        """
        packs: set[bytes] = set()
        walked: set[bytes] = set()
        pending: list[bytes] = []
        data: set[bytes] = set()

        def meet(trees: Iterable[bytes]) -> None:
            for tree in trees:
                if tree not in self.walked:
                    self.walked.add(tree)
                    walked.add(tree)
                    pending.append(tree)

        try:
            meet(roots)
            while pending:
                self._heed(len(walked) - len(pending))
                batch = pending[-_BATCH:]
                del pending[-_BATCH:]
                places = self._locate(BlobType.TREE, batch)
                packs |= self._lacking(BlobType.TREE, batch, places)
                for raw in self._read(batch, places):
                    subtrees, content = references(raw)
                    meet(subtrees)
                    data.update(content)
                if len(data) >= _ASKED:
                    packs |= self._lacking(BlobType.DATA, list(data))
                    data.clear()
            packs |= self._lacking(BlobType.DATA, list(data))
        except BaseException:
            self.walked -= walked
            raise
        return packs, walked

    def _lacking(
        self, blob_type: BlobType, ids: Sequence[bytes], places: Sequence[Location] | None = None
    ) -> set[bytes]:
        """The packs of the origin with those of these blobs that the other site lacks."""
        missing = self._there.missing(blob_type, ids, self.absent)
        if places is not None:
            return {place.pack for place, lacks in zip(places, missing, strict=True) if lacks}
        lacking = [one for one, lacks in zip(ids, missing, strict=True) if lacks]
        return {place.pack for place in self._locate(blob_type, lacking)}

    def _locate(self, blob_type: BlobType, ids: Sequence[bytes]) -> list[Location]:
        """Where these lie at the origin, outside packs that are bad. Raises Damaged."""
        found = self._here.lookup(blob_type, ids, self.bad.keys() | self.doubtful)
        if self.doubtful and None in found:
            rest = self._here.lookup(blob_type, ids, self.bad.keys())
            found = [whole or other for whole, other in zip(found, rest, strict=True)]
        places = [place for place in found if place is not None]
        if len(places) != len(ids):
            blob = next(one for one, place in zip(ids, found, strict=True) if place is None)
            (at,) = self._here.lookup(blob_type, [blob])
            if at is None:
                raise Damaged(f"{blob_type.name.lower()} blob {blob.hex()[:16]} is in no index of {self._url}")
            raise Damaged(self.bad[at.pack])
        return places

    def _read(self, trees: Sequence[bytes], places: Sequence[Location]) -> Iterator[bytes]:
        """The content of these trees, in no set order; those of one pack are read together."""
        packs: defaultdict[bytes, list[Span]] = defaultdict(list)
        for tree, place in zip(trees, places, strict=True):
            packs[place.pack].append(Span(place.offset, place.length, place.uncompressed, tree))
        asked = iter(packs.items())
        while some := list(islice(asked, 64)):
            for found in self._threads.map(self._trees, some):
                yield from found

    def _trees(self, one: tuple[bytes, list[Span]]) -> list[bytes]:
        pack, spans = one
        reader: Reader | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._own.reader = Reader(self._origin.store, self._origin.sealer(), remote=self._remote)
        found = []
        for _, content in reader.trees(pack, spans):
            if isinstance(content, Damaged):
                raise BadPack(pack, f"{self._url}: {content.args[0]}")
            found.append(content)
        return found

    @property
    def _url(self) -> str:
        return self._origin.store.url


class BadPack(Damaged):
    """A pack of the origin is not what it should be."""

    def __init__(self, pack: bytes, message: str) -> None:
        super().__init__(message)
        self.pack = pack
