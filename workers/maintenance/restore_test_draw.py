"""A helper process of a restore test: it finds the snapshot, walks all of it, and draws the files to be restored.

A process of its own, as whoever restores must fork before it has any connection. It plans each directory as a restore
does, so what is damaged above the files is found in the whole snapshot, and not only where the sample lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from shared.errors import RestoreError
from shared.repository.absent import absent_packs
from shared.repository.crypto import Sealer
from shared.repository.errors import Damaged
from shared.repository.gojson import time_string
from shared.repository.locks import RepositoryLock
from shared.repository.repository import VERSION, Repository
from shared.repository.snapshot import Snapshot
from shared.storage.api import Denied, Permanent, StoreFull
from workers.access import WholeFirst, is_remote, open_index, open_repository
from workers.crew import serve
from workers.helpers import Channel
from workers.maintenance.restore_test_spec import RestoreTestSpec
from workers.maintenance.sample import Candidate, Sample
from workers.restore.choose import choose_snapshot
from workers.restore.places import join
from workers.restore.reading import Reader
from workers.restore.selection import Selection
from workers.restore.walk import Batch, Directory, Walker, disk_space

_BATCH = 256  # directories planned at once
_KEPT_PROBLEMS = 1000


def main(channel: Channel) -> None:
    """Serve one coordinator until its socket closes."""
    draws: list[Draw] = []

    def start(spec: dict[str, Any], holder: str) -> Draw:
        draws.append(Draw(RestoreTestSpec.from_json(spec), holder))
        return draws[0]

    try:
        serve(channel, start)
    finally:
        for draw in draws:
            draw.close()


class Draw:
    """The tasks: `open` once, `walk` until it says that nothing is left, then `drawn`."""

    def __init__(self, spec: RestoreTestSpec, holder: str) -> None:
        self._spec = spec
        self._holder = holder
        self._lock: RepositoryLock | None = None
        self._sample = Sample(spec.run, spec.files, spec.size)
        self._walker: Walker | None = None
        self._pending: list[Directory] = []
        self._links: set[bytes] = set()
        self._files = self._bytes = self._space = self._errors = 0
        self._problems: list[tuple[bytes, str]] = []  # the first ones
        self._packs: set[bytes] = set()
        self._unreadable: list[tuple[str, str]] = []  # snapshots, with the reason

    def close(self) -> None:
        """Give up the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def open(self) -> Any:
        """Find the snapshot. Answers its id and time, snapshots that can't be read, and notes.

        Raises RestoreError where there is none, RepositoryError, StorageError.
        """
        spec = self._spec
        repo = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
        notes: list[str] = []
        snapshot = self._choose(repo, notes)
        self._take_lock(repo)

        def load_index(name: str) -> Any:
            self._look_after()
            return repo.load_index(name)

        index = open_index(repo, spec.site, spec.repository, spec.cache_dir, load=load_index)
        whole = WholeFirst(index, absent_packs(repo.store, index.packs(), self._look_after))
        reader = Reader(repo.store, Sealer(repo.key), remote=is_remote(spec.site))
        selection = Selection([], [], [])
        self._walker = Walker(whole, reader, selection, None, "always")
        self._pending = [(b"", snapshot.tree, selection.start, False)]
        return snapshot.id, time_string(snapshot.time), self._unreadable, notes

    def walk(self) -> Any:
        """Look at some directories. Answers whether more are left, and files, bytes and errors so far."""
        assert self._walker is not None  # noqa: S101 -- `open` comes first
        batch = self._walker.walk([self._pending.pop() for _ in range(min(_BATCH, len(self._pending)))])
        self._pending += batch.below
        for candidate in candidates(batch):
            self._sample.offer(candidate)
        self._count(batch)
        self._look_after()
        return bool(self._pending), self._files, self._bytes, self._errors

    def drawn(self) -> Any:
        """Answers the files that were drawn, and what the snapshot holds: files, bytes, space on disk; what is wrong.

        The lock is given up: whoever restores takes one of its own, and reads everything again.
        """
        self.close()
        totals = self._files, self._bytes, self._space
        return [tuple(one) for one in self._sample.drawn()], totals, self._errors, self._problems, sorted(self._packs)

    def _choose(self, repo: Repository, notes: list[str]) -> Snapshot:
        spec = self._spec
        wanted = spec.snapshot if spec.snapshot != "latest" else self._newest(repo, notes).id
        snapshot = choose_snapshot(repo, wanted)  # from the site, and not from a cache
        if snapshot.source != spec.tagged:
            raise RestoreError(
                f"snapshot {snapshot.id[:8]} is not of source {spec.source}, but of {snapshot.source or 'no source'}",
                hint=f"`holdfast snapshots {spec.source}` lists its own",
            )
        return snapshot

    def _newest(self, repo: Repository, notes: list[str]) -> Snapshot:
        def unreadable(name: str, error: Damaged) -> None:
            self._unreadable.append((name, str(error.args[0])))

        own = (snapshot for snapshot in repo.snapshots(unreadable) if snapshot.source == self._spec.tagged)
        newest = max(own, key=lambda snapshot: (snapshot.complete, snapshot.time), default=None)
        if newest is None:
            raise RestoreError(
                f"there is no snapshot of source {self._spec.source} to be tested at {repo.store.url}",
                hint=f"Back it up first: holdfast backup {self._spec.source}",
            )
        if not newest.complete:
            notes.append(f"no snapshot is complete: in the newest, {newest.unreadable} files could not be read")
        return newest

    def _take_lock(self, repo: Repository) -> None:
        if not self._spec.lock or repo.version != VERSION:
            return
        lock = repo.lock(holder=self._holder)
        try:
            lock.begin()
        except (Denied, Permanent, StoreFull):
            return  # the restore says so
        self._lock = lock
        lock.confirm()

    def _look_after(self) -> None:
        if self._lock is not None:
            self._lock.maintain(reader=True)

    def _count(self, batch: Batch) -> None:
        files, size, _, _, space = batch.counts
        for key, _, what, _, record in batch.links:  # the names of one inode count once
            if key not in self._links:
                self._links.add(key)
            elif what in ("single", "pieces"):
                twice = _candidate(what, b"", record)
                size -= twice.size
                space -= twice.space
        self._files += files
        self._bytes += size
        self._space += space
        self._errors += len(batch.problems)
        self._problems += batch.problems[: _KEPT_PROBLEMS - len(self._problems)]
        self._packs |= batch.damaged


def candidates(batch: Batch) -> Iterator[Candidate]:
    """The files of a batch."""
    for window, groups in batch.singles.items():
        for path, records in groups:
            yield from (_candidate("single", path, (window, record)) for record in records)
    yield from (_candidate("pieces", record[0], record) for record in batch.pieces)
    for path, records in batch.empty:
        yield from (_candidate("empty", path, record) for record in records)
    for _, _, what, path, record in batch.links:
        if what != "special":
            yield _candidate(what, path, record)


def _candidate(what: str, path: bytes, record: Any) -> Candidate:
    """A file as `walk` has planned it."""
    if what == "single":
        name, meta, size, _, _, length = record[1][:6]
        return Candidate(join(path, name), size, disk_space(size, length), meta[0], meta[3])
    if what == "pieces":
        _, name, meta, size, _, windows = record
        parts: Iterable[Any] = (part for _, parts in windows for part in parts)
        space = sum(disk_space(unpacked or length - 32, length) for _, _, length, unpacked, _ in parts)
        return Candidate(join(path, name), size, space, meta[0], meta[3])
    name, meta = record
    return Candidate(join(path, name), 0, 0, meta[0], meta[3])
