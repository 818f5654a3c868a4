"""Index files put in the place of those that are damaged or list what is to leave, under an exclusive lock.

Invariant: what an index file lists, but for packs that leave, stands in new files before it is deleted. A pack leaves
that was read here just now and is not what its name says, and of which all that is needed lies in other packs; one that
is whole is listed by its own header. A damaged index file goes once every pack here that no other lists is listed anew.

That needs no epoch, as deleting packs and snapshots does: an index file is of this site alone, and what leaves it can't
be read. No pack is deleted here: a prune takes those that no index lists, and needs the epoch for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from shared.repository.absent import QUARANTINE
from shared.repository.errors import Damaged
from shared.repository.pack import Blob
from shared.repository.repository import Repository, pack_key
from shared.storage.api import MissingObject
from workers.careful import Careful
from workers.healing.packs import Packs
from workers.maintenance import inventory
from workers.maintenance.prune_index import IndexRewrite
from workers.maintenance.spec import Healing, VerifySpec
from workers.maintenance.verify_helper import open_sound_index


class Replacing:
    """For one turn under the lock that `careful` holds."""

    def __init__(self, repo: Repository, spec: VerifySpec, careful: Careful, packs: Packs, done: Healing) -> None:
        self._repo = repo
        self._spec = spec
        self._careful = careful
        self._packs = packs
        self._done = done

    def replace(
        self,
        leaving: AbstractSet[bytes],
        wrong: Mapping[bytes, list[Blob]],
        unreadable: AbstractSet[str],
        cache_dir: str,
    ) -> set[bytes]:
        """Write index files anew; the packs that none lists any more.

        `leaving`: packs that are broken; `wrong`: packs that an index does not list as they are, with their blobs;
        `unreadable`: index files that are damaged. Raises Locked, StorageError.
        """
        self._repo.store.delete(f"index/{'0' * 64}")  # there is none: who may not delete is to write nothing either
        damaged = frozenset(name for name in unreadable if self._is_damaged(name))
        gone = {pack for pack in leaving if not self._packs.is_whole(pack)}
        repo, spec, look = self._repo, self._spec, self._careful.look
        index = open_sound_index(repo, spec.site, spec.repository, cache_dir, damaged, self._careful.look_again)
        try:
            names = sorted(index.listing(gone | wrong.keys()) - damaged)
        finally:
            index.close()
        rewrite = IndexRewrite(repo, gone | wrong.keys(), frozenset(), look)
        for name in names:
            self._careful.look_again()
            rewrite.take_file(name)
        for pack, blobs in wrong.items():
            rewrite.add(pack, blobs)
        rewrite.finish()
        self._done.index_files_written += rewrite.written
        self._careful.look()
        self._careful.each(lambda name: repo.store.delete(f"index/{name}"), [*names, *sorted(damaged)])
        self._count(gone, wrong, damaged)
        self._careful.each(self._unmark, sorted(gone - self._here(gone)))
        return gone

    def _is_damaged(self, name: str) -> bool:
        try:
            self._repo.load_index(name)
        except Damaged:
            return True
        except MissingObject:
            pass
        return False

    def _here(self, packs: set[bytes]) -> set[bytes]:
        return {pack for pack, _ in inventory.list_again(self._repo.store, packs, self._careful.look_again)}

    def _unmark(self, pack: bytes) -> None:
        """A prune takes the mark of a pack that it deletes; nobody would take that of one that is gone."""
        self._repo.store.delete(QUARANTINE + pack.hex())

    def _count(self, gone: set[bytes], wrong: Mapping[bytes, list[Blob]], damaged: AbstractSet[str]) -> None:
        for pack in gone:
            self._done.heal(pack_key(pack), "other packs")
        for pack in wrong:
            self._done.heal(pack_key(pack), "pack headers")
        for name in sorted(damaged):
            self._done.heal(f"index/{name}", "pack headers")
