"""A site that is a directory, local or mounted.

What holds: an object is a file of that relative name, whole or not there (`durable`), read-only,
and so a repository in it is one that stock restic opens. Names that begin with `.holdfast-` are
Holdfast's own (unfinished writes, locks), are no keys and are never listed.

What is staged lies in a directory of its own below its prefix, and is renamed into its place: beside
the directories of packs it might vanish under a stock restic that lists them, which then stops listing.

compare_and_swap works under an exclusive flock of the object's directory, so reading the version,
comparing and renaming is one step; delete takes the same lock. A version is (inode, time of change,
size, SHA-256 of the bytes): each write makes a new inode with a new time, so that A-B-A is noticed
even where a caller's bytes carry no nonce and an inode number is used again.

Errors of the operating system that may pass (a stale or timed-out network mount) are tried again;
EIO is not: a failing disk is to be seen at once.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TypeVar

from shared.storage.api import Buffer, Capabilities, MissingObject, ObjectInfo, Permanent, Staged, Transient
from shared.storage.durable import (
    HIDDEN_PREFIX,
    DurableFile,
    is_temporary,
    make_directories,
    write_durable,
    write_durable_if_absent,
)
from shared.storage.failures import Place, check_key, check_prefix
from shared.storage.probe import run_probe
from shared.storage.retry import RetryPolicy

T = TypeVar("T")

_LEFTOVER_AGE = 86_400.0  # seconds after which an unfinished write has no writer any more
_STAGED_AGE = 7 * _LEFTOVER_AGE  # what is staged waits for the next new bytes of a source, which may be large and old
_STAGING = HIDDEN_PREFIX + "staged"
_LOCK_FILE = HIDDEN_PREFIX + "lock"
# A file system that can't flock a directory (NFS wants it open for writing) gets a lock file in it.
_NO_DIRECTORY_LOCK = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class DirectoryStore:
    """An `ObjectStore` below an existing directory. Holds no descriptor between calls."""

    def __init__(self, path: str, *, name: str = "", retry: RetryPolicy | None = None) -> None:
        self._root = os.path.abspath(path)  # now, since processes change their directory later
        self._base = self._root
        self._prefix = ""
        self._place = Place(name, self._root)
        self._retry = retry or RetryPolicy()
        # A lock is held for milliseconds: look again soon.
        self._lock_retry = replace(self._retry, first=0.002, longest=0.05)

    @property
    def url(self) -> str:
        """The absolute path."""
        return self._base

    @property
    def connections(self) -> int:
        """See `ObjectStore`."""
        return 1

    def put(self, key: str, data: Buffer, *, sha256: str | None = None) -> None:  # noqa: ARG002 - S3 needs it
        """See `ObjectStore`. Nothing is hashed here."""
        self._write(key, lambda path: write_durable(path, data))

    def stage(self, prefix: str, *, spool: str = "") -> Staged:  # noqa: ARG002 - S3 needs it
        """See `ObjectStore`. At the site itself, so that publishing copies nothing."""
        check_prefix(self._place, prefix)
        path = os.path.join(self._base, prefix, _STAGING, "")
        file = self._retry.run(lambda: self._sorted("PUT", prefix, lambda: self._make_way(path, DurableFile)))
        return _StagedFile(self, prefix, file)

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `ObjectStore`. By link(2), so it holds between hosts on NFS too."""
        if self._write(key, lambda path: self._link(path, key, data)):
            return True
        try:
            # Over NFS the answer to a link that was made may be lost, and EEXIST is what a second try gets.
            return self.get(key) == data
        except MissingObject:
            return False

    def compare_and_swap(self, key: str, data: Buffer, *, version: str) -> bool:
        """See `ObjectStore`."""

        def attempt(path: str) -> bool:
            try:
                with _locked(os.path.dirname(path)):
                    if _read_versioned(path)[1] != version:
                        return False
                    write_durable(path, data)
                    return True
            except (FileNotFoundError, NotADirectoryError):
                self._check_root("PUT", key)
                return False

        return self._do("PUT", key, attempt, retry=self._lock_retry)

    def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        return self._do("GET", key, _read)

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """See `ObjectStore`."""
        return self._do("GET", key, _read_versioned)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore`."""
        data = self._do("GET", key, lambda path: _read_range(path, offset, length))
        if len(data) != length:
            reason = f"expected {length} bytes from {offset}, the object ends after {len(data)}"
            raise self._fail_key(Permanent, "GET", key, reason)
        return data

    def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore`."""
        found = self._do("HEAD", key, os.stat)
        if not stat.S_ISREG(found.st_mode):
            raise self._fail_key(MissingObject, "HEAD", key, "not a file")
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`. Removes what unfinished writes left behind more than a day ago, as it comes by."""
        check_prefix(self._place, prefix)
        return self._walk(prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore`. Not fsynced: a delete that a power failure undoes is done again by the next prune."""

        def attempt(path: str) -> None:
            try:
                with _locked(os.path.dirname(path)):
                    os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root("DELETE", key)

        self._do("DELETE", key, attempt, retry=self._lock_retry)

    def purge(self, key: str) -> None:
        """See `ObjectStore`. There are no older versions."""
        self.delete(key)

    def clock(self) -> float:
        """See `ObjectStore`: the time that the file system (of a mount: its server) gives a new file."""

        def attempt(path: str) -> float:
            with DurableFile(os.path.join(path, "clock"), sync=False) as file:
                os.write(file.fileno(), b"\n")
                return os.fstat(file.fileno()).st_mtime

        return self._do("clock", None, attempt)

    def room(self) -> int:
        """See `MeasuredStore`: what the file system gives to a user without privileges."""

        def attempt(path: str) -> int:
            found = os.statvfs(path)
            return found.f_bavail * found.f_frsize

        return self._do("statvfs", None, attempt)

    def probe(self) -> Capabilities:
        """See `ObjectStore`."""
        return run_probe(self, versioned=lambda: False)

    def below(self, prefix: str) -> DirectoryStore:
        """See `ObjectStore`."""
        check_key(self._place, prefix)
        child = copy.copy(self)
        child._base = os.path.join(self._base, prefix)  # noqa: SLF001 - a copy of itself
        child._prefix = f"{self._prefix}{prefix}/"  # noqa: SLF001 - a copy of itself
        return child

    def close(self) -> None:
        """See `ObjectStore`; nothing is held."""

    def _fail_key(self, kind: type[MissingObject | Permanent], operation: str, key: str, reason: str) -> Exception:
        return self._place.fail(kind, operation, self._prefix + key, reason)

    def _do(self, operation: str, key: str | None, work: Callable[[str], T], *, retry: RetryPolicy | None = None) -> T:
        """Run `work` on the path of `key` (None is the site itself); sort its errors, try again what may pass."""
        if key is not None:
            check_key(self._place, key)
        path = self._root if key is None else os.path.join(self._base, key)
        return (retry or self._retry).run(lambda: self._sorted(operation, key, lambda: work(path)))

    def _sorted(self, operation: str, key: str | None, work: Callable[[], T]) -> T:
        """Run `work` once; what the operating system answers becomes a StorageError that names `key`."""
        try:
            return work()
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                self._check_root(operation, key or "")
            shown = "" if key is None else self._prefix + key
            raise self._place.from_os_error(error, operation, shown) from error

    def _write(self, key: str, write: Callable[[str], T]) -> T:
        return self._do("PUT", key, lambda path: self._make_way(path, write))

    def _make_way(self, path: str, write: Callable[[str], T]) -> T:
        """Run `write`; only where its directory is missing make that and run it again, so a pack costs no mkdir."""
        try:
            return write(path)
        except FileNotFoundError:
            make_directories(os.path.dirname(path), root=self._root)
        try:
            return write(path)
        except FileNotFoundError as error:
            # Its directory or its temporary file went away again: somebody cleans up by force.
            raise OSError(errno.EAGAIN, "the directory vanished while it was written to") from error

    def _link(self, path: str, key: str, data: Buffer) -> bool:
        try:
            return write_durable_if_absent(path, data)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS or not os.access(os.path.dirname(path), os.W_OK):
                raise
            reason = f"{errno.errorcode[error.errno or 0]}: the file system makes no hard links"
            hint = "A site needs put-if-absent: use a file system that has hard links, or S3"
            raise self._place.fail(Permanent, "PUT", self._prefix + key, reason, hint) from error

    def _check_root(self, operation: str, key: str) -> None:
        """Tell a missing object from a missing site, which an unmounted disk is."""
        if not os.path.isdir(self._root):
            reason = "the site's directory is not there"
            hint = "Mount it, or correct the site's url"
            raise self._place.fail(Permanent, operation, self._prefix + key, reason, hint)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        # A stack of open directories: memory goes with the depth, not with the number of objects.
        stack: list[tuple[str, Generator[os.DirEntry[str]]]] = []
        deadline: float | None = None
        try:
            stack.append((prefix, self._scan(prefix)))
            while stack:
                at, entries = stack[-1]
                entry = next(entries, None)
                if entry is None:
                    stack.pop()
                    continue
                if entry.name.startswith(HIDDEN_PREFIX):
                    if is_temporary(entry.name):
                        spare = _STAGED_AGE - _LEFTOVER_AGE if at.endswith(f"{_STAGING}/") else 0.0
                        deadline = self._remove_leftover(entry, deadline, spare)
                    elif entry.name == _STAGING:
                        stack.append((f"{at}{_STAGING}/", self._scan(f"{at}{_STAGING}/")))
                    continue
                try:
                    if entry.is_dir():
                        stack.append((f"{at}{entry.name}/", self._scan(f"{at}{entry.name}/")))
                        continue
                    found = entry.stat()
                except FileNotFoundError:
                    continue  # deleted since it was read from its directory, or a dangling link
                if stat.S_ISREG(found.st_mode):
                    yield ObjectInfo(at + entry.name, found.st_size, found.st_mtime)
        except OSError as error:
            raise self._place.from_os_error(error, "LIST", self._prefix + prefix) from error
        finally:
            for _, entries in stack:
                entries.close()

    def _scan(self, prefix: str) -> Generator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._base, prefix)) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            self._check_root("LIST", prefix)

    def _remove_leftover(self, entry: os.DirEntry[str], deadline: float | None, spare: float) -> float | None:
        """Remove an unfinished write older than a day and `spare` by the store's clock; whoever may not leaves it."""
        with contextlib.suppress(OSError, Permanent, Transient):
            if deadline is None:
                # Asked for only once a leftover is met, and not of this host, whose clock may be wrong by days.
                deadline = self.clock() - _LEFTOVER_AGE
            if entry.stat(follow_symlinks=False).st_mtime < deadline - spare:
                os.unlink(entry.path)
        return deadline


class _StagedFile:
    """A `Staged` that is a hidden file at the site."""

    def __init__(self, store: DirectoryStore, prefix: str, file: DurableFile) -> None:
        self._store = store
        self._prefix = prefix
        self._file = file

    def write(self, data: Buffer) -> None:
        """See `Staged`."""
        self._store._sorted("PUT", self._prefix, lambda: self._file.write(data))  # noqa: SLF001 - a part of it

    def publish(self, key: str, *, sha256: str) -> None:  # noqa: ARG002 - S3 needs it
        """See `Staged`. Nothing is hashed here."""
        store = self._store
        check_key(store._place, key)  # noqa: SLF001 - a part of it
        path = os.path.join(store._base, key)  # noqa: SLF001 - a part of it
        store._sorted("PUT", key, lambda: store._make_way(path, self._file.publish_as))  # noqa: SLF001 - a part of it

    def discard(self) -> None:
        """See `Staged`."""
        self._file.close()


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _read_versioned(path: str) -> tuple[bytes, str]:
    with open(path, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        data = file.readall()
    digest = hashlib.sha256(data).hexdigest()
    return data, f"{found.st_ino}-{found.st_mtime_ns}-{len(data)}-{digest}"


def _read_range(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        data = os.pread(fd, length, offset)
        while data and len(data) < length:  # a signal, or a read of more than 2 GiB, may cut it short
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the directory's exclusive lock, which ends with the process at the latest; EAGAIN if another has it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_LOCK:
                raise
            os.close(fd)
            fd = os.open(os.path.join(directory, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
