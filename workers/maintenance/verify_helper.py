"""A helper process of a verification: reads index files, packs and trees as its coordinator says.

Answers are (task's name, ...); a problem is (whether it is an error, object, message). What makes going on
pointless (a site that is away) is answered with ("fatal", exit code, message, hint).
"""

from __future__ import annotations

import hashlib
import marshal
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from shared.repository.committed import FORGOTTEN
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.errors import Damaged
from shared.repository.index import decode_index
from shared.repository.indexcache import IndexCache, Location
from shared.repository.pack import Blob, BlobType, decode_header, header_length, pack_size
from shared.repository.repository import Repository, pack_key
from shared.storage.api import MissingObject, Permanent
from workers.access import Look, is_remote, repository_store
from workers.backup.spec import SiteSpec
from workers.crew import serve
from workers.helpers import Channel
from workers.maintenance.treecheck import require_tree
from workers.restore.memory import keep_freed_memory
from workers.restore.reading import Reader, Span

Told = tuple[bool, str, str]
_DIGEST = 16


def digest(blobs: Sequence[Blob]) -> bytes:
    """What two lists of a pack's blobs have in common if they say the same, in any order."""
    ordered = sorted((blob.offset, blob.length, blob.uncompressed, int(blob.type), blob.id) for blob in blobs)
    return hashlib.sha256(marshal.dumps(ordered, 2)).digest()[:_DIGEST]


def main(channel: Channel) -> None:
    """Serve one coordinator until its socket closes."""
    keep_freed_memory()
    serve(channel, lambda *setup: _Helper(channel.look, *setup))


class _Helper:
    """The tasks. Each public method is one."""

    def __init__(self, look: Look, key: bytes, site: dict[str, Any], repository: str, restic_id: str) -> None:
        self._site = SiteSpec(**site)
        self._repository = repository
        store = repository_store(self._site, repository, connections=1, look=look)
        self._repo = Repository(store, MasterKey.from_bytes(key), restic_id=restic_id)
        self._sealer = Sealer(self._repo.key)
        self._reader = Reader(store, self._sealer, remote=is_remote(self._site))
        self._index: IndexCache | None = None
        self._bad_packs: frozenset[bytes] = frozenset()
        self._bad_blobs: dict[bytes, frozenset[bytes]] = {}  # blob id -> packs in which it is damaged

    def index(self, names: list[str]) -> Any:
        """Look at index files. Answers problems, (pack, size, digest, type, index file), damaged index files."""
        told: list[Told] = []
        packs: list[tuple[bytes, int, bytes, str]] = []
        damaged: list[str] = []
        for name in names:
            try:
                listed = decode_index(self._repo.load("index", name))
            except MissingObject:
                continue  # pruned since the listing; what replaced it was listed too, or the lock was not held
            except Damaged as error:
                damaged.append(name)
                told.append((True, f"index {name}", f"it can't be read: {error.args[0]}"))
                continue
            for pack, blobs in listed:
                told += [(True, f"index {name}", text) for text in _check_entries(pack, blobs)]
                packs.append((pack, pack_size(blobs), digest(blobs), name))
        return told, packs, damaged

    def pack(self, packs: list[tuple[bytes, int, list[bytes], bool]]) -> Any:
        """Look at packs: their header, or all of it. Each: id, size in the listing, digests by the index, whole.

        Answers problems, damaged blobs (pack, id), bytes read, packs read whole.
        """
        told: list[Told] = []
        lost: list[tuple[bytes, bytes]] = []
        count = whole_count = 0
        for pack, size, digests, whole in packs:
            try:
                if whole:
                    count += size
                    whole_count += 1
                    blobs = self._whole(pack, size, told, lost)
                else:
                    blobs = self._repo.pack_header(pack)
            except MissingObject:
                told.append((True, f"pack {pack.hex()}", "it was there when the site was listed, and is not any more"))
                continue
            except Damaged as error:
                told.append((True, f"pack {pack.hex()}", f"its header can't be read: {error.args[0]}"))
                continue
            if digests and digest(blobs) not in digests:
                told.append((True, f"pack {pack.hex()}", "its header says otherwise than the index lists of it"))
        return told, lost, count, whole_count

    def _whole(self, pack: bytes, size: int, told: list[Told], lost: list[tuple[bytes, bytes]]) -> list[Blob]:
        data = self._repo.store.get(pack_key(pack))
        got = hashlib.sha256(data).digest()
        if got != pack:
            told.append(
                (True, f"pack {pack.hex()}", f"its {len(data)} bytes hash to {got.hex()[:16]}, not to its name")
            )
        view = memoryview(data)
        length = header_length(view[-4:], size)
        blobs = decode_header(self._sealer.unseal(view[-length - 4 : -4]), len(data))
        for blob in blobs:
            span = Span(blob.offset, blob.length, blob.uncompressed, blob.id)
            try:
                self._reader.open(span, view[blob.offset : blob.offset + blob.length], blob.type)
            except Damaged as error:
                lost.append((pack, blob.id))
                told.append((True, f"pack {pack.hex()}", f"blob {blob.id.hex()[:16]}: {error.args[0]}"))
        return blobs

    def ready(self, cache_dir: str, bad_index: list[str], bad_packs: list[bytes], bad_blobs: list[Any]) -> Any:
        """Get ready for trees: open the index without its damaged files, learn which packs and blobs are lost."""
        self._bad_packs = frozenset(bad_packs)
        lost: defaultdict[bytes, set[bytes]] = defaultdict(set)
        for pack, blob in bad_blobs:
            lost[blob].add(pack)
        self._bad_blobs = {blob: frozenset(packs) for blob, packs in lost.items()}
        if self._index is not None:
            self._index.close()
        self._index = open_sound_index(self._repo, self._site, self._repository, cache_dir, frozenset(bad_index))
        return ()

    def notes(self, keys: list[str]) -> tuple[list[Told]]:
        """Open what is sealed below holdfast/. Answers problems."""
        told: list[Told] = []
        for key in keys:
            try:
                stored = self._repo.store.get(key)
                if not (key.startswith(FORGOTTEN) and stored.startswith(b"{")):  # a key file's is plain JSON
                    self._repo.open_small(stored)
            except MissingObject:
                continue  # its time was over
            except Damaged as error:
                told.append((False, key, f"it can't be opened: {error.args[0]}"))
        return (told,)

    def trees(self, ids: list[bytes]) -> Any:
        """Look at trees. Answers (tree, children, hard links, problems of its nodes), and the number of files.

        Then the blobs that are needed and can be had nowhere here (type, id), and packs that were found damaged.
        """
        answers: list[Any] = []
        files = 0
        faulty: set[bytes] = set()
        loaded = self._load(ids, faulty)
        missing = [(int(BlobType.TREE), tree) for tree in ids if isinstance(loaded[tree], str)]
        checked = {}
        for tree in ids:
            raw = loaded[tree]
            if isinstance(raw, str):
                answers.append((tree, [], [], [(True, b"", raw)]))
                continue
            try:
                checked[tree] = require_tree(raw)
            except Damaged as error:
                answers.append((tree, [], [], [(True, b"", error.args[0])]))
        wanted = [blob for facts in checked.values() for _, _, content in facts.files for blob in content]
        places = dict(zip(wanted, self._locate(BlobType.DATA, wanted), strict=True))
        for tree, facts in checked.items():
            for name, size, content in facts.files:
                files += 1
                facts.problems += [(True, name, text) for text in _check_file(size, content, places)]
            answers.append((tree, facts.children, facts.links, facts.problems))
        missing += [(int(BlobType.DATA), blob) for blob, place in places.items() if place is None]
        return answers, files, missing, list(faulty)

    def _load(self, ids: list[bytes], faulty: set[bytes]) -> dict[bytes, bytes | str]:
        found: dict[bytes, bytes | str] = {}
        packs: defaultdict[bytes, list[Span]] = defaultdict(list)
        for tree, location in zip(ids, self._locate(BlobType.TREE, ids), strict=True):
            if location is None:
                found[tree] = "the tree is in no index, or only in a pack that is missing or damaged"
            else:
                packs[location.pack].append(Span(location.offset, location.length, location.uncompressed, tree))
        for pack, spans in packs.items():
            try:
                for span, content in self._reader.trees(pack, spans):
                    if isinstance(content, Damaged):
                        faulty.add(pack)
                    found[span.id] = content.args[0] if isinstance(content, Damaged) else content
            except Permanent as error:
                faulty.add(pack)
                found.update({span.id: str(error) for span in spans if span.id not in found})
        return found

    def _locate(self, blob_type: BlobType, ids: list[bytes]) -> list[Location | None]:
        """Where each of these can still be had."""
        assert self._index is not None  # noqa: S101 -- `ready` comes first
        places = self._index.lookup(blob_type, ids, self._bad_packs)
        for at, blob in enumerate(ids):
            if blob in self._bad_blobs:
                (places[at],) = self._index.lookup(blob_type, [blob], self._bad_packs | self._bad_blobs[blob])
        return places


def open_sound_index(
    repo: Repository,
    site: SiteSpec,
    repository: str,
    cache_dir: str,
    damaged: frozenset[str],
    look_after: Callable[[], None] = lambda: None,
) -> IndexCache:
    """The index, as if its damaged files were not there. `look_after` is called with each that is read."""

    def load(name: str) -> list[tuple[bytes, list[Blob]]]:
        look_after()
        return [] if name in damaged else repo.load_index(name)

    return IndexCache.open(
        f"{cache_dir}/index",
        store=repo.store,
        repository_id=repo.restic_id or repository,
        site=site.id or site.url,
        load=load,
    )


def _check_entries(pack: bytes, blobs: list[Blob]) -> list[str]:
    """What is wrong with an index's entries of one pack: they must follow each other without gap or overlap."""
    problems = []
    end = 0
    for blob in sorted(blobs, key=lambda blob: blob.offset):
        if blob.offset != end:
            how = "overlaps what is before it" if blob.offset < end else "leaves a gap before it"
            problems.append(
                f"pack {pack.hex()[:16]}: the entry of blob {blob.id.hex()[:16]} at {blob.offset} {how} (ends at {end})"
            )
        end = max(end, blob.offset + blob.length)
    if not blobs:
        problems.append(f"pack {pack.hex()[:16]} is listed without blobs")
    if len(set(blobs)) < len(blobs):
        problems.append(f"pack {pack.hex()[:16]}: an entry stands in it twice")
    return problems


def _check_file(size: int, content: list[bytes], places: dict[bytes, Location | None]) -> list[str]:
    total = 0
    for blob in content:
        place = places[blob]
        if place is None:
            return [f"its blob {blob.hex()[:16]} is in no index, or only in a pack that is missing or damaged"]
        total += place.uncompressed or place.length - 32
    if total != size:
        return [f"its node says {size} bytes, its content has {total}"]
    return []
