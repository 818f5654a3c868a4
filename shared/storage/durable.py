"""The one way in which Holdfast writes a file that must survive a crash.

The invariant: under its name a file is whole, or it is not there. The order that keeps it:
temporary name in the same directory, bytes, mode, fsync, name (rename or link), fsync of the
directory. What a SIGKILL leaves behind is a temporary name, which nothing lists and which a
later listing removes (see `is_temporary`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from shared.storage.api import Buffer

# Stock restic skips every name that is no 64 hex digits, here as anywhere in a repository.
HIDDEN_PREFIX = ".holdfast-"
TEMPORARY_PREFIX = HIDDEN_PREFIX + "tmp-"

# What file systems answer that can't fsync a directory (CIFS, some FUSE): there is nothing more to do there.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF})


def is_temporary(name: str) -> bool:
    """Whether `name` (a base name) is that of an unfinished write."""
    return name.startswith(TEMPORARY_PREFIX)


def remove_abandoned(directory: str) -> None:
    """Delete the unfinished files in `directory` that nobody holds (`DurableFile.hold`): killed writers left them.

    Only for a directory whose writers all hold theirs. What can't be deleted stays; nothing is raised.
    """
    try:
        names = [name for name in os.listdir(directory) if is_temporary(name)]
    except OSError:
        return
    for name in names:
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(fd)


def write_durable(path: str, data: Buffer | Iterable[Buffer], *, mode: int = 0o400, sync: bool = True) -> None:
    """Write `data` to `path`, replacing a file of that name whole; its directory must exist.

    `mode`: the permission bits of the result. `sync=False`: still whole or not there while the
    machine runs, but not kept across a power failure (for what can be made anew, such as a cache).
    Raises OSError; then the old file stands as it was.
    """
    with DurableFile(path, mode=mode, sync=sync) as file:
        _write_all(file, data)
        file.publish()


def write_durable_if_absent(
    path: str, data: Buffer | Iterable[Buffer], *, mode: int = 0o400, sync: bool = True
) -> bool:
    """Write `data` to `path` unless that name exists; True if this call made it. Atomic, by link(2).

    Raises OSError: EPERM or EOPNOTSUPP from a file system that has no hard links.
    """
    with DurableFile(path, mode=mode, sync=sync) as file:
        _write_all(file, data)
        return file.publish_if_absent()


def make_directories(path: str, *, mode: int = 0o700, sync: bool = True, root: str = "") -> None:
    """Make `path` and what is missing above it, each fsynced into its parent.

    `root` is never made: if it is gone (an unmounted site, say) FileNotFoundError is raised.
    """
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if path == root or parent in {path, root}:
            raise
        make_directories(parent, mode=mode, sync=sync, root=root)
        # The same again, and not just mkdir: another process may have made it meanwhile.
        make_directories(path, mode=mode, sync=sync, root=root)
        return
    if sync:
        sync_directory(os.path.dirname(path) or ".")


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_directory_fd(fd)
    finally:
        os.close(fd)


class DurableFile:
    """The streaming form: write, then `publish` or `publish_if_absent`; without either nothing appears.

    A context manager that discards what was not published. Not for several threads at once.
    """

    def __init__(self, path: str, *, mode: int = 0o400, sync: bool = True) -> None:
        directory, self._name = os.path.split(path)
        self._mode = mode
        self._sync = sync
        self._temporary = TEMPORARY_PREFIX + os.urandom(8).hex()
        self._named = False  # whether the temporary name is (still) there
        self._fd = -1
        # Everything goes relative to this descriptor: a chdir or a renamed parent in between does no harm.
        self._directory = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self._temporary, flags, 0o600, dir_fd=self._directory)
            self._named = True
        except BaseException:
            os.close(self._directory)
            raise

    def fileno(self) -> int:
        """The descriptor of the unfinished file."""
        return self._fd

    def hold(self) -> None:
        """Keep `remove_abandoned` from it while it is written: the kernel lets go of a dead writer's lock."""
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: Buffer) -> None:
        """Write all of `data`, without a copy."""
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._fd, view) :]

    def publish(self) -> None:
        """Give the file its name, replacing what had it, and make that durable."""
        self._finish()
        os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._named = False
        self._sync_directory(self._directory)

    def publish_as(self, path: str) -> None:
        """As `publish`, under a name that is known only now, on the same file system.

        Raises FileNotFoundError where its directory is missing: it may then be called again. After any other
        error it may not: a second fsync can succeed although the first has lost bytes.
        """
        self._finish()
        directory, name = os.path.split(path)
        target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.rename(self._temporary, name, src_dir_fd=self._directory, dst_dir_fd=target)
            self._named = False
            self._sync_directory(target)
        finally:
            os.close(target)

    def publish_if_absent(self) -> bool:
        """Give the file its name unless something has it; True if it was given. Durable on return."""
        self._finish()
        try:
            os.link(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileExistsError:
            return False
        self._unlink()
        self._sync_directory(self._directory)
        return True

    def close(self) -> None:
        """Discard what was not published. May be called twice."""
        if self._named:
            with contextlib.suppress(OSError):  # it is hidden, and a later listing removes it
                self._unlink()
        for fd in (self._fd, self._directory):
            if fd >= 0:
                with contextlib.suppress(OSError):  # late word of a write, of which nothing is wanted any more
                    os.close(fd)
        self._fd = self._directory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finish(self) -> None:
        if self._fd < 0:
            return  # done by an earlier try that found no directory for the name
        os.fchmod(self._fd, self._mode)
        if self._sync:
            os.fsync(self._fd)
        # Closed before it is named: a network file system reports a late ENOSPC or EDQUOT here.
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _unlink(self) -> None:
        os.unlink(self._temporary, dir_fd=self._directory)
        self._named = False

    def _sync_directory(self, fd: int) -> None:
        if self._sync:
            _sync_directory_fd(fd)


def _sync_directory_fd(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def _write_all(file: DurableFile, data: Buffer | Iterable[Buffer]) -> None:
    if isinstance(data, (bytes, bytearray, memoryview)):
        file.write(data)
    else:
        for part in data:
            file.write(part)
