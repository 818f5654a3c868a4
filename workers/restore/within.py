"""The folders below which a restore may write, where the machine's own file names some.

A restore that comes over the queue is asked for by somebody else; which folders it may fill is said on the machine.

What it guards: nothing is written outside these folders, whatever links lie in them, planted before or meanwhile. In
this order: `admit` resolves the target, links and all, and compares what it really is with what the folders really
are. Then `enter` goes to that real place from the folder's own descriptor, one component at a time and through no
link. So a link that was there counts as what it leads to, and one that is put there later is in the way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import ClassVar

from shared.errors import RestoreError
from workers.restore.places import shown

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TargetRefused(RestoreError):
    """The machine's own file does not let a restore that comes over the queue write there."""

    exit_code: ClassVar[int] = 51


def admit(path: str, folders: Sequence[str]) -> tuple[str, str]:
    """The folder that holds an absolute path, and the path, both as they really are. Raises TargetRefused.

    What does not exist yet counts as lying in what does.
    """
    real = os.path.realpath(path)
    return _holding(path, real, folders), real


def admit_in_place(paths: Iterable[bytes], folders: Sequence[str]) -> None:
    """Raise TargetRefused unless all of these paths, relative to `/`, lie in the folders.

    A link at a path's end is itself what is restored, and is not followed.
    """
    for path in paths:
        whole = os.fsdecode(b"/" + path)
        above, name = os.path.split(whole)
        _holding(whole, os.path.join(os.path.realpath(above), name), folders)


def enter(folder: str, real: str) -> int:
    """A descriptor of the directory `real` in `folder`, made where it is missing. Raises TargetRefused, OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(folder, _OPEN)
    try:
        for name in os.path.relpath(real, folder).split("/"):
            if name != ".":
                below = _enter(fd, name, real)
                os.close(fd)
                fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _enter(parent: int, name: str, real: str) -> int:
    try:
        try:
            return os.open(name, _OPEN, dir_fd=parent)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            return os.open(name, _OPEN, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise TargetRefused(f"on the way to {_shown(real)}, {_shown(name)} is a link or a file by now") from error
        raise


def _holding(path: str, real: str, folders: Sequence[str]) -> str:
    for folder in folders:
        there = os.path.realpath(folder)
        if real == there or real.startswith(os.path.join(there, "")):
            return there
    where = f"{_shown(path)} (which is {_shown(real)})" if real != path else _shown(path)
    allowed = f"only in {', '.join(map(_shown, folders))}" if folders else "nowhere"
    raise TargetRefused(
        f"a restore that comes over the queue may not write to {where}: by the file of that machine, "
        f"{os.uname().nodename}, it may {allowed}",
        hint="Choose another target, or add a folder to `restore_to` of that file, or restore there with --direct",
    )


def _shown(path: str) -> str:
    return shown(os.fsencode(path))
