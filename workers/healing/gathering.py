"""Blobs that are to be had again: of packs that nobody has whole, and others that are needed and lie nowhere here.

Invariant: a blob is taken only where it does not lie in a pack that is whole here, and each once. Where a tree was
brought back, what it refers to is looked for, too, as nobody could see before that it is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice

from shared.repository.errors import Damaged
from shared.repository.indexcache import IndexCache
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.tree import references
from workers.healing.others import Others
from workers.healing.packs import Packs
from workers.healing.reading import Whole, whole_blobs
from workers.maintenance.findings import MissingBlob
from workers.restore.reading import Reader

_TOGETHER = 4_000  # blobs that are asked for at once


class Gathering:
    """For one round. `absent`: packs here of which nothing counts; `had`: blobs that are here all the same.

    `take` gets each blob that was found.
    """

    def __init__(
        self,
        repo: Repository,
        index: IndexCache,
        others: Others,
        reader: Reader,
        absent: AbstractSet[bytes],
        had: AbstractSet[MissingBlob],
        take: Callable[[Whole], None],
        heed: Callable[[], None],
    ) -> None:
        self._repo = repo
        self._index = index
        self._others = others
        self._reader = reader
        self._absent = absent
        self._take = take
        self._heed = heed
        self._met: set[MissingBlob] = set(had)
        self._lacking: set[MissingBlob] = set()  # that lie nowhere, as far as was looked
        self._found = 0

    def from_broken(self, broken: Mapping[bytes, Collection[Blob]]) -> None:
        """Take what is whole in broken packs here; the rest of them is looked for by `search`."""
        for pack, blobs in broken.items():
            self._heed()
            self._meet((int(blob.type), blob.id) for blob in blobs)
            wanted = [blob for blob in dict.fromkeys(blobs) if (int(blob.type), blob.id) in self._lacking]
            for whole in whole_blobs(self._repo.store, self._reader, pack, wanted):
                self._have(whole)

    def search(self, missing: Iterable[MissingBlob], doomed: Collection[bytes], packs: Packs) -> None:
        """Look for what is missing, and for what trees refer to that were found, at other sites and in doomed packs."""
        self._meet(missing)
        while self._lacking:
            before = self._found
            self._ask_others()
            if self._lacking and doomed:
                self._ask_doomed(doomed, packs)
            if self._found == before:
                return

    def _ask_others(self) -> None:
        asked: set[MissingBlob] = set()
        while batch := list(islice((one for one in self._lacking if one not in asked), _TOGETHER)):
            asked.update(batch)
            kinds: defaultdict[int, list[bytes]] = defaultdict(list)
            for kind, blob in batch:
                kinds[kind].append(blob)
            for kind, blobs in kinds.items():
                for whole in self._others.blobs(self._repo, BlobType(kind), blobs):
                    self._heed()
                    self._have(whole)

    def _ask_doomed(self, doomed: Collection[bytes], packs: Packs) -> None:
        for looked in packs.headers(doomed):
            wanted = [blob for blob in looked.blobs if (int(blob.type), blob.id) in self._lacking]
            for whole in whole_blobs(self._repo.store, self._reader, looked.pack, wanted):
                self._have(whole)

    def _have(self, whole: Whole) -> None:
        key = int(whole.blob.type), whole.blob.id
        if key not in self._lacking:
            return
        self._lacking.discard(key)
        self._found += 1
        self._take(whole)
        if whole.blob.type is BlobType.TREE:
            self._meet(_below(whole.content))

    def _meet(self, blobs: Iterable[MissingBlob]) -> None:
        kinds: defaultdict[int, list[bytes]] = defaultdict(list)
        for one in blobs:
            if one not in self._met:
                self._met.add(one)
                kinds[one[0]].append(one[1])
        for kind, ids in kinds.items():
            lacks = self._index.missing(BlobType(kind), ids, self._absent)
            self._lacking.update((kind, one) for one, is_missing in zip(ids, lacks, strict=True) if is_missing)


def _below(tree: bytes) -> Iterator[MissingBlob]:
    try:
        subtrees, data = references(tree)
    except Damaged:  # its bytes are what was stored; the verification says what is wrong with it
        return
    yield from ((int(BlobType.TREE), one) for one in subtrees)
    yield from ((int(BlobType.DATA), one) for one in data)
