"""A restore from beginning to end: the coordinator.

    fork helpers -> open -> choose -> look at the target -> plan (nothing written) -> room? ->
    make small nodes -> fill from packs, each read once -> links -> directories, deepest first -> verify

Invariant: nothing is written before the plan is complete and has room. Whatever ends it early, what is
there is whole, and the same restore run again goes on from it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from shared.errors import Interrupted, RestoreError, UsageError
from shared.repository.absent import absent_packs
from shared.repository.locks import RepositoryLock
from shared.repository.pack import Blob
from shared.repository.repository import Repository
from workers.access import WholeFirst, is_remote, open_index, open_repository, preload
from workers.careful import stop_at_sigterm
from workers.crew import Crew, Task
from workers.helpers import HelperPool
from workers.limits import obey
from workers.restore import helper
from workers.restore.choose import choose_snapshot, find_paths, find_tree
from workers.restore.lock import begin_lock
from workers.restore.places import quoted, shown
from workers.restore.plan import Plan
from workers.restore.selection import DROPPED, Selection, relative
from workers.restore.spec import RestoreResult, RestoreSpec
from workers.restore.target import Target, examine
from workers.restore.walk import Directory
from workers.restore.within import admit_in_place

OnEvent = Callable[[dict[str, Any]], None]

_KEPT_PROBLEMS = 100
_KEPT_METADATA = 10
_WALK_BATCH = 256  # directories planned in one task at most: the more, the fewer reads of the index


def run_restore(spec: RestoreSpec, on_event: OnEvent) -> RestoreResult:
    """Restore what `spec` says. To be called in a process without threads or connections: it forks.

    `on_event` gets {"event": "progress", "phase", "files", "files_total", "bytes", "bytes_total", "errors"} a few
    times a second. Raises ConfigError, UsageError, RepositoryError, StorageError, RestoreError, Interrupted;
    what concerns single nodes is in the result instead.
    """
    began = time.monotonic()
    stop_at_sigterm()
    if spec.overwrite not in ("", "always", "if-changed", "if-newer", "never"):
        raise UsageError(f"{spec.overwrite!r} is no overwrite policy", hint="always, if-changed, if-newer or never")
    notes = obey(spec.limits)
    preload(spec.site)
    count = spec.helpers or len(os.sched_getaffinity(0)) * (2 if is_remote(spec.site) else 1)
    pool = HelperPool(count, helper.main)
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as temporary:
            restore = _Restore(spec, on_event, pool, spec.cache_dir or temporary)
            try:
                result = restore.run()
            finally:
                restore.close()
    except KeyboardInterrupt:
        raise Interrupted(
            "the restore was interrupted", hint="What is there is whole; run the same restore again and it goes on"
        ) from None
    finally:
        pool.close()
    result.notes += notes
    result.duration = time.monotonic() - began
    return result


class _Restore:
    def __init__(self, spec: RestoreSpec, on_event: OnEvent, pool: HelperPool, cache_dir: str) -> None:
        self._spec = spec
        self._on_event = on_event
        self._crew = Crew(pool, self._tick)
        self._cache_dir = cache_dir
        self._plan = Plan(spec.state_dir)
        self._lock: RepositoryLock | None = None
        self._phase = "open"
        self._bytes = 0
        self._done = 0
        self._damaged: set[bytes] = set()
        self._undo: set[bytes] = set()
        self._finished: list[tuple[Any, ...]] = []  # files whose pieces are all there
        self.result = RestoreResult(source=spec.source, dry_run=spec.dry_run)

    def close(self) -> None:
        """Give up the lock and the plan."""
        self._plan.spool.close()
        if self._lock is not None:
            self._lock.release()

    def run(self) -> RestoreResult:
        spec, result = self._spec, self.result
        repo = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
        snapshot = choose_snapshot(repo, spec.snapshot, source=spec.tagged, before=spec.before, notes=result.notes)
        result.snapshot, result.source = snapshot.id, snapshot.source
        target = examine(spec, snapshot)
        result.target, result.resumed = shown(os.fsencode(target.path)), target.resumed
        if not spec.dry_run and spec.lock:
            self._lock = begin_lock(repo, result.notes)
        base = relative(spec.base)
        paths = self._paths(base)
        Selection(paths, spec.includes, spec.excludes)  # an unreadable pattern is told here, before work begins

        def load_index(name: str) -> list[tuple[bytes, list[Blob]]]:
            self._tick()  # with an empty cache there may be thousands of them, a second each
            return repo.load_index(name)

        index = open_index(repo, spec.site, spec.repository, self._cache_dir, load=load_index)
        self._absent = absent_packs(repo.store, index.packs(), self._tick)
        whole = WholeFirst(index, self._absent)
        tree = find_tree(repo, whole, snapshot, base)
        if spec.in_place and not paths:  # what lies above was never backed up: it is passed through
            paths = find_paths(repo, whole, snapshot)
        if spec.in_place and spec.within is not None:
            admit_in_place(paths or [b""], spec.within)
        index.close()
        self._walk(repo, target, paths, tree)
        if not spec.in_place:
            target.require_space(self._plan.totals.space, self._plan.totals.files)
        totals = self._plan.totals
        result.unchanged, result.skipped = totals.same, totals.left
        if spec.dry_run:
            result.files, result.bytes = totals.files, totals.bytes
        else:
            if self._lock is not None:
                self._lock.confirm()
            self._write(target, paths)
        result.damaged_packs = sorted(pack.hex() for pack in self._damaged)
        self._tick()
        return result

    def _paths(self, base: bytes) -> list[bytes]:
        """What the spec selects by path, relative to where the walk begins."""
        spec = self._spec
        if spec.in_place and base:
            raise UsageError("a restore in place has no base", hint="Name paths instead")
        paths = [relative(path) for path in spec.paths]
        if base:
            outside = [path for path in paths if path != base and not path.startswith(base + b"/")]
            if outside:
                raise UsageError(f"/{shown(outside[0])} does not lie in the base /{shown(base)}")
            paths = [path[len(base) + 1 :] for path in paths]
        return paths

    def _walk(self, repo: Repository, target: Target, paths: list[bytes], tree: bytes) -> None:
        spec = self._spec
        self._phase = "plan"
        site = spec.to_json()["site"]
        self._crew.broadcast(("setup", repo.key.to_bytes(), repo.restic_id, site, spec.repository, self._cache_dir))
        look = target.path if target.holds else ""
        self._crew.broadcast(("plan", paths, spec.includes, spec.excludes, look, target.policy, list(self._absent)))
        selection = Selection(paths, spec.includes, spec.excludes)
        pending: list[Directory] = [(b"", tree, selection.start, target.holds)]
        met: set[bytes] = set()

        def next_task() -> Task | None:
            if not pending:
                return None
            # Few at first, so that every helper gets some; the last found first, which bounds what is pending.
            size = max(1, min(_WALK_BATCH, len(pending) // len(self._crew)))
            batch = pending[-size:]
            del pending[-size:]
            return "walk", batch

        def handle(answer: Any) -> None:
            _, below, directories, singles, pieces, made, links, problems, damaged, seen, counts = answer
            pending.extend(below)
            self._plan.add((directories, singles, pieces, made, links, counts))
            self._damaged.update(damaged)
            met.update(seen)
            self._fail(problems)

        self._crew.run(next_task, handle)
        missed = selection.paths - met if selection.start != DROPPED else frozenset()
        missed -= {b""}
        if missed and not met:
            raise RestoreError(
                f"snapshot {self.result.snapshot[:8]} holds no /{shown(min(missed))}",
                hint="`holdfast snapshots` shows what was backed up; paths are written as they were then",
            )
        self._fail([(path, "there is no such path in the snapshot") for path in sorted(missed)])

    def _write(self, target: Target, paths: list[bytes]) -> None:
        spec, plan, crew = self._spec, self._plan, self._crew
        identity = target.prepare()
        stamp = f".holdfast-undo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}".encode() if spec.in_place else b""
        run = target.run.encode()
        crew.broadcast(("target", target.path, identity, stamp, paths, run, int(target.holds)))
        self._phase = "write"
        self._stage(plan.making())
        self._stage(self._filling())
        self._stage(plan.discarding())
        self._stage(plan.linking())
        serial = os.geteuid() != 0  # who is not root must not close a directory before what is in it is done
        for tasks in plan.completing():
            if serial:
                self._stage([("directories", [chunk for _, chunks in tasks for chunk in chunks])])
            else:
                self._stage(tasks)
        self._tell_undo(target)
        if spec.verify:
            self._phase = "verify"
            self._bytes = self._done = 0
            began = time.monotonic()
            told = self.result.errors > 0
            self._stage((*task, told) for task in plan.checking())
            self.result.verify_duration = time.monotonic() - began
        target.complete()

    def _filling(self) -> Iterator[Task]:
        for task in self._plan.filling(len(self._crew), keep=self._spec.verify):
            yield task
            if len(self._finished) >= _WALK_BATCH:
                yield self._finish()

    def _finish(self) -> Task:
        files, self._finished = self._finished, []
        return "finish", files

    def _stage(self, tasks: Iterable[Task]) -> None:
        """Run tasks to the end; what files they complete is finished too."""
        source = iter(tasks)

        def next_task() -> Task | None:
            task = next(source, None)
            return self._finish() if task is None and self._finished else task

        self._crew.run(next_task, self._handle)

    def _handle(self, answer: Any) -> None:
        name, *fields, done, failures, failed, problems, undo = answer
        result = self.result
        self._fail(failures)
        self._undo.update(undo)
        result.metadata_failed += failed
        for path, message in problems[: _KEPT_METADATA - len(result.metadata_problems)]:
            result.metadata_problems.append({"path": f"/{shown(path)}", "message": message})
        if name == "directories":
            result.dirs += done
        elif name == "check":
            result.verified += done
        else:
            result.files += done
            result.links += done if name == "link" else 0
        self._done += done if name != "directories" else 0
        if name == "create":
            for number, *identity in fields[0]:
                self._plan.pieces[number].identity = (identity[0], identity[1])
        elif name == "fill":
            written, pieces, lost, damaged = fields
            self._filled(written, pieces, lost)
            if damaged:
                self._damaged.add(damaged)

    def _filled(self, written: int, pieces: list[tuple[int, int]], lost: list[int]) -> None:
        self._bytes += written
        self.result.bytes += written
        for number in lost:
            self._plan.pieces[number].lost = True
        for number, count in pieces:
            file = self._plan.pieces[number]
            file.left -= count
            if not file.left and not file.lost:
                self._finished.append((file.path, file.name, file.meta, file.identity))

    def _fail(self, problems: list[tuple[bytes, str]]) -> None:
        result = self.result
        result.errors += len(problems)
        for path, message in problems[: max(0, _KEPT_PROBLEMS - len(result.problems))]:
            result.problems.append({"path": f"/{shown(path)}", "message": message})

    def _tell_undo(self, target: Target) -> None:
        folders = [os.path.join(os.fsencode(target.path), folder) for folder in sorted(self._undo)]
        self.result.undo = [shown(folder) for folder in folders]
        self.result.undo_hint = " && ".join(
            f"cp -a --remove-destination {quoted(folder + b'/.')} {quoted(os.path.join(os.path.dirname(folder), b''))}"
            for folder in folders
        )
        if not target.exists:
            self.result.undo_hint = f"rm -r {quoted(os.fsencode(target.path))}"

    def _tick(self) -> None:
        if self._lock is not None:
            self._lock.maintain(reader=True)
        totals = self._plan.totals
        self._on_event(
            {
                "event": "progress",
                "phase": self._phase,
                "files": self._done,
                "files_total": totals.files,
                "bytes": self._bytes,
                "bytes_total": totals.bytes,
                "errors": self.result.errors,
            }
        )
