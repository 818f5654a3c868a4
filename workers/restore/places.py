"""Directories of the target, reached by descriptors alone: the guard of "never outside the target".

Invariant: a directory is opened one component at a time, relative to its parent's descriptor, with
O_NOFOLLOW. So no symbolic link in the target, planted before or during a restore, ever leads out of
it, and no path is too long. What is created lies directly in a directory so opened, under a name
without slashes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from collections import OrderedDict
from collections.abc import Iterable

from shared.errors import RestoreError

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 256  # descriptors of directories that are kept open


class InTheWay(OSError):
    """Something stands where something else is to be restored; its message says what. It is left as it is."""


def join(directory: bytes, name: bytes) -> bytes:
    """A node's path from its directory's."""
    return directory + b"/" + name if directory else name


def shown(path: bytes) -> str:
    """A path for messages: what is not UTF-8, or not printable, is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def quoted(path: bytes) -> str:
    """A path for a command that is to be pasted into a shell: its very bytes, as printable text.

    `$'...'`, which bash, zsh and ksh know, stands for what is not UTF-8, or not printable. It has octal
    escapes, as some shells take more than two digits of a hexadecimal one.
    """
    try:
        text = path.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return shlex.quote(text)
    plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\{byte:03o}" for byte in path)
    return f"$'{''.join(plain)}'"


def kind_of(mode: int) -> str:
    """What a st_mode is, in words."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFREG: "file"}
    return kinds.get(stat.S_IFMT(mode), "special file")


class Places:
    """The directories below one target. Paths are bytes, relative to it; b"" is the target itself."""

    def __init__(self, root: int, undo: bytes = b"", tops: Iterable[bytes] = ()) -> None:
        """`root`: descriptor of the target, which is taken over.

        `undo`: name of the safety directories, empty for none; `tops`: what is restored in place: a safety
        directory stands in the highest directory at or below one of these that is on the same file system.
        """
        self._root = root
        self._undo = undo
        self._tops = frozenset(tops)
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._undo_dirs: dict[bytes, bytes] = {}  # directory -> the highest one that may hold its safety copies
        self.undo_used: set[bytes] = set()
        self.identity = _identity(os.fstat(root))

    def get(self, path: bytes, *, create: bool = True) -> int:
        """A descriptor of the directory, good until the next call.

        Raises InTheWay, OSError (FileNotFoundError without `create`).
        """
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        above = path
        while above and fd is None:
            above = above.rpartition(b"/")[0]
            fd = self._open.get(above) if above else self._root
        assert fd is not None  # noqa: S101 -- the loop ends at the root at the latest
        if above:
            self._open.move_to_end(above)
        rest = path[len(above) + 1 :] if above else path
        for name in rest.split(b"/"):
            above = join(above, name)
            fd = self._keep(above, self._enter(fd, name, above, create=create))
        return fd

    def close(self) -> None:
        """Close every descriptor."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self._root)

    def _enter(self, parent: int, name: bytes, path: bytes, *, create: bool) -> int:
        try:
            return os.open(name, _OPEN, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _in_the_way(parent, name, path) from error
            raise
        with contextlib.suppress(FileExistsError):  # another helper was first
            os.mkdir(name, 0o700, dir_fd=parent)
        try:
            return os.open(name, _OPEN, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _in_the_way(parent, name, path) from error
            raise

    def _keep(self, path: bytes, fd: int) -> int:
        self._open[path] = fd
        if len(self._open) > _KEPT:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def keep_copy(self, path: bytes, name: bytes) -> None:
        """Move what stands at `path`/`name`, if anything, to the safety directory. Raises OSError."""
        if not self._undo:
            return
        top = self._undo_top(path)
        below = path[len(top) + 1 :] if top else path
        folder = join(join(top, self._undo), below) if below else join(top, self._undo)
        try:
            os.stat(name, dir_fd=self.get(path), follow_symlinks=False)
        except FileNotFoundError:
            return
        kept = os.dup(self.get(folder))  # two directories at once: the second `get` may close the first
        try:
            os.rename(name, name, src_dir_fd=self.get(path), dst_dir_fd=kept)
        finally:
            os.close(kept)
        self.undo_used.add(join(top, self._undo))

    def _undo_top(self, path: bytes) -> bytes:
        known = self._undo_dirs.get(path)
        if known is not None:
            return known
        device = os.fstat(self.get(path)).st_dev
        top = path
        while top and top not in self._tops:
            above = top.rpartition(b"/")[0]
            if not self._within(above) or os.fstat(self.get(above)).st_dev != device:
                break
            top = above
        self._undo_dirs[path] = top
        return top

    def _within(self, path: bytes) -> bool:
        return b"" in self._tops or any(path == top or path.startswith(top + b"/") for top in self._tops)


def open_target(path: str) -> int:
    """A descriptor of a target directory that exists. Raises RestoreError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreError(f"the target {path} can't be opened: {error.strerror}") from error


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _in_the_way(parent: int, name: bytes, path: bytes) -> InTheWay:
    try:
        kind = kind_of(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        kind = "something"
    return InTheWay(blocked(kind, path))


def blocked(kind: str, path: bytes) -> str:
    """What is said where something (`kind`) stands in a directory's place."""
    return (
        f"a {kind} stands where the directory {shown(path)} is to be restored; it is not followed and not "
        "replaced, so nothing below it is restored"
    )
