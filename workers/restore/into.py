"""A file of a snapshot into a program's standard input; a stream's, as a rule.

    open -> choose -> the file -> shared lock -> start the program -> read, verify, give -> end its input -> its end

Invariant: the program's input ends only when all of the file, verified, was given; else the program is killed, by
whatever ends this process, too. So it never takes the half of a dump for the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shared.errors import Interrupted, RestoreError
from shared.repository.absent import marked_packs
from shared.repository.errors import Damaged
from shared.repository.gojson import time_string
from shared.repository.locks import RepositoryLock
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.repository.tree import Node
from workers.access import WholeFirst, is_remote, open_index, open_repository
from workers.careful import stop_at_sigterm
from workers.limits import obey
from workers.programs.program import Program, ProgramSpec
from workers.restore.choose import choose_snapshot, find_file, stream_path
from workers.restore.content import Contents
from workers.restore.lock import begin_lock
from workers.restore.places import shown
from workers.restore.reading import Reader
from workers.restore.selection import relative
from workers.restore.spec import IntoResult, RestoreSpec

OnEvent = Callable[[dict[str, Any]], None]
_TELL = 0.5  # seconds between progress events


def run_into(spec: RestoreSpec, on_event: OnEvent) -> IntoResult:
    """Give the file at the only one of `spec.paths`, or a stream's own, to `spec.into`.

    `on_event` gets progress as from `run_restore`. Raises ProgramFailed, RestoreError, Damaged, Interrupted and what
    opening raises.
    """
    began = time.monotonic()
    stop_at_sigterm()
    notes = obey(spec.limits)
    try:
        result = _Into(spec, on_event, notes).run()
    except KeyboardInterrupt:
        raise Interrupted(
            "the restore was interrupted, and its program killed", hint="Undo what that has done, and run it again"
        ) from None
    result.duration = time.monotonic() - began
    return result


class _Into:
    def __init__(self, spec: RestoreSpec, on_event: OnEvent, notes: list[str]) -> None:
        if spec.into is None:
            raise RestoreError("no program was named to restore into", hint="Name it: --into COMMAND, with --direct")
        self._spec = spec
        self._program: ProgramSpec = spec.into
        self._on_event = on_event
        self._notes = notes
        self._lock: RepositoryLock | None = None
        self._told = 0.0
        self._size = 0
        self._given = 0

    def run(self) -> IntoResult:
        spec = self._spec
        repo = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
        snapshot = choose_snapshot(repo, spec.snapshot, source=spec.tagged, before=spec.before, notes=self._notes)
        path = self._path(snapshot)
        if not spec.dry_run and spec.lock:
            self._lock = begin_lock(repo, self._notes)
        try:
            return self._restore(repo, snapshot, path)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _restore(self, repo: Repository, snapshot: Snapshot, path: bytes) -> IntoResult:
        spec = self._spec
        index = WholeFirst(open_index(repo, spec.site, spec.repository, spec.cache_dir), marked_packs(repo.store))
        node = find_file(repo, index, snapshot, path)
        contents = Contents(index, Reader(repo.store, repo.sealer(), remote=is_remote(spec.site)))
        self._size = contents.size(node)
        result = IntoResult(
            source=snapshot.source or spec.source,
            snapshot=snapshot.id,
            time=time_string(snapshot.time),
            path=f"/{shown(path)}",
            program=self._program.name,
            bytes=self._size,
            dry_run=spec.dry_run,
            notes=self._notes,
        )
        if not spec.dry_run:
            if self._lock is not None:
                self._lock.confirm()
            self._give(contents, node, result)
        return result

    def _path(self, snapshot: Snapshot) -> bytes:
        """Which file is meant, relative."""
        chosen = self._spec.paths or [path for path in [stream_path(snapshot)] if path]
        if len(chosen) != 1:
            raise RestoreError(
                f"a program takes one file, and {len(chosen) or 'none'} is named",
                hint=f"Name it: {self._spec.source}:/path; `holdfast ls {self._spec.source} -r` lists them",
            )
        return relative(chosen[0])

    def _give(self, contents: Contents, node: Node, result: IntoResult) -> None:
        said = {"HOLDFAST_SOURCE": result.source, "HOLDFAST_SNAPSHOT": result.snapshot, "HOLDFAST_PATH": result.path}
        with Program(self._program, reads=True, more=said) as program:
            try:
                for chunk in contents.chunks(node):
                    result.complete = program.write(chunk, self._look)
                    if not result.complete:
                        break
                    self._given += len(chunk)
            except Damaged as error:
                raise Damaged(
                    f"{result.path}: {error.args[0]}; {self._program.name} was killed after {self._given} of "
                    f"{self._size} bytes",
                    hint="Undo what it has done; try another snapshot, or another copy with --site",
                ) from error
            if result.complete and self._given != self._size:
                raise RestoreError(
                    f"{result.path} of snapshot {result.snapshot[:8]}: {self._given} of {self._size} bytes were read",
                    hint=f"Undo what {self._program.name} has done, and run `holdfast verify {self._spec.source}`",
                )
            program.finish(self._look)
            result.bytes, result.said = self._given, program.said
        if not result.complete:
            self._notes.append(f"{self._program.name} ended with code 0 before it had read all of {result.path}")

    def _look(self) -> None:
        """Keep the lock, and tell how far it is."""
        if self._lock is not None:
            self._lock.maintain(reader=True)
        now = time.monotonic()
        if now - self._told < _TELL:
            return
        self._told = now
        self._on_event(
            {
                "event": "progress",
                "phase": "write",
                "files": 0,
                "files_total": 1,
                "bytes": self._given,
                "bytes_total": self._size,
                "errors": 0,
            }
        )
