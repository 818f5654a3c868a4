"""Owners, attributes, modes and times, set in the one order that keeps them all.

    owner -> attributes that the snapshot has not, away -> attributes (ACLs too) -> mode -> times

A change of owner clears setuid and file capabilities; an ACL changes the group's bits of the mode;
anything changes the time. What is new may have attributes too: a default ACL of its directory is
inherited, and would let in whom the snapshot does not. Times come last also because a file whose size
and time are right is taken as finished when a restore is taken up again.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TypeAlias

from workers.restore.places import join, shown

# permission bits, uid, gid, mtime, atime (nanoseconds since 1970), extended attributes
Meta: TypeAlias = tuple[int, int, int, int, int, tuple[tuple[bytes, bytes], ...]]

# What is taken away where the snapshot has it not. Other attributes (security.selinux, system.nfs4_acl) are the
# machine's own: it gives them to all that is made, and they can't be removed.
_REMOVED = ("user.", "trusted.", "system.posix_acl_", "security.capability")
_KEPT_PROBLEMS = 10
_BAD = (OSError, OverflowError, ValueError)  # the latter two: numbers that no system call takes


class Metadata:
    """Sets metadata and counts what can't be set: that never fails a restore."""

    def __init__(self) -> None:
        self.failed = 0
        self.problems: list[tuple[bytes, str]] = []

    def take(self) -> tuple[int, list[tuple[bytes, str]]]:
        """What failed since the last call: how often, and the first cases of it."""
        failed, problems = self.failed, self.problems
        self.failed, self.problems = 0, []
        return failed, problems

    def on_descriptor(self, fd: int, meta: Meta, directory: bytes, name: bytes) -> None:
        """Set everything of a file or directory that is open."""
        perm, uid, gid, mtime, atime, xattrs = meta
        try:
            os.fchown(fd, uid, gid)
        except _BAD as error:
            self._note(directory, name, f"owner {uid}:{gid}", error)
        try:
            found = os.listxattr(fd)
        except OSError as error:
            self._not_listed(directory, name, error)
        else:
            if found:
                self._remove(fd, found, xattrs, directory, name)
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
        os.fchdir(dir_fd)  # there is no listxattrat in Python
        try:
            found = os.listxattr(disk, follow_symlinks=False)
        except OSError as error:
            self._not_listed(directory, name, error)
        else:
            if found:
                self._remove(disk, found, xattrs, directory, name)
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

    def _not_listed(self, directory: bytes, name: bytes, error: OSError) -> None:
        if error.errno != errno.ENOTSUP:  # else the file system knows no attributes
            self._note(directory, name, "list of attributes", error)

    def _remove(
        self,
        place: int | bytes,
        found: list[str],
        xattrs: tuple[tuple[bytes, bytes], ...],
        directory: bytes,
        name: bytes,
    ) -> None:
        """Take away those of the attributes `found` at `place` (never a link's target) that are not in `xattrs`."""
        own = {os.fsdecode(key) for key, _ in xattrs}
        for key in found:
            if key in own or not key.startswith(_REMOVED):
                continue
            try:
                if isinstance(place, int):
                    os.removexattr(place, key)
                else:
                    os.removexattr(place, key, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    self._note(directory, name, f"attribute {shown(os.fsencode(key))}, not in the snapshot", error)

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
