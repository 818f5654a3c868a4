"""Owners, attributes, modes and times, set in the one order that keeps them all.

    owner -> attributes (ACLs too) -> mode -> times

A change of owner clears setuid and file capabilities; an ACL changes the group's bits of the mode;
anything changes the time. Times come last also because a file whose size and time are right is taken as
finished when a restore is taken up again.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TypeAlias

from workers.restore.places import Places, join, shown

# permission bits, uid, gid, mtime, atime (nanoseconds since 1970), extended attributes
Meta: TypeAlias = tuple[int, int, int, int, int, tuple[tuple[bytes, bytes], ...]]

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_KEPT_PROBLEMS = 10
_BAD = (OSError, OverflowError, ValueError)  # the latter two: numbers that no system call takes


class Metadata:
    """Sets metadata and counts what can't be set: that never fails a restore."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.failed = 0
        self.problems: list[tuple[bytes, str]] = []

    def take(self) -> tuple[int, list[tuple[bytes, str]]]:
        """What failed since the last call: how often, and the first cases of it."""
        failed, problems = self.failed, self.problems
        self.failed, self.problems = 0, []
        return failed, problems

    def on_descriptor(self, fd: int, meta: Meta, directory: bytes, name: bytes, *, is_dir: bool = False) -> None:
        """Set everything of a file or directory that is open."""
        perm, uid, gid, mtime, atime, xattrs = meta
        try:
            os.fchown(fd, uid, gid)
        except _BAD as error:
            self._note(directory, name, f"owner {uid}:{gid}", error)
        if directory in self._places.inheriting:
            self._drop_inherited(fd, xattrs, is_dir=is_dir)
        for key, value in xattrs:
            try:
                os.setxattr(fd, key, value)
            except _BAD as error:
                self._note(directory, name, f"attribute {shown(key)}", error)
        try:
            os.fchmod(fd, perm)
        except _BAD as error:
            self._note(directory, name, f"mode {perm:o}", error)
        try:
            os.utime(fd, ns=(atime, mtime))
        except _BAD as error:
            self._note(directory, name, "times", error)

    def on_name(self, dir_fd: int, disk: bytes, meta: Meta, directory: bytes, name: bytes, *, kind: int) -> None:
        """Set everything of what can't be opened: symbolic links (without mode), fifos, sockets, devices.

        `disk` is its name for now, `kind` its S_IF bits. The working directory is changed.
        """
        perm, uid, gid, mtime, atime, xattrs = meta
        try:
            os.chown(disk, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        except _BAD as error:
            self._note(directory, name, f"owner {uid}:{gid}", error)
        if xattrs:
            os.fchdir(dir_fd)  # there is no setxattrat in Python
            for key, value in xattrs:
                try:
                    os.setxattr(disk, key, value, follow_symlinks=False)
                except _BAD as error:
                    self._note(directory, name, f"attribute {shown(key)}", error)
        if not stat.S_ISLNK(kind):
            try:
                _chmod_unopened(dir_fd, disk, perm, kind)
            except _BAD as error:
                self._note(directory, name, f"mode {perm:o}", error)
        try:
            os.utime(disk, ns=(atime, mtime), dir_fd=dir_fd, follow_symlinks=False)
        except _BAD as error:
            self._note(directory, name, "times", error)

    def _drop_inherited(self, fd: int, xattrs: tuple[tuple[bytes, bytes], ...], *, is_dir: bool) -> None:
        own = {key for key, _ in xattrs}
        for key in _ACLS[: 2 if is_dir else 1]:
            if key not in own:
                try:
                    os.removexattr(fd, key)
                except OSError:
                    continue  # it has none

    def _note(self, directory: bytes, name: bytes, what: str, error: Exception) -> None:
        self.failed += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.problems.append((join(directory, name) if name else directory, f"{what}: {reason}"))


def _chmod_unopened(dir_fd: int, disk: bytes, perm: int, kind: int) -> None:
    """Change the mode of a fifo, socket or device without opening it and without following a link."""
    fd = os.open(disk, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
            raise OSError(errno.EEXIST, "something else has taken its place")
        os.chmod(f"/proc/self/fd/{fd}", perm)
    finally:
        os.close(fd)
