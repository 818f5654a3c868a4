"""Scratch folders of restore tests: private, and gone afterwards, however a test ends.

    restore-test/<run>-<random>/  restore-test/<run>-<random>.lock

Invariant: a test holds an exclusive flock on the file beside its folder, which is there before the folder and gone
after it. A folder whose lock is free belongs to nobody, and whoever begins a test removes it: so what a test that was
killed has left goes with the next one, and of two tests at once neither takes the other's for that.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shared.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "restore-test"
_LOCK = ".lock"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_folder(cache_dir: str, run: str) -> Iterator[str]:
    """An empty folder below `cache_dir`, which is gone when the block is left. Raises RestoreError."""
    parent = os.path.join(cache_dir, FOLDER)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        for name in os.listdir(parent):
            if name.endswith(_LOCK):
                _remove_if_dead(os.path.join(parent, name))
        lock, held = _make(parent, run)
    except OSError as error:
        raise RestoreError(
            f"no scratch folder can be made in {parent}: {error.strerror}",
            hint="See to the rights and the space of `cache_dir`",
        ) from error
    try:
        yield lock.removesuffix(_LOCK)
    finally:
        _give_up(lock, held)


def require_space(folder: str, space: int, nodes: int) -> None:
    """Raise RestoreError where `space` bytes or so many nodes do not fit into the file system of a folder."""
    found = os.statvfs(folder)
    free = (found.f_bavail if os.geteuid() else found.f_bfree) * found.f_frsize
    place = os.path.dirname(folder)
    way_out = "Nothing was written. Make room there, set `cache_dir` to where there is more, or test fewer files"
    if space > free:
        raise RestoreError(
            f"the restore test has too little room in {place}: it needs {space} bytes, {free} are free", hint=way_out
        )
    if found.f_files and nodes > found.f_ffree:
        raise RestoreError(
            f"the restore test has too little room in {place}: it makes {nodes} files, {found.f_ffree} inodes are left",
            hint=way_out,
        )


def remove(path: str) -> None:
    """Remove a folder with all that is in it, of any depth and whatever modes; what can't be removed is left.

    No link is followed. Each directory is moved up before it is emptied, so that few are open at a time.
    """
    with suppress(OSError):
        top = os.open(path, _OPEN)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    moved = secrets.token_hex(8)  # names that nothing restored has
    pending = ["."]
    count = 0
    while pending:
        name = pending.pop()
        with suppress(OSError):
            os.chmod(name, 0o700, dir_fd=top)
            here = os.open(name, _OPEN, dir_fd=top)
            try:
                for below in _clear(here):
                    count += 1
                    with suppress(OSError):
                        os.chmod(below, 0o700, dir_fd=here)  # moving a directory writes to it
                        os.rename(below, f"{moved}-{count}", src_dir_fd=here, dst_dir_fd=top)
                        pending.append(f"{moved}-{count}")
            finally:
                os.close(here)
            if name != ".":
                os.rmdir(name, dir_fd=top)


def _clear(here: int) -> list[str]:
    """Remove all files of a directory; the names of the directories in it."""
    below = []
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            else:
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=here)
    return below


def _make(parent: str, run: str) -> tuple[str, int]:
    """Make a folder, its lock first: the lock's path, and the descriptor that holds it."""
    while True:
        lock = os.path.join(parent, f"{run}-{secrets.token_hex(4)}{_LOCK}")
        held = _hold(lock, os.O_CREAT | os.O_EXCL)
        if held is not None:
            os.mkdir(lock.removesuffix(_LOCK), 0o700)
            return lock, held


def _remove_if_dead(lock: str) -> None:
    held = _hold(lock)
    if held is not None:
        _give_up(lock, held)


def _give_up(lock: str, held: int) -> None:
    """Remove a folder, its lock last."""
    remove(lock.removesuffix(_LOCK))
    with suppress(OSError):
        os.unlink(lock)
    os.close(held)


def _hold(lock: str, flags: int = 0) -> int | None:
    """A descriptor that holds the lock; None where another does, or it is gone. Raises OSError."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.lstat(lock)):  # else whoever held it removed it before we locked it
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None
