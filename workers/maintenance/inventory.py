"""The packs that lie at a site against those that its index lists, though backups may go on meanwhile.

    packs are listed -> the locks are read -> the index is read -> packs that only it lists are looked for again

That order keeps a running backup from passing for damage: it goes from pack to index and gives its lock
back last. So a pack that was listed is in the index, or its writer's lock was seen, or its writer is dead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from shared.repository.absent import DOOMED
from shared.repository.committed import COMMITS, FORGOTTEN
from shared.repository.holds import HOLDS
from shared.repository.keyring import read_keys
from shared.repository.locks import LockInfo, read_locks
from shared.repository.repository import Repository
from shared.storage.api import Denied, ObjectInfo, ObjectStore, Permanent, StoreFull

_ID_LENGTH = 64
_READER = re.compile(r"/holdfast/(?:verify|restore)-\d+$")  # in a lock's host name


def named(store: ObjectStore, prefix: str, look_after: Callable[[], None]) -> Iterator[tuple[str, ObjectInfo]]:
    """The objects below `prefix` whose name is an id, by that. `look_after` is called with each object."""
    for info in store.list(prefix):
        look_after()
        name = info.key.rpartition("/")[2]
        if len(name) == _ID_LENGTH:
            yield name, info


def writers(repo: Repository) -> list[LockInfo]:
    """The locks of those that may be writing packs: all but those of restores and verifications. Raises StorageError.

    A repository that can't be written to is read by this host's clock, as a directory's takes writing.
    """
    try:
        now = repo.store.clock()
    except (Denied, Permanent, StoreFull):
        now = time.time()
    return [lock for lock in read_locks(repo.store, repo.load, now=now) if not _READER.search(lock.hostname)]


def list_again(
    store: ObjectStore, packs: Iterable[bytes], look_after: Callable[[], None]
) -> Iterator[tuple[bytes, int]]:
    """The packs that lie where these do, with their sizes in bytes. Costs no more than a listing of them all."""
    for folder in sorted({pack.hex()[:2] for pack in packs}):
        for name, info in named(store, f"data/{folder}/", look_after):
            yield bytes.fromhex(name), info.size


def doomed(store: ObjectStore, look_after: Callable[[], None]) -> set[bytes]:
    """The packs that a prune has noted, to be deleted later: no index lists them, and that is as it should be."""
    return {bytes.fromhex(name) for name, _ in named(store, DOOMED, look_after)}


def damaged_keys(store: ObjectStore) -> Iterator[tuple[bool, str, str]]:
    """What is wrong with key files: whether it is an error, the key, what. Those that are being removed are none."""
    for one in read_keys(store):
        if one.problem:
            going = "; it is being removed, and `holdfast keys SOURCE remove` ends that" if one.going else ""
            yield not one.going, f"key {one.id}", f"{one.problem}{going}"


def notes(store: ObjectStore, look_after: Callable[[], None]) -> Iterator[str]:
    """The keys of what is sealed below holdfast/."""
    for prefix in (COMMITS, HOLDS, FORGOTTEN, DOOMED):
        for info in store.list(prefix):
            look_after()
            yield info.key


def faults(indexed: Mapping[bytes, int], listed: Mapping[bytes, int]) -> Iterator[tuple[bytes, str]]:
    """What is wrong with packs, by their sizes in the index and in the listing, in bytes."""
    for pack, size in indexed.items():
        found = listed.get(pack)
        if found is None:
            yield pack, "it is missing"
        elif found != size:
            yield pack, f"expected {size} bytes by the index, it has {found}"
