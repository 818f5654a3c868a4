"""One turn of a prune under an exclusive lock: both steps, for as much as the time allows.

    snapshots, index and notes are read anew; what is new is walked; all that is used must be there
    step 2   doomed packs whose time has come, and that no index lists: deleted, then their notes
    step 1   used blobs of packs that are mostly unused are copied into new packs
             new index files: what the old ones list, without the packs that leave, and the new packs
             notes holdfast/doomed/<pack> of the packs that leave, and of those that no index lists
             the old index files are deleted
    step 2   for packs that have left the index only now, as stock `rebuild-index` had listed them again

Whatever is the last step that is done: what a snapshot needs is indexed, in a pack that is there. A new pack without
its index file is one that no index lists; with both index files a pack stands in two, with the same entries; with a
note it counts as absent, and what is needed of it stands in a new pack that is indexed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from shared.repository.absent import DOOMED, QUARANTINE
from shared.repository.errors import Damaged
from shared.repository.gojson import time_string
from shared.repository.locks import RepositoryLock
from shared.repository.pack import RECORD_SIZE, BlobType, from_records
from shared.repository.repository import pack_key
from shared.storage.api import Denied, MissingObject
from workers.backup.engine.packer import StoredPack
from workers.careful import Careful, boot_clock
from workers.crew import Task
from workers.maintenance import inventory
from workers.maintenance.prune_index import IndexRewrite
from workers.maintenance.prune_plan import PackUse, Parts, Plan, Survey, make_plan, survey, used_parts
from workers.maintenance.prune_tools import Tools

BATCH = 500  # deletes between two looks
_MAX_INDEXES = 100  # index files that are written anew in one turn
_MAX_BLOBS = 1_000_000  # that are copied in one turn: where they lie takes 44 bytes each
_REPACK_SHARE, _DELETE_SHARE = 0.5, 0.8  # of the time: after that no new one is begun
_NO_REPACK = 100.0  # per cent unused that are allowed
_DOOMED, _QUARANTINED = 1, 2  # as PackUse.marked has it


class Slice:
    """See the module. `listed`: the packs at the site, from before the lock: (size, time) each."""

    def __init__(self, tools: Tools, lock: RepositoryLock | None, listed: dict[bytes, tuple[int, float]]) -> None:
        assert lock is not None  # noqa: S101 -- taken before
        self._began = boot_clock()
        self._tools = tools
        self._repo = tools.repo
        self._spec = tools.spec
        self._report = tools.report
        self._careful = Careful(tools.repo.store, lock, tools.guard, tools.heed)
        self._listed = listed
        self._notes: dict[bytes, float] = {}
        self._marked: dict[bytes, int] = {}
        self._now = 0.0
        self._unfinished = False
        self._survey = Survey()

    def run(self) -> bool:
        """Do it; whether another turn is wanted. Raises what `run_prune` raises."""
        self._look()
        plan = self._plan()
        before = self._progress_made()
        self._report.packs_waiting = self._report.bytes_waiting = 0
        self._wake(plan)
        self._settle([pack for pack in self._notes if pack not in self._survey.packs])
        leaving = self._leave(plan)
        self._settle([pack for pack in leaving if pack in self._notes])
        self._unfinished |= plan.waits
        self._report.done = not (plan.limited or self._unfinished)
        return self._unfinished and self._progress_made() > before

    def only_look(self) -> None:
        """Say what would be done."""
        self._look(save=False)
        plan, report = self._plan(whole=True), self._report
        report.packs_repacked = len(plan.repack)
        report.bytes_repacked = sum(pack.used_bytes for pack in plan.repack)
        fresh = [pack.id for pack in plan.leaving if pack.id not in self._notes] + self._unlisted()
        report.packs_doomed, report.bytes_doomed = self._count(fresh)
        needed = {pack.id for pack in plan.needed}
        due = [pack for pack in self._notes if pack not in needed and self._is_due(pack)]
        report.packs_deleted, report.bytes_deleted = self._count(due)
        waiting = [pack for pack in self._notes if pack not in needed and not self._is_due(pack)]
        report.packs_waiting, report.bytes_waiting = self._count(waiting)
        report.packs_saved = len(needed)
        report.done = not plan.limited

    def _count(self, packs: Iterable[bytes]) -> tuple[int, int]:
        there = [self._listed[pack][0] for pack in packs if pack in self._listed]
        return len(there), sum(there)

    def _progress_made(self) -> int:
        report = self._report
        return report.packs_doomed + report.packs_deleted + report.index_files_deleted + report.packs_saved

    # -- looking ----------------------------------------------------------------------------------

    def _look(self, *, save: bool = True) -> None:
        """Read all anew. Raises Damaged where something that a snapshot needs is nowhere."""
        tools = self._tools
        self._read_notes()
        while True:
            tools.index.refresh()
            self._list_again()
            absent = [pack for pack, size in tools.index.packs() if not self._is_sound(pack, size)]
            tools.crew.broadcast(("look", absent + list(self._marked)))
            tools.walk.walk()
            missing = {(BlobType.TREE, tree) for tree in tools.walk.unfound}
            if not missing:
                self._compare()
                missing = set(self._survey.missing)
            if not missing:
                break
            if not save or not self._save(missing):
                self._refuse(missing)
        self._now = self._repo.store.clock()
        if self._report.slices <= 1:
            packs = self._survey.packs.values()
            self._report.packs = len(packs)
            self._report.bytes = sum(pack.size for pack in packs)
            self._report.bytes_unused = sum(pack.unused_bytes if pack.used else pack.size for pack in packs)
        self._report.snapshots = len(tools.walk.snapshots)

    def _read_notes(self) -> None:
        store, look_after = self._repo.store, self._tools.heed
        quarantined = {bytes.fromhex(name) for name, _ in inventory.named(store, QUARANTINE, look_after)}
        self._notes = {bytes.fromhex(name): info.modified for name, info in inventory.named(store, DOOMED, look_after)}
        self._marked = dict.fromkeys(self._notes, _DOOMED) | dict.fromkeys(quarantined, _QUARANTINED)

    def _list_again(self) -> None:
        """Packs that were stored and indexed since the listing."""
        unlisted = [pack for pack, _ in self._tools.index.packs() if pack not in self._listed]
        for pack, size in inventory.list_again(self._repo.store, unlisted, self._tools.heed):
            self._listed.setdefault(pack, (size, float("inf")))

    def _is_sound(self, pack: bytes, size: int) -> bool:
        return self._listed.get(pack, (-1, 0.0))[0] == size

    def _compare(self) -> None:
        sizes = {pack: size for pack, (size, _) in self._listed.items()}
        used, marked = self._tools.walk.used, self._marked
        self._survey = self._tools.index.scan(
            lambda scan: survey(scan, used, sizes, marked, lambda: self._tools.progress("index", 0, 0))
        )

    def _save(self, missing: set[tuple[BlobType, bytes]]) -> int:
        """Index packs again that no index lists and that hold what is needed, doomed ones or not; how many."""
        indexed = {pack for pack, _ in self._tools.index.packs()}
        rewrite = IndexRewrite(self._repo, frozenset(), frozenset(), self._careful.look)
        saved: list[bytes] = []
        for pack in self._listed.keys() - indexed:
            self._tools.progress("saving", len(saved), 0)
            try:
                blobs = self._repo.pack_header(pack)
            except (Damaged, MissingObject):
                continue
            if any((blob.type, blob.id) in missing for blob in blobs):
                rewrite.add(pack, blobs)
                saved.append(pack)
        rewrite.finish()
        self._report.index_files_written += rewrite.written
        self._report.packs_saved += sum(pack not in self._notes for pack in saved)
        self._wake_packs(saved)
        return len(saved)

    def _refuse(self, missing: set[tuple[BlobType, bytes]]) -> None:
        kind, blob = min(missing)
        unfound = self._tools.walk.unfound
        reason = unfound.get(blob, "it is in no index, or only in a pack that is missing or cut")
        raise Damaged(
            f"{self._repo.store.url}: {kind.name.lower()} {blob.hex()[:16]}, which a snapshot needs: {reason}; "
            f"nothing was pruned ({len(missing):,} such)",
            hint="`holdfast verify` says who suffers. A full backup stores again what its source still has; snapshots "
            "that can't be restored may be forgotten",
        )

    def _plan(self, *, whole: bool = False) -> Plan:
        """What is to be done in one turn; `whole`: in as many as it takes."""
        spec = self._spec
        left = spec.max_repack - self._report.bytes_repacked if spec.max_repack else 0
        return make_plan(
            self._survey.packs.values(),
            max_unused=_NO_REPACK if spec.max_repack and left <= 0 else spec.max_unused,
            max_repack=left,
            max_indexes=sys.maxsize if whole else _MAX_INDEXES,
            max_blobs=sys.maxsize if whole else _MAX_BLOBS,
        )

    # -- step 2 -----------------------------------------------------------------------------------

    def _wake(self, plan: Plan) -> None:
        """What is needed and indexed counts no more as doomed."""
        self._wake_packs([pack.id for pack in plan.needed])

    def _wake_packs(self, packs: Sequence[bytes]) -> None:
        noted = [pack for pack in packs if pack in self._notes]
        for batch in _batches(noted):
            self._careful.look()
            self._careful.each(lambda pack: self._remove(DOOMED + pack.hex()), batch)
            for pack in batch:
                del self._notes[pack]
                self._marked.pop(pack, None)
        self._report.packs_saved += len(noted)

    def _settle(self, packs: Sequence[bytes]) -> None:
        """Doomed packs that no index lists: delete those whose time has come; one that is gone loses its note."""
        due = [pack for pack in packs if pack not in self._listed or self._is_due(pack)]
        done = 0
        for batch in _batches(due):
            if self._is_late(_DELETE_SHARE):
                self._unfinished = True
                break
            self._tools.progress("delete", done, len(due))
            self._careful.look()
            self._careful.each(lambda pack: self._remove(pack_key(pack)), batch)
            quarantined = [pack for pack in batch if self._marked.get(pack) == _QUARANTINED]
            self._careful.each(lambda pack: self._remove(QUARANTINE + pack.hex()), quarantined)
            self._careful.each(lambda pack: self._remove(DOOMED + pack.hex()), batch)
            count, size = self._count(batch)
            self._report.packs_deleted += count
            self._report.bytes_deleted += size
            done += len(batch)
        count, size = self._count([pack for pack in packs if not self._is_due(pack)])
        self._report.packs_waiting += count
        self._report.bytes_waiting += size

    def _is_due(self, pack: bytes) -> bool:
        return self._now - self._notes[pack] >= self._spec.grace

    def _remove(self, key: str) -> None:
        """Delete for good, where the store keeps older versions and we may delete those."""
        store, tools = self._repo.store, self._tools
        if tools.purges:
            try:
                store.purge(key)
            except Denied as error:
                if tools.purges:  # else another thread has said it
                    tools.purges = False
                    self._report.notes.append(f"older versions stay, and take room: {error}")
            else:
                return
        store.delete(key)

    # -- step 1 -----------------------------------------------------------------------------------

    def _leave(self, plan: Plan) -> list[bytes]:
        """Take packs out of the index, and note them; the packs."""
        new, copied = self._repack(plan.repack) if plan.repack else ([], [])
        leaving = plan.unused + copied
        unlisted = self._unlisted()
        if not leaving and not new and not unlisted:
            return []
        self._careful.look()
        names = sorted({index.hex() for pack in leaving for index in pack.indexes})
        self._write_index(names, leaving, new)
        fresh = [pack.id for pack in leaving if pack.id in self._listed and pack.id not in self._notes] + unlisted
        for batch in _batches(fresh):
            self._careful.look()
            self._careful.each(self._note, batch)
        self._careful.look()
        self._tools.progress("index", 0, len(names))
        self._careful.each(lambda name: self._remove(f"index/{name}"), names)
        report = self._report
        report.index_files_deleted += len(names)
        count, size = self._count(fresh)
        report.packs_doomed += count
        report.bytes_doomed += size
        report.packs_repacked += len(copied)
        return [pack.id for pack in leaving]

    def _unlisted(self) -> list[bytes]:
        """Packs that no index lists and that have no note. A young one may be taken up by a run that is resumed."""
        packs, young = self._survey.packs, self._now - self._spec.spare
        return sorted(
            pack
            for pack, (_, modified) in self._listed.items()
            if pack not in packs and pack not in self._notes and modified <= young
        )

    def _write_index(self, names: Sequence[str], leaving: Sequence[PackUse], new: Sequence[StoredPack]) -> None:
        gone = frozenset(pack.id for pack in leaving)
        twice = frozenset(pack.id for pack in self._survey.packs.values() if len(pack.indexes) > 1)
        rewrite = IndexRewrite(self._repo, gone, twice, self._careful.look)
        for done, name in enumerate(names):
            self._tools.progress("index", done, len(names))
            rewrite.take_file(name)
        for pack, _, kind, records in new:
            rewrite.add(pack, from_records(BlobType(kind), records))
        rewrite.finish()
        self._report.index_files_written += rewrite.written

    def _note(self, pack: bytes) -> None:
        fields = {"pack": pack.hex(), "time": time_string(int(self._now * 1e9)), "by": self._spec.run}
        self._repo.store.put(DOOMED + pack.hex(), self._repo.seal_small(orjson.dumps(fields)))

    def _repack(self, packs: Sequence[PackUse]) -> tuple[list[StoredPack], list[PackUse]]:
        """Copy what is used of these; the new packs, and those of the old that nothing is needed of any more."""
        wanted = {pack.id: pack for pack in packs}
        used, found = self._tools.walk.used, self._survey
        parts = self._tools.index.scan(
            lambda scan: used_parts(
                scan, used, found, wanted.keys(), lambda: self._tools.progress("repack", 0, len(packs))
            )
        )
        # What is copied must be all that counts as used there, or the pack may not leave.
        pending = [pack for pack in reversed(packs) if _blobs_of(parts.get(pack.id, [])) == pack.used]
        new: list[StoredPack] = []
        copied: list[PackUse] = []

        def next_task() -> Task | None:
            if not pending or self._is_late(_REPACK_SHARE):
                return None
            pack = pending.pop()
            return "repack", pack.id, parts.pop(pack.id)

        def handle(answer: Any) -> None:
            _, pack, wrong, stored = answer
            new.extend(stored)
            if wrong:
                self._report.notes.append(f"left alone, as it can't be read whole: pack {pack.hex()}: {wrong}")
            else:
                copied.append(wanted[pack])
            self._tools.progress("repack", len(copied), len(packs))

        self._tools.crew.run(next_task, handle)
        self._tools.crew.broadcast(("flush",), lambda answer: new.extend(answer[1]))
        self._unfinished |= bool(pending)
        self._report.bytes_repacked += sum(pack.used_bytes for pack in copied)
        self._report.packs_written += len(new)
        return new, copied

    def _is_late(self, share: float) -> bool:
        return boot_clock() - self._began > share * self._spec.slice


def _blobs_of(parts: Parts) -> int:
    return sum(len(records) // RECORD_SIZE for _, records in parts)


def _batches(packs: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (packs[at : at + BATCH] for at in range(0, len(packs), BATCH))
