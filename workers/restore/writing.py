"""Making files: new ones, and ones that take another's place.

Invariant: under its final name a file is either finished, or its time is not the one that the snapshot
says (content, then metadata, the time last). Where the target held anything before, even that is not
relied on: a file is made under a temporary name and renamed when finished, so what stood there stays until then.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TypeAlias

from shared.errors import RestoreError
from shared.repository.crypto import Buffer
from workers.restore.metadata import Meta, Metadata
from workers.restore.places import InTheWay, Places, kind_of, shown
from workers.restore.sparse import write_at

TEMPORARY = b".holdfast-tmp-"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # NONBLOCK: should a fifo have taken the place
_FULL = (errno.ENOSPC, errno.EDQUOT)

# name, kind (S_IF bits), metadata, link target, device
Special: TypeAlias = tuple[bytes, int, Meta, bytes, int]
# (st_dev, st_ino) of a file that is written in pieces
Identity: TypeAlias = tuple[int, int]


class TargetFull(RestoreError):
    """The target has no space left. What was restored so far is whole; the same restore goes on from it."""


class Writer:
    """Makes what a snapshot holds below one target. For one process, single-threaded; it sets the umask to 0."""

    def __init__(self, places: Places, *, replacing: bool, run: bytes) -> None:
        """`replacing`: the target held something, so everything goes by temporary names, which `run` makes unique."""
        self.places = places
        self.metadata = Metadata()
        self._replacing = replacing
        self._run = run
        os.umask(0)

    def disk_name(self, name: bytes) -> bytes:
        """The name under which a file is made: a temporary one that an attempt after a kill finds again."""
        if not self._replacing:
            return name
        return TEMPORARY + hashlib.sha256(self._run + name).hexdigest()[:24].encode()

    def small(self, path: bytes, name: bytes, meta: Meta, content: Buffer) -> None:
        """Make a file whose whole content is at hand. Raises OSError, TargetFull; then it is not there."""
        dir_fd = self.places.get(path)
        disk = self.disk_name(name)
        fd = self._create(dir_fd, disk)
        try:
            try:
                if content and write_at(fd, content, 0):
                    os.ftruncate(fd, len(content))
                self.metadata.on_descriptor(fd, meta, path, name)
            finally:
                os.close(fd)
            if disk is not name:
                self._publish(path, disk, name)
        except BaseException as error:
            self._discard(path, disk)
            _raise_if_full(error)
            raise

    def create(self, path: bytes, name: bytes, size: int) -> Identity:
        """Make the file that pieces will be written into, all of it a hole. Raises OSError."""
        dir_fd = self.places.get(path)
        disk = self.disk_name(name)
        fd = self._create(dir_fd, disk)
        try:
            os.ftruncate(fd, size)
            found = os.fstat(fd)
        except OSError:
            self._discard(path, disk)
            raise
        finally:
            os.close(fd)
        return found.st_dev, found.st_ino

    def open_pieces(self, path: bytes, name: bytes, identity: Identity) -> int:
        """Open for writing what `create` made, and nothing else. Raises OSError."""
        fd = os.open(self.disk_name(name), os.O_WRONLY | _OPEN, dir_fd=self.places.get(path))
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != identity:
            os.close(fd)
            raise InTheWay(f"something else has taken the place of {shown(name)} while it was written")
        return fd

    def piece(self, fd: int, content: Buffer, offset: int) -> None:
        """Write one piece. Raises OSError, TargetFull."""
        try:
            write_at(fd, content, offset)
        except OSError as error:
            _raise_if_full(error)
            raise

    def finish(self, path: bytes, name: bytes, meta: Meta, identity: Identity) -> None:
        """Complete a file whose pieces are all written. Raises OSError."""
        fd = self.open_pieces(path, name, identity)
        try:
            self.metadata.on_descriptor(fd, meta, path, name)
        finally:
            os.close(fd)
        if self._replacing:
            self._publish(path, self.disk_name(name), name)

    def discard(self, path: bytes, name: bytes, identity: Identity) -> None:
        """Remove a file whose pieces could not all be had. Raises OSError."""
        os.close(self.open_pieces(path, name, identity))
        os.unlink(self.disk_name(name), dir_fd=self.places.get(path))

    def special(self, path: bytes, node: Special) -> None:
        """Make a symbolic link, fifo, socket or device. Raises OSError."""
        name, kind, meta, target, device = node
        dir_fd = self.places.get(path)
        disk = self.disk_name(name)
        for last in (False, True):
            try:
                if stat.S_ISLNK(kind):
                    os.symlink(target, disk, dir_fd=dir_fd)
                else:
                    os.mknod(disk, kind | (meta[0] & 0o777), device, dir_fd=dir_fd)
                break
            except FileExistsError as error:
                if last or not self._replacing:
                    raise _occupied(dir_fd, disk, error) from error
                os.unlink(disk, dir_fd=dir_fd)
            except OSError as error:
                _raise_if_full(error)
                raise
        self.metadata.on_name(dir_fd, disk, meta, path, name, kind=kind)
        if disk is not name:
            self._publish(path, disk, name)

    def link(self, first_path: bytes, first_name: bytes, path: bytes, name: bytes) -> bool:
        """Make a hard link; False where it is one already. Raises OSError."""
        first_fd = os.dup(self.places.get(first_path))  # two directories at once
        try:
            dir_fd = self.places.get(path)
            disk = self.disk_name(name)
            source = os.stat(first_name, dir_fd=first_fd, follow_symlinks=False)
            if self._replacing:
                try:
                    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                    if (found.st_dev, found.st_ino) == (source.st_dev, source.st_ino):
                        return False
                    os.unlink(disk, dir_fd=dir_fd)
                except FileNotFoundError:
                    pass
            try:
                os.link(first_name, disk, src_dir_fd=first_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            except FileExistsError as error:
                raise _occupied(dir_fd, disk, error) from error
            if disk is not name:
                self._publish(path, disk, name)
            return True
        finally:
            os.close(first_fd)

    def directory(self, path: bytes, meta: Meta, *, create: bool) -> bool:
        """Complete a directory; False where it is not there and is not to be made. Raises OSError."""
        try:
            fd = self.places.get(path, create=create)
        except FileNotFoundError:
            return False
        above = path.rpartition(b"/")[0]
        self.metadata.on_descriptor(fd, meta, above, path[len(above) :].lstrip(b"/"))
        return True

    def _create(self, dir_fd: int, disk: bytes) -> int:
        try:
            return os.open(disk, _CREATE, 0o600, dir_fd=dir_fd)
        except FileExistsError as error:
            if not self._replacing:
                raise _occupied(dir_fd, disk, error) from error
        except OSError as error:
            _raise_if_full(error)
            raise
        os.unlink(disk, dir_fd=dir_fd)  # left by an attempt that was killed
        return os.open(disk, _CREATE, 0o600, dir_fd=dir_fd)

    def _publish(self, path: bytes, disk: bytes, name: bytes) -> None:
        """Give a finished file its name, in the place of what has it now."""
        try:
            self.places.keep_copy(path, name)
            dir_fd = self.places.get(path)
            os.rename(disk, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except OSError as error:
            self._discard(path, disk)
            if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise InTheWay("a directory stands in its place, and is not replaced") from error
            raise

    def _discard(self, path: bytes, disk: bytes) -> None:
        try:
            os.unlink(disk, dir_fd=self.places.get(path))
        except OSError:
            return  # it has gone with its directory, or the file system has turned read-only


def _raise_if_full(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in _FULL:
        reason = "no space is left" if error.errno == errno.ENOSPC else "its quota is used up"
        raise TargetFull(
            f"the target is full ({reason})", hint="Free space there and run the same restore again: it goes on"
        ) from error


def _occupied(dir_fd: int, disk: bytes, error: OSError) -> OSError:
    try:
        kind = kind_of(os.stat(disk, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except OSError:
        return error
    return InTheWay(f"a {kind} stands in its place that was not there when the restore began; it is left as it is")
