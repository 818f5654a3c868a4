"""A helper process: plans directories, then makes files pack by pack, as its coordinator says.

Each message is a tuple whose first item names the task; each task is answered with one message, of which
the first item is the task's name again. What fails for one node is told and goes on; what makes
going on pointless (no space, a site that is away) is answered with ("fatal", exit code, message, hint).
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

from shared.repository.crypto import Buffer, MasterKey, Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from workers.access import Look, WholeFirst, is_remote, open_index, repository_store
from workers.backup.spec import SiteSpec
from workers.crew import serve
from workers.helpers import Channel
from workers.restore.memory import keep_freed_memory
from workers.restore.places import InTheWay, Places, join, open_target, shown
from workers.restore.reading import Reader, Span
from workers.restore.selection import Selection
from workers.restore.walk import Walker
from workers.restore.writing import TargetFull, Writer

Failure = tuple[bytes, str]
_NODE_ERRORS = (OSError, ValueError, OverflowError)  # the latter two: a value that no system call takes


class Setup:
    """What the coordinator says first: everything a helper needs, but for the target."""

    def __init__(
        self, look: Look, key: bytes, restic_id: str, site: dict[str, Any], repository: str, cache_dir: str
    ) -> None:
        self.site = SiteSpec(**site)
        self.repository = repository
        self.cache_dir = cache_dir
        store = repository_store(self.site, repository, connections=1, look=look)
        self.repo = Repository(store, MasterKey.from_bytes(key), restic_id=restic_id)
        self.reader = Reader(store, Sealer(self.repo.key), remote=is_remote(self.site))

    def index(self, absent: frozenset[bytes]) -> WholeFirst:
        """The index, from the cache that the coordinator has just brought up to date."""
        return WholeFirst(open_index(self.repo, self.site, self.repository, self.cache_dir), absent)


def main(channel: Channel) -> None:
    """Serve one coordinator until its socket closes."""
    keep_freed_memory()
    serve(channel, lambda *setup: _Helper(Setup(channel.look, *setup)))


class _Helper:
    """The tasks. Each public method is one: its arguments and its answer go over the pipe."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._walker: Walker | None = None
        self._writer: Writer | None = None
        self._places: Places | None = None

    def plan(
        self,
        paths: list[bytes],
        includes: list[str],
        excludes: list[str],
        target: str,
        policy: str,
        absent: list[bytes],
    ) -> Any:
        """Get ready to walk. `target`: where it holds something already, else empty."""
        places = Places(open_target(target)) if target else None
        selection = Selection(paths, includes, excludes)
        self._walker = Walker(self._setup.index(frozenset(absent)), self._setup.reader, selection, places, policy)
        return ()

    def walk(self, directories: list[Any]) -> Any:
        """Plan some directories."""
        assert self._walker is not None  # noqa: S101 -- `plan` comes first
        return self._walker.walk(directories).pack()

    def target(
        self, path: str, identity: tuple[int, int], undo: bytes, tops: list[bytes], run: bytes, replacing: int
    ) -> Any:
        """Get ready to write; what was needed for planning is given up."""
        self._walker = None
        places = Places(open_target(path), undo, tops)
        if places.identity != identity:
            raise TargetFull(f"the target {path} was exchanged for another directory while the restore began")
        self._places = places
        self._writer = Writer(places, replacing=bool(replacing), run=run)
        return ()

    def make(self, raw: bytes) -> Any:
        """Make what needs no pack: empty files, links, fifos, sockets, devices."""
        writer = self._ready()
        specials, empty = marshal.loads(raw)  # noqa: S302 -- made by another helper of this run
        failures: list[Failure] = []
        done = 0
        for path, records in specials:
            for record in records:
                done += _try(failures, path, record[0], writer.special, path, record)
        for path, records in empty:
            for name, meta in records:
                done += _try(failures, path, name, writer.small, path, name, meta, b"")
        return self._answer(done, failures)

    def create(self, files: list[tuple[int, bytes, bytes, int]]) -> Any:
        """Make the files that come in pieces. Answers (number, st_dev, st_ino) of each that was made."""
        writer = self._ready()
        failures: list[Failure] = []
        made = []
        for number, path, name, size in files:
            try:
                made.append((number, *writer.create(path, name, size)))
            except _NODE_ERRORS as error:
                failures.append(_failure(path, name, error))
        return made, *self._answer(0, failures)

    def fill(self, pack: bytes, chunks: list[bytes], pieces: list[Any]) -> Any:
        """Write what one pack, or a part of it, has for small files and for pieces of large ones."""
        work = _Fill(self._ready(), pack)
        return (*work.run(self._setup.reader, chunks, pieces), *self._answer(work.done, work.failures))

    def finish(self, files: list[Any]) -> Any:
        """Complete files whose pieces are all written."""
        writer = self._ready()
        failures: list[Failure] = []
        done = sum(
            _try(failures, path, name, writer.finish, path, name, meta, identity)
            for path, name, meta, identity in files
        )
        return self._answer(done, failures)

    def discard(self, files: list[Any]) -> Any:
        """Remove files whose pieces could not all be had."""
        writer = self._ready()
        failures: list[Failure] = []
        for path, name, identity in files:
            _try(failures, path, name, writer.discard, path, name, identity)
        return self._answer(0, failures)

    def link(self, links: list[tuple[bytes, bytes, bytes, bytes]]) -> Any:
        """Make hard links. Each: the first name's directory and name, this one's directory and name."""
        writer = self._ready()
        failures: list[Failure] = []
        done = sum(_try(failures, link[2], link[3], writer.link, *link) for link in links)
        return self._answer(done, failures)

    def directories(self, chunks: list[bytes]) -> Any:
        """Complete directories of one depth."""
        writer = self._ready()
        failures: list[Failure] = []
        done = 0
        for chunk in chunks:
            for path, meta, create in marshal.loads(chunk):  # noqa: S302 -- made by another helper of this run
                try:
                    done += writer.directory(path, meta, create=create)
                except _NODE_ERRORS as error:
                    failures.append((path, _reason(error)))
        return self._answer(done, failures)

    def check(self, chunks: list[bytes], pieces: list[Any], told: bool) -> Any:
        """Read again what was restored and compare it with the ids of its blobs.

        `told`: some files could not be made, which was told: those that are missing are not told a second time.
        """
        failures: list[Failure] = []
        done = 0
        for chunk in chunks:
            for path, records in marshal.loads(chunk):  # noqa: S302 -- made by another helper of this run
                for name, _, size, _, _, _, _, blob in records:
                    done += _try(failures, path, name, self._check, path, name, size, [(0, size, blob)], told)
        for path, name, size, parts in pieces:
            done += _try(failures, path, name, self._check, path, name, size, parts, told)
        return self._answer(done, failures)

    def _check(self, path: bytes, name: bytes, size: int, parts: Iterable[tuple[int, int, bytes]], told: bool) -> bool:
        assert self._places is not None  # noqa: S101 -- `target` comes first
        try:
            fd = _open_to_read(self._places.get(path, create=False), name)
        except FileNotFoundError:
            if told:
                return False
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                raise InTheWay(f"verification: expected a file of {size} bytes, found {found.st_size}")
            for offset, length, blob in parts:
                if hashlib.sha256(os.pread(fd, length, offset)).digest() != blob:
                    raise InTheWay(f"verification: what was written is not what was read ({length} bytes at {offset})")
        finally:
            os.close(fd)
        return True

    def _ready(self) -> Writer:
        assert self._writer is not None  # noqa: S101 -- `target` comes first
        return self._writer

    def _answer(self, done: int, failures: list[Failure]) -> tuple[Any, ...]:
        assert self._places is not None  # noqa: S101 -- `target` comes first
        failed, problems = self._ready().metadata.take()
        undo = list(self._places.undo_used)
        self._places.undo_used.clear()
        return done, failures, failed, problems, undo


class _Fill:
    """One visit of a pack."""

    def __init__(self, writer: Writer, pack: bytes) -> None:
        self.done = 0
        self.failures: list[Failure] = []
        self._writer = writer
        self._pack = pack
        self._bytes = 0
        self._written: dict[int, int] = {}  # pieces written by number of file
        self._lost: set[int] = set()
        self._open: dict[int, int] = {}  # descriptors by number of file
        self._damaged = False

    def run(self, reader: Reader, chunks: list[bytes], pieces: list[Any]) -> tuple[Any, ...]:
        """Answers: bytes written, (file, pieces written), files that lost a piece, the pack's id if it is damaged."""
        wanted: dict[Span, list[Any]] = {}
        for chunk in chunks:
            for path, records in marshal.loads(chunk):  # noqa: S302 -- made by another helper of this run
                for record in records:
                    if not record[3]:
                        wanted.setdefault(Span(*record[4:]), []).append((path, record))
        for number, path, name, identity, parts in pieces:
            for at, *span in parts:
                wanted.setdefault(Span(*span), []).append((path, name, number, identity, at))
        try:
            for span, content in reader.blobs(self._pack, list(wanted), BlobType.DATA):
                for target in wanted.pop(span):
                    self._write(target, content)
        finally:
            for fd in self._open.values():
                os.close(fd)
        return self._bytes, list(self._written.items()), list(self._lost), self._pack if self._damaged else b""

    def _write(self, target: Any, content: Buffer | Damaged) -> None:
        if isinstance(content, Damaged):
            self._damaged = True
            if len(target) == 2:
                self._fail(target[0], target[1][0], content)
            else:
                self._lose(target, content)
        elif len(target) == 2:
            path, record = target
            try:
                self._writer.small(path, record[0], record[1], content)
            except _NODE_ERRORS as error:
                self._fail(path, record[0], error)
            else:
                self.done += 1
                self._bytes += len(content)
        else:
            self._piece(target, content)

    def _piece(self, target: Any, content: Buffer) -> None:
        path, name, number, identity, at = target
        if number in self._lost:
            return
        try:
            fd = self._open.get(number)
            if fd is None:
                if len(self._open) >= 64:
                    os.close(self._open.pop(next(iter(self._open))))
                fd = self._open[number] = self._writer.open_pieces(path, name, identity)
            self._writer.piece(fd, content, at)
        except _NODE_ERRORS as error:
            self._lose(target, error)
        else:
            self._written[number] = self._written.get(number, 0) + 1
            self._bytes += len(content)

    def _lose(self, target: Any, error: Exception) -> None:
        path, name, number = target[:3]
        if number not in self._lost:
            self._lost.add(number)
            self._fail(path, name, error)

    def _fail(self, path: bytes, name: bytes, error: Exception) -> None:
        self.failures.append(_failure(path, name, error))


def _try(failures: list[Failure], path: bytes, name: bytes, work: Callable[..., object], *arguments: Any) -> int:
    """1 if it went well, 0 (and a failure noted) if not, or if it says that there was nothing to do."""
    try:
        return int(work(*arguments) is not False)
    except _NODE_ERRORS as error:
        failures.append(_failure(path, name, error))
        return 0


def _open_to_read(dir_fd: int, name: bytes) -> int:
    """Open a file, also one of our own whose mode forbids it, as /etc/shadow's may. Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    with contextlib.suppress(PermissionError):
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=dir_fd)
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        place, mode = f"/proc/self/fd/{held}", stat.S_IMODE(os.fstat(held).st_mode)
        os.chmod(place, mode | stat.S_IRUSR)
        try:
            return os.open(place, flags)
        finally:
            os.chmod(place, mode)
    finally:
        os.close(held)


def _failure(path: bytes, name: bytes, error: Exception) -> Failure:
    return join(path, name), _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error.args[0]) if isinstance(error, Damaged) else shown(str(error).encode("utf-8", "replace"))
