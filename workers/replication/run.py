"""A replication from beginning to end: what one site has of a source, and another one lacks, is brought over.

    plan, without locks: where nothing is owed nothing is written, and nobody is held up
    the repository is made there, if there is none
    shared locks at both ends -> plan again -> some snapshots at a time, the newest first:
        their trees are walked, and compared by blob with the other site's index
        packs are copied whole
        our lock there is looked at; a new index file lists them
        our lock there is looked at again; the snapshots' bytes are put

That order is what a crash leaves a sound state by: a snapshot is at a site only when all it refers to is there and
indexed. It only adds. Packs that a broken off one has left are found lying there, and are not copied again. Index files
and locks are never copied: an index is of one site.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from shared.errors import Interrupted
from shared.evidence import evidence_of
from shared.repository.absent import QUARANTINE, marked_packs
from shared.repository.committed import SNAPSHOTS
from shared.repository.errors import Damaged, RepositoryMissing
from shared.repository.index import FLUSH_BLOBS, encode_index
from shared.repository.locks import RepositoryLock
from shared.repository.pack import Blob
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.repository.status import settle_status
from shared.storage.api import Denied, MissingObject, ObjectStore, Permanent, StoreFull
from workers.access import is_remote, open_index, repository_store
from workers.backup.spec import SiteSpec
from workers.careful import stop_signals
from workers.limits import obey
from workers.replication import target as targets
from workers.replication.copying import Arrived, Copier
from workers.replication.keyfiles import follow_keys
from workers.replication.owed import Plan, make_plan
from workers.replication.spec import SHOWN, ReplicateReport, ReplicateSpec
from workers.replication.walk import BadPack, Walk

OnEvent = Callable[[dict[str, Any]], None]

TOGETHER = 64  # snapshots that are brought over together, at most
_LITTLE = 64 << 20  # bytes: a group that had less to copy is followed by one of twice as many
_LISTED_FOR = 16  # packs for which all that lie there are listed, a page of a listing each time
_PAGE = 1000  # objects of a listing that come with one request
_TICK = 0.25  # seconds between two words on progress
_STOPPED = "the replication was stopped"
_AGAIN = "What was copied stays; the next one goes on from there"


def run_replicate(spec: ReplicateSpec, on_event: OnEvent) -> ReplicateReport:
    """Bring over what `spec` says.

    `on_event` gets {"event": "progress", "phase", "snapshots", "snapshots_total", "packs", "packs_total", "bytes",
    "bytes_total"}. A snapshot that is damaged at the origin, or needs what is, is in the report's problems. Raises
    RepositoryMissing (at the origin), AnotherRepository, WrongPassword, Locked, other RepositoryErrors, StorageError,
    Interrupted; what was copied stays, and the next one goes on.
    """
    began = time.monotonic()
    notes = obey(spec.limits)
    with stop_signals() as stopping:
        back = _way_back(spec, on_event, stopping) if spec.both_ways else None
        report = _Replication(spec, on_event, stopping).run()
    if back is not None:
        report.take_back(back)
    report.notes += notes
    report.duration = time.monotonic() - began
    return report


def _way_back(spec: ReplicateSpec, on_event: OnEvent, stopping: Callable[[], bool]) -> ReplicateReport | None:
    """First what the site alone has: it may be gone again soon. None where it has no repository yet."""
    try:
        return _Replication(spec.way_back(), on_event, stopping).run()
    except RepositoryMissing:
        return None


class _Replication:
    def __init__(self, spec: ReplicateSpec, on_event: OnEvent, stopping: Callable[[], bool]) -> None:
        self._spec = spec
        self._on_event = on_event
        self._stopping = stopping
        self._ticked = 0.0
        self._phase = "plan"
        self._total = [0, 0]  # packs, and their bytes, that are wanted so far
        self._done = [0, 0]
        self._listed: list[tuple[bytes, list[Blob]]] = []  # packs that are there and that no index file lists yet
        self._relisted: set[bytes] = set()  # packs there that count as absent though an index file lists them
        self._suspect: frozenset[bytes] = frozenset()  # packs there that are in quarantine
        self.report = ReplicateReport(spec.source, spec.repository, spec.site.id, spec.origin.id, spec.dry_run)

    def run(self) -> ReplicateReport:
        spec, report = self._spec, self.report
        self._origin = self._open(spec.origin)
        store = repository_store(spec.site, spec.repository, look=self._heed)
        found = targets.find(store, self._origin, spec.passwords)
        plan = make_plan(self._origin, self._at_target(found), spec)
        if found is not None and not spec.dry_run:
            self._follow_keys(store, plan)
        arrived: list[Snapshot] = []
        if plan.owed and not spec.dry_run:
            if found is None:
                found, report.created = targets.create(store, self._origin, spec.passwords), True
            self._target = self._at_target(found) or found
            with self._locks():
                plan = make_plan(self._origin, self._target, spec)
                report.owed = len(plan.owed)
                if plan.owed:
                    arrived = self._bring_all(plan.owed)
                if arrived:
                    for one in arrived:
                        plan.gathered.add(one)
                    report.notes += settle_status(self._target, plan.gathered)
        self._sum_up(plan, arrived)
        return report

    def _follow_keys(self, store: ObjectStore, plan: Plan) -> None:
        """Who may not write or remove key files there brings snapshots over all the same."""
        keep = self._spec.passwords
        try:
            followed = follow_keys(self._origin.store, store, plan.forgotten, plan.forgotten_there, keep)
        except (Denied, Permanent, StoreFull) as error:
            self.report.notes.append(f"key files do not follow to {self.report.site}: {error}")
            return
        self.report.keys = len(followed.put) + len(followed.removed)
        self.report.notes += followed.notes

    def _open(self, site: SiteSpec) -> Repository:
        spec = self._spec
        store = repository_store(site, spec.repository, look=self._heed)
        repo = Repository.open(store, *spec.passwords).cached(spec.cache_dir, site.id or site.url)
        repo.require_writable()
        return repo

    def _at_target(self, found: Repository | None) -> Repository | None:
        site = self._spec.site
        return found.cached(self._spec.cache_dir, site.id or site.url) if found is not None else None

    def _sum_up(self, plan: Plan, arrived: Sequence[Snapshot]) -> None:
        spec, report, source = self._spec, self.report, self._spec.tagged
        for name, why in plan.damaged.items():
            report.add(f"snapshot {name}", f"it can't be read at {report.origin}: {why}")
        report.owed = len(plan.owed)
        report.snapshots = len(arrived)
        report.arrived = [one.id for one in (plan.owed if spec.dry_run else arrived)[:SHOWN]]
        report.pending = report.owed - report.snapshots
        there = [*plan.there, *(one for one in arrived if one.source == source)]
        evidence = evidence_of(source, there)
        if evidence is not None:
            report.last, report.last_full = evidence.last, evidence.last_full
        good = max((one for one in there if one.complete), key=lambda one: one.began or one.time, default=None)
        if good is not None:
            report.good, report.good_began = good.id, (good.began or good.time) / 1e9

    # -- locks ------------------------------------------------------------------------------------

    @contextmanager
    def _locks(self) -> Iterator[None]:
        """Shared ones, at both ends: nothing is pruned or forgotten there meanwhile. Raises Locked."""
        holder = f"{os.uname().nodename}/holdfast/{self._spec.run}"
        self._lock = self._target.lock(holder=holder)
        self._lock.begin()
        at_origin: RepositoryLock | None = None
        try:
            at_origin = self._origin.lock(holder=holder)
            try:
                at_origin.begin()
            except (Denied, Permanent, StoreFull) as error:
                at_origin = None  # all that is read there is verified
                self.report.notes.append(f"no lock at {self.report.origin}, as it can't be written to: {error}")
            self._lock.confirm()
            if at_origin is not None:
                at_origin.confirm()
            self._at_origin = at_origin
            yield
        finally:
            self._lock.release()
            if at_origin is not None:
                at_origin.release()

    # -- bringing over ----------------------------------------------------------------------------

    def _bring_all(self, owed: Sequence[Snapshot]) -> list[Snapshot]:
        spec = self._spec
        connections = max(self._origin.store.connections, self._target.store.connections)
        here = open_index(self._origin, spec.origin, spec.repository, spec.cache_dir)
        self._there = open_index(self._target, spec.site, spec.repository, spec.cache_dir)
        self._here = here
        threads = ThreadPoolExecutor(connections)
        try:
            remote = is_remote(spec.origin)
            self._walk = Walk(self._origin, here, self._there, threads, self._walking, remote=remote)
            self._walk.absent |= marked_packs(self._target.store)
            self._walk.doubtful = marked_packs(self._origin.store)
            if self._walk.absent:
                self._relisted = {pack for pack, _ in self._there.packs() if pack in self._walk.absent}
                names = (info.key.rpartition("/")[2] for info in self._target.store.list(QUARANTINE))
                self._suspect = frozenset(bytes.fromhex(name) for name in names if len(name) == 64)
            self._threads = threads
            self._copier = Copier(self._origin, self._target, threads)
            self._known = sum(1 for _ in self._there.packs())
            return list(self._in_groups(owed))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # at once: what is under way ends by itself
            here.close()
            self._there.close()

    def _in_groups(self, owed: Sequence[Snapshot]) -> Iterator[Snapshot]:
        """The newest alone, so that it is there soon; then more at a time, for as long as they are small."""
        at, count = 0, 1
        while at < len(owed):
            group, before = owed[at : at + count], self._done[1]
            at += len(group)
            try:
                yield from self._bring(group)
            except Damaged as error:
                yield from self._one_by_one(group, error)
            count = min(TOGETHER, 2 * count) if self._done[1] - before < _LITTLE else 1

    def _one_by_one(self, group: Sequence[Snapshot], error: Damaged) -> Iterator[Snapshot]:
        """One of these can't be brought over, and holds up no other."""
        for one in group:
            try:
                if len(group) > 1:
                    yield from self._bring([one])
                    continue
            except Damaged as own:
                error = own
            self.report.add(f"snapshot {one.id}", str(error.args[0]))

    def _bring(self, group: Sequence[Snapshot]) -> list[Snapshot]:
        """Bring these over, all of them. Raises Damaged where the origin has not, or not whole, what they need."""
        walk, before = self._walk, len(self._walk.bad)
        while True:
            self._say("walk")
            walked: set[bytes] = set()
            try:
                packs, walked = walk.needs(one.tree for one in group)
                self._copy(packs)
            except BadPack as error:
                walk.bad.setdefault(error.pack, str(error.args[0]))
            finally:
                self._flush()
            if len(walk.bad) == before:
                break
            # Something else at the origin may have what that pack should: each time there is one less to ask.
            before = len(walk.bad)
            walk.walked -= walked
        return self._put(group)

    def _copy(self, packs: set[bytes]) -> None:
        sizes = {pack: size for pack, size in self._here.packs() if pack in packs} if packs else {}
        if len(sizes) > _LISTED_FOR * (1 + self._known // _PAGE):
            self._copier.look_around()
        self._total[0] += len(sizes)
        self._total[1] += sum(sizes.values())
        self._say("copy")
        for one in self._copier.copy(sizes, self._suspect, self._look_after):
            if isinstance(one, BadPack):
                self._walk.bad[one.pack] = str(one.args[0])
                continue
            self._take(one)

    def _take(self, one: Arrived) -> None:
        report = self.report
        report.packs += one.copied
        report.bytes += one.size if one.copied else 0
        report.packs_there += not one.copied
        self._done[0] += 1
        self._done[1] += one.size
        if one.pack not in self._relisted:
            self._listed.append((one.pack, one.blobs))
        self._walk.absent.discard(one.pack)
        if sum(len(blobs) for _, blobs in self._listed) >= FLUSH_BLOBS:
            self._write_index()

    def _flush(self) -> None:
        """Have all that arrived listed, and know it."""
        if self._listed:
            self._write_index()
            self._there.refresh()

    def _write_index(self) -> None:
        self._lock.maintain()
        self._lock.ensure_held()
        listed, self._listed = self._listed, []
        name = self._target.save("index", *encode_index(listed))
        self._there.prepare(name, listed)
        self.report.index_files += 1

    def _put(self, group: Sequence[Snapshot]) -> list[Snapshot]:
        self._say("snapshots")
        self._lock.maintain()
        self._lock.ensure_held()
        gone = {one for one in self._threads.map(self._put_one, [one.id for one in group]) if one}
        for name in sorted(gone):
            self.report.notes.append(f"snapshot {name[:8]} was removed at {self.report.origin} meanwhile")
        arrived = [one for one in group if one.id not in gone]
        self.report.snapshots += len(arrived)
        return arrived

    def _put_one(self, name: str) -> str:
        """Put the bytes of a snapshot; its id where they are there no more. Raises Damaged."""
        try:
            stored = self._origin.store.get(SNAPSHOTS + name)
        except MissingObject:
            return name
        if hashlib.sha256(stored).hexdigest() != name:
            raise Damaged(f"snapshot {name[:16]} at {self._origin.store.url}: its bytes do not hash to its name")
        self._target.store.put(SNAPSHOTS + name, stored, sha256=name)
        return ""

    # -- meanwhile --------------------------------------------------------------------------------

    def _heed(self) -> bool:
        if self._stopping():
            raise Interrupted(_STOPPED, hint=_AGAIN)
        return False

    def _walking(self, _trees: int) -> None:
        self._look_after()

    def _look_after(self) -> None:
        self._heed()
        if time.monotonic() - self._ticked >= _TICK:
            self._lock.maintain()
            if self._at_origin is not None:
                self._at_origin.maintain(reader=True)
            self._say(self._phase)

    def _say(self, phase: str) -> None:
        self._phase, self._ticked = phase, time.monotonic()
        counts = {"packs": self._done[0], "packs_total": self._total[0], "bytes": self._done[1]}
        snapshots = {"snapshots": self.report.snapshots, "snapshots_total": self.report.owed}
        said = {"phase": phase, **snapshots, **counts, "bytes_total": self._total[1]}
        self._on_event({"event": "progress", **said})
