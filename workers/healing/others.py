"""The other sites of a repository, as places to take from.

Invariant: nothing is believed of what another site gives. An object hashes to the name that it is asked by, a blob is
authenticated, unpacked and hashed; what does not is as if it were not there, and the next site is asked. So a site need
not be opened to be taken from, and one whose own keys, config or index files are damaged still gives what it has whole.
A site that does not answer is told of once, and asked for nothing more.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from shared.errors import StorageError
from shared.repository.errors import Damaged
from shared.repository.indexcache import IndexCache
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import PACKS, Repository
from shared.storage.api import MissingObject, Permanent
from workers.access import Look, is_remote, open_index, repository_store
from workers.backup.spec import SiteSpec
from workers.healing.reading import Whole, whole_blobs
from workers.maintenance import inventory
from workers.restore.reading import Reader

Note = Callable[[str], None]


class Taken(NamedTuple):
    """An object that is whole, and the site that had it."""

    data: bytes
    site: str


class Other:
    """One other site. `named` may be called by several threads, the rest by one."""

    def __init__(self, site: SiteSpec, repository: str, cache_dir: str, note: Note, look: Look) -> None:
        self.name = site.id
        self.away = ""  # why it is asked for nothing more
        self.store = repository_store(site, repository, look=look)
        self._site = site
        self._repository = repository
        self._cache_dir = cache_dir
        self._note = note
        self._index: IndexCache | None = None
        self._unlisted: dict[tuple[BlobType, bytes], tuple[bytes, Blob]] = {}  # blobs of packs that no index lists
        self._apart: tempfile.TemporaryDirectory[str] | None = None

    def lose(self, error: StorageError) -> None:
        """Ask it for nothing more."""
        if not self.away:
            self.away = str(error.args[0])
            self._note(f"site {self.name} was asked for nothing more: {self.away}")

    def named(self, key: str, name: str) -> tuple[bytes, str]:
        """The object of that key, whose bytes hash to `name`; else nothing, and why."""
        if self.away:
            return b"", f"{self.name} does not answer"
        try:
            data = self.store.get(key)
        except MissingObject:
            return b"", f"{self.name} has none"
        except Permanent as error:
            return b"", f"{self.name} can't read it: {error.args[0]}"
        except StorageError as error:
            self.lose(error)
            return b"", f"{self.name} does not answer"
        if hashlib.sha256(data).hexdigest() != name:
            return b"", f"{self.name} has it damaged"
        return data, ""

    def blobs(self, mine: Repository, kind: BlobType, ids: Iterable[bytes]) -> Iterator[Whole]:
        """Those of these blobs that it has whole, each once; `mine` says how they are sealed."""
        left, bad = set(ids), set[bytes]()
        repo = Repository(self.store, mine.key, restic_id=mine.restic_id)
        reader = Reader(self.store, repo.sealer(), remote=is_remote(self._site))
        try:
            if self._index is None and not self.away:
                self._index = self._open_index(repo)
            while left and self._index is not None and not self.away:
                packs: defaultdict[bytes, list[Blob]] = defaultdict(list)
                asked = list(left)
                for one, place in zip(asked, self._index.lookup(kind, asked, bad), strict=True):
                    if place is not None:
                        packs[place.pack].append(Blob(one, kind, place.offset, place.length, place.uncompressed))
                    elif (kind, one) in self._unlisted and self._unlisted[kind, one][0] not in bad:
                        pack, blob = self._unlisted[kind, one]
                        packs[pack].append(blob)
                if not packs:
                    return
                for pack, blobs in packs.items():
                    for whole in whole_blobs(self.store, reader, pack, blobs):
                        left.discard(whole.blob.id)
                        yield whole
                    if any(blob.id in left for blob in blobs):
                        bad.add(pack)  # another pack of this site may have it, too
        except StorageError as error:
            self.lose(error)

    def _open_index(self, repo: Repository) -> IndexCache:
        """Its index. Where files of it are damaged, packs that no other lists say by their headers what they hold."""
        try:
            return open_index(repo, self._site, self._repository, self._cache_dir)
        except Damaged as error:
            self._note(f"site {self.name} is damaged, too, and needs healing: {error.args[0]}")

        def load(name: str) -> list[tuple[bytes, list[Blob]]]:
            try:
                return repo.load_index(name)
            except Damaged:
                return []

        self._apart = tempfile.TemporaryDirectory(prefix="holdfast-")
        index = open_index(repo, self._site, self._repository, self._apart.name, load=load)
        listed = {pack for pack, _ in index.packs()}
        for name, _ in inventory.named(self.store, PACKS, lambda: None):
            if (pack := bytes.fromhex(name)) not in listed:
                with suppress(Damaged, MissingObject, Permanent):
                    self._unlisted.update({(blob.type, blob.id): (pack, blob) for blob in repo.pack_header(pack)})
        return index

    def close(self) -> None:
        """Give up its files and connections."""
        if self._index is not None:
            self._index.close()
        if self._apart is not None:
            self._apart.cleanup()
        self.store.close()


class Others:
    """All of them, the first to be asked first."""

    def __init__(self, sites: Sequence[SiteSpec], repository: str, cache_dir: str, note: Note, look: Look) -> None:
        self.all: list[Other] = []
        for site in sites:
            try:
                self.all.append(Other(site, repository, cache_dir, note, look))
            except StorageError as error:
                note(f"site {site.id} was not asked: {error.args[0]}")

    def named(self, key: str, name: str) -> Taken | str:
        """The object of that key from the first site that has it whole; else why none has."""
        reasons = []
        for other in self.all:
            data, why = other.named(key, name)
            if not why:
                return Taken(data, other.name)
            reasons.append(why)
        return "; ".join(reasons) or "there is no other site to take it from"

    def blobs(self, mine: Repository, kind: BlobType, ids: Iterable[bytes]) -> Iterator[Whole]:
        """Those of these blobs that are whole anywhere, each once."""
        left = set(ids)
        for other in self.all:
            for whole in other.blobs(mine, kind, left.copy()) if left else ():
                left.discard(whole.blob.id)
                yield whole

    def close(self) -> None:
        """Give all of them up."""
        for other in self.all:
            other.close()
