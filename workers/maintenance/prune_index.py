"""Index files written anew, without the packs that leave.

Invariant: all that a file lists, but for those packs, stands in new files before it may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from shared.repository.index import FLUSH_BLOBS, encode_index
from shared.repository.pack import Blob
from shared.repository.repository import Repository
from workers.maintenance.verify_helper import digest


class IndexRewrite:
    """Takes packs and index files; `finish` before any of these files is deleted.

    `look` is called before each file is put: it raises where our lock is gone. `twice`: packs that more than one index
    file lists; where they say the same, it is written once.
    """

    def __init__(
        self, repo: Repository, leaving: AbstractSet[bytes], twice: AbstractSet[bytes], look: Callable[[], None]
    ) -> None:
        self.written = 0
        self._repo = repo
        self._leaving = leaving
        self._twice = twice
        self._look = look
        self._packs: list[tuple[bytes, list[Blob]]] = []
        self._blobs = 0
        self._seen: set[tuple[bytes, bytes]] = set()

    def take_file(self, name: str) -> None:
        """List again what an index file (hex) lists. Raises MissingObject, Damaged, StorageError, Locked."""
        for pack, blobs in self._repo.load_index(name):
            if pack not in self._leaving:
                self.add(pack, blobs)

    def add(self, pack: bytes, blobs: Iterable[Blob]) -> None:
        """List a pack. Raises StorageError, Locked."""
        listed = list(blobs)
        if pack in self._twice:
            entry = pack, digest(listed)
            if entry in self._seen:
                return
            self._seen.add(entry)
        self._packs.append((pack, listed))
        self._blobs += len(listed)
        if self._blobs >= FLUSH_BLOBS:
            self._put()

    def finish(self) -> None:
        """Put what is left. Raises StorageError, Locked."""
        if self._packs:
            self._put()

    def _put(self) -> None:
        packs, self._packs, self._blobs = self._packs, [], 0
        parts = encode_index(packs)
        self._look()
        self._repo.save("index", *parts)
        self.written += 1
