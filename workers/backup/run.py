"""One backup, from forking the helpers to the committed snapshot.

    fork -> open or create -> a commit of this run? -> shared lock -> parent
    -> scan, while the lock's 200 ms pass -> index -> pass until the root is whole -> commit

Nothing here is Celery's or Redis's. SIGINT and SIGTERM end the run cleanly: what was uploaded is indexed,
the lock is given back, Interrupted is raised.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar

from shared.errors import BackupError, Interrupted
from shared.repository.absent import absent_packs, marked_packs
from shared.repository.errors import RepositoryMissing
from shared.repository.gojson import time_string
from shared.repository.indexcache import IndexCache
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.repository.status import Gathered, settle_status
from workers.access import is_remote, open_index, preload, repository_store
from workers.backup import commit as commits
from workers.backup.engine import sources, stream
from workers.backup.engine.assembly import Assembler, RecordLost
from workers.backup.engine.coordinator import Coordinator, Counts
from workers.backup.engine.helper import Helper
from workers.backup.engine.known import Known
from workers.backup.engine.own import leave_out
from workers.backup.engine.packer import Packer, Uploader
from workers.backup.engine.treecache import NO_REF, Head, Ref, TreeReader, TreeWriter, forget_head, load_head
from workers.backup.finish import check_tags, describe, existing_result, fill_in
from workers.backup.hooks import Hooks
from workers.backup.journal import Journal
from workers.backup.mounts import make_mounts_private
from workers.backup.spec import BackupResult, BackupSpec
from workers.careful import stop_signals
from workers.helpers import HelperPool
from workers.limits import obey

OnEvent = Callable[[dict[str, Any]], None]
TREE_SHARE = 4  # packs of trees are so much smaller: they are few, and all of the last one is uploaded at the end
PASSES = 4  # scans of one run, where the index or the cache changed under it
PROGRESS = 0.5  # seconds between progress events


def run_backup(spec: BackupSpec, on_event: OnEvent, steps: type[BackupRun] | None = None) -> BackupResult:
    """Back up one source to one site. To be called in a process with one thread, as helpers are forked.

    `on_event` gets {"event": "progress" | "packed" | "phase" | "note", ...}. `steps`: in place of those of a backup
    in one piece. Raises HoldfastError's tree.
    """
    steps = steps or BackupRun
    check_tags(spec.labels)
    resolved = _resolve(spec)
    spec.selection = resolved.selection
    notes = obey(spec.limits)
    if spec.stream is None:
        notes += leave_out(spec, resolved.paths)
    for note in notes:
        on_event({"event": "note", "message": note})
    preload(spec.site)
    if spec.hooks is not None and spec.hooks.private_mounts:
        make_mounts_private(spec.source)  # before helpers are forked: they share them
    with stop_signals() as stopping:
        # A stream is read by one helper, whose threads take the cores.
        count = steps.helpers if steps.helpers is not None else 1 if spec.stream else _cores(spec)
        pool = HelperPool(count, lambda channel: Helper(channel, spec).run())
        run = steps(spec, resolved, pool, on_event, stopping)
        try:
            result = run.run()
        except BrokenPipeError:
            raise  # whoever was listening to us is gone
        except OSError as error:  # a site's trouble is StorageError: this is our own disk
            where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
            raise BackupError(
                f"source {spec.source}: a local file can't be used: {error.strerror or error}{where}",
                hint=f"See to the space and rights of {spec.cache_dir}, or remove it: it is only a cache",
            ) from error
        finally:
            run.hooks.end()
            pool.close()
    result.notes = [*notes, *run.notes]
    return result


def _resolve(spec: BackupSpec) -> sources.Resolved:
    if spec.stream is not None:
        return sources.of_stream(spec.stream)
    return sources.resolve(spec.selection, must_exist=spec.hooks is None or not spec.hooks.before)


def _cores(spec: BackupSpec) -> int:
    return spec.helpers or len(os.sched_getaffinity(0))


class BackupRun:
    """The steps of one run, with what they share. `shards.run` has others."""

    helpers: ClassVar[int | None] = None  # None: one per core

    def __init__(
        self,
        spec: BackupSpec,
        resolved: sources.Resolved,
        pool: HelperPool,
        on_event: OnEvent,
        stopping: Callable[[], bool],
    ) -> None:
        self._spec = spec
        self._resolved = resolved
        self._pool = pool
        self._on_event = on_event
        self._stopping = stopping
        self._started = time.monotonic()
        self._began = time.time_ns()
        self._told = 0.0
        self._resumed = 0
        self._warnings: list[str] = []
        self._lost: set[bytes] = set()
        self._index: IndexCache | None = None
        self._gathered = Gathered()  # what is there beside what this run commits
        self.notes: list[str] = []
        self.hooks = Hooks(spec)

    def run(self) -> BackupResult:
        """All of it. Raises HoldfastError's tree."""
        spec = self._spec
        self.hooks.begin()
        repo = self._repo = self._open()
        repo.require_writable()
        self._journal = Journal(spec.cache_dir, repo.restic_id, spec.site.id, spec.run)
        found = self._find()
        if found.state in (commits.State.DONE, commits.State.FORGOTTEN):
            self._journal.remove()
            if found.state is commits.State.DONE:  # an attempt before may have been killed between it and its status
                self.notes += settle_status(repo)
            return existing_result(spec, found, time.monotonic() - self._started)
        self._lock = repo.lock(holder=f"{spec.host or os.uname().nodename}/holdfast/{spec.run}")
        self._known = Known(repo, self._lock, self._packed)
        self._lock.begin()
        try:
            if found.state is commits.State.OPEN and found.snapshot is not None:
                # Killed between commit and snapshot: where the winner is whole there is nothing to read.
                self._make_known(compare=True)
                if commits.is_whole(repo, found.snapshot, self._known.index, self._look_after):
                    done = commits.finish_open(repo, found, self._lock)
                    self._journal.remove()
                    self.notes += settle_status(repo)
                    return existing_result(spec, done, time.monotonic() - self._started)
            return self._back_up()
        finally:
            self._known.end()
            self._lock.release()

    def _find(self) -> commits.Commit:
        """What an earlier attempt has committed."""
        return commits.find_commit(self._repo, self._spec.run)

    def _open(self) -> Repository:
        spec = self._spec
        # What is still to be sent once it was told to stop is little, and is not held up.
        store = repository_store(spec.site, spec.repository, look=self._stopping)
        try:
            return Repository.open(store, *spec.passwords).cached(spec.cache_dir, spec.site.id or spec.site.url)
        except RepositoryMissing:
            if not spec.fleet_secret:
                raise
            self._on_event({"event": "phase", "phase": "create", "repository": spec.repository})
            return Repository.create(
                store,
                repository_id=spec.repository,
                fleet_secret=bytes.fromhex(spec.fleet_secret),
                recovery_password=spec.recovery_password,
            )

    def _make_known(self, *, compare: bool = False) -> None:
        """Read the index, which must not happen before the lock is confirmed; then take up the journal.

        A full run, and one that is to `compare`, looks at the listing of all packs too.
        """
        spec, repo = self._spec, self._repo
        self._lock.confirm()
        index = self._index = open_index(repo, spec.site, spec.repository, spec.cache_dir, load=self._load_index)
        compare = compare or spec.kind == "full"
        self._absent = (
            absent_packs(repo.store, index.packs(), self._look_after) if compare else marked_packs(repo.store)
        )
        self._resumed = self._known.open(index, self._absent, [*spec.journal, *self._journal.read()])

    def _load_index(self, name: str) -> Iterator[tuple[bytes, list[Blob]]]:
        """What an index file lists. With an empty cache there may be thousands of them, a second each."""
        if self._known.ready:
            self._lock.maintain()  # in mid-pass it is the coordinator that stops, and keeps what is packed
        else:
            self._look_after()
        return self._known.load_index(name)

    def _back_up(self) -> BackupResult:
        parent = self._parent()
        if parent is None:
            self._spec.kind = "full"  # it reads every byte: so let it trust nothing else either, and count as one
        with self.hooks.around(self._look_after, self._pool.close) as results:
            results.append(self._passes(parent))
        return results[0]

    def _parent(self) -> Snapshot | None:
        self._gathered = Gathered()
        # One that can't be read must not stop backups.
        snapshots = self._repo.snapshots(lambda _, error: self._warnings.append(str(error)))
        return sources.find_parent(
            self._gathered.through(snapshots), self._spec.tagged, self._resolved.paths, self._look_after
        )

    def _trees_folder(self) -> str:
        """Where the trees of the source's last snapshot are kept on this machine."""
        name = sources.cache_name(self._repo.restic_id, self._spec.site.id, self._spec.tagged)
        return os.path.join(self._spec.cache_dir, "trees", name)

    def _passes(self, parent: Snapshot | None) -> BackupResult:
        """Scan and commit; again where something that was taken as stored is not."""
        spec, folder = self._spec, self._trees_folder()
        for _ in range(PASSES):
            head = load_head(folder)
            if head is not None and (parent is None or head.snapshot != parent.id):
                head = None
            rewrite = head is None or TreeWriter.wants_rewrite(folder, head)
            writer = TreeWriter(folder, None if rewrite else head)
            try:
                done = self._one_pass(parent, head, folder, writer, rewrite=rewrite)
            except RecordLost:
                forget_head(folder)
                writer.discard()
                continue
            except BaseException:
                writer.discard()
                raise
            if done is not None:
                return done
            writer.discard()
        raise BackupError(
            f"source {spec.source}: the repository's index changed under the run {PASSES} times",
            hint="Something else prunes the repository without respecting locks; stop it and run this again",
        )

    def _one_pass(
        self, parent: Snapshot | None, head: Head | None, folder: str, writer: TreeWriter, *, rewrite: bool
    ) -> BackupResult | None:
        """Scan once and commit; None where something that was taken as stored turned out not to be."""
        spec, repo = self._spec, self._repo
        segments = head.segments if head else []
        reader = TreeReader(folder, segments)
        uploads = spec.site.connections if is_remote(spec.site) else 1
        uploader = Uploader(repo.store, uploads=1, spool=spec.cache_dir)
        trees = Packer(
            repo.key, uploader, BlobType.TREE, level=spec.compression_level, target=spec.pack_size // TREE_SHARE
        )
        root_ref: Ref = head.root if head else NO_REF
        coordinator = Coordinator(
            self._pool,
            self._known,
            lambda store: Assembler(reader, writer, store, rewrite=rewrite),
            trees,
            uploader,
            roots=self._resolved.partial,
            parent=(parent.tree, root_ref) if parent else None,
            on_tick=self._tick,
            stopping=self._stopping,
            stream=stream.directories(spec.stream.path, self._began) if spec.stream else None,
        )
        began = (parent.began or parent.time) if parent else 0
        limit, limits = sources.trusted_before(began)
        self._pool.broadcast(
            (
                "open",
                {
                    "key": repo.key.to_bytes(),
                    "uploads": max(1, uploads // len(self._pool)),
                    "threads": _cores(spec),
                    "began": self._began,
                    "first": parent is None,
                    "trees": folder,
                    "segments": segments,
                    "devices": sources.device_ids(self._resolved.paths),
                    "limit": limit,
                    "limits": limits,
                    "reread": spec.kind == "full" or parent is None,
                    "distrusted": self._lost,
                },
            )
        )

        def make_ready() -> bool:
            if not self._known.ready:
                self._make_known()
            known_whole = head is not None and set(head.index_ids) <= self._known.index.index_ids
            return known_whole and not self._absent and not self._lost and spec.kind == "incremental"

        try:
            root = coordinator.run(make_ready, self._lock.settles_at)
        except RecordLost:
            coordinator.abandon()  # what helpers had claimed must not pass for stored in the next pass
            raise
        finally:
            trees.discard()
            uploader.let_end()
            reader.close()
        if root is None:
            raise BackupError(
                f"source {spec.source}: nothing of it could be read: {'; '.join(coordinator.counts.listed[:3])}",
                hint="Check that its paths are mounted, and readable for the user that runs this",
            )
        self._known.index.refresh()
        if coordinator.lost or not self._known.relied_on <= self._known.index.index_ids:
            self._lost |= coordinator.lost
            self._known.begin_pass()
            return None
        self._lock.ensure_held()
        return self._commit(coordinator.counts, root, parent, writer)

    def _commit(
        self, counts: Counts, root: tuple[bytes, Ref], parent: Snapshot | None, writer: TreeWriter
    ) -> BackupResult:
        result = self._put(counts, root[0], parent, began=self._began)
        if result.existed:
            writer.discard()
            return result
        with suppress(OSError):  # the snapshot stands: without the cache the next scan is only slower
            writer.publish(result.snapshot, root[1], self._known.index.index_ids)
        return result

    def _put(self, counts: Counts, tree: bytes, parent: Snapshot | None, *, began: int) -> BackupResult:
        """Commit a tree, all of which is stored. `began` by the source's clock, in nanoseconds."""
        spec, repo = self._spec, self._repo
        snapshot, json = describe(
            spec, self._resolved, counts, tree, parent, began=began, now=int(repo.store.clock() * 1e9)
        )
        stands = commits.put_snapshot(repo, spec.run, json, self._known.index, self._lock, self._look_after)
        result = existing_result(spec, stands, time.monotonic() - self._started)
        result.existed = stands.snapshot is None or stands.snapshot.tree != snapshot.tree
        self._journal.remove()
        if stands.state is commits.State.DONE and stands.snapshot is not None:
            self._gathered.add(stands.snapshot)
            self.notes += settle_status(repo, self._gathered)
        if result.existed:
            return result
        result.parent = parent.id if parent else ""
        result.time = time_string(snapshot.time)
        return self._said(result, counts)

    def _said(self, result: BackupResult, counts: Counts) -> BackupResult:
        """The result with what was met."""
        result.warnings = self._warnings
        fill_in(result, counts)
        result.bytes_stored = self._known.bytes_stored
        result.packs_stored = self._known.packs_stored
        result.packs_resumed = self._resumed
        return result

    def _packed(self, pack: str) -> None:
        self._journal.add(pack)
        self._on_event({"event": "packed", "pack": pack})

    def _look_after(self) -> None:
        """Keep the lock, and heed a signal, in a long stretch outside of a pass, which has ticks of its own."""
        self._lock.maintain()
        if self._stopping():
            raise Interrupted("the backup was stopped", hint="What was uploaded is indexed; run it again")

    def _tick(self, counts: Counts) -> None:
        self._lock.maintain()
        now = time.monotonic()
        if now - self._told >= PROGRESS:
            self._told = now
            self._on_event(
                {
                    "event": "progress",
                    "files": counts.files_new + counts.files_changed + counts.files_unmodified,
                    "bytes": counts.bytes_processed,
                    "bytes_read": counts.bytes_read,
                    "bytes_stored": self._known.bytes_stored,
                    "problems": counts.problems,
                }
            )
