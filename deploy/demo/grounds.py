"""What the demo stands on: real files, and honest ways to look at files, figures and processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from shared.ledger.errors import LedgerAway
from shared.ledger.model import Run

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

Found = TypeVar("Found")


class DemoFailed(Exception):
    """Something is not as the demo says it is."""


def wait_for(look: Callable[[], Found | None], what: str, seconds: float = 60.0, every: float = 0.05) -> Found:
    """What `look` finds once it does. Raises DemoFailed after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(LedgerAway):  # it starts, or starts again
            found = look()
            if found:
                return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:g} s for {what}")
        time.sleep(every)


def copy_real_files(target: str) -> None:
    """The virtual environment's packages and the project itself: real files, copied so that they may be changed."""
    shutil.copytree(sysconfig.get_paths()["purelib"], os.path.join(target, "site-packages"), symlinks=True)
    left_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(PROJECT, os.path.join(target, "project"), symlinks=True, ignore=left_out)


def differences(one: str, two: str) -> list[str]:
    """What differs between two trees: names, types, modes, owners, times of files, targets of links, content."""
    first, second = dict(_entries(one)), dict(_entries(two))
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _entries(top: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            kept: tuple[object, ...] = (facts.st_mode, facts.st_uid, facts.st_gid)
            if stat.S_ISREG(facts.st_mode):
                kept = (*kept, facts.st_size, facts.st_mtime_ns, content(path))
            elif stat.S_ISLNK(facts.st_mode):
                kept = (*kept, os.readlink(path))
            yield os.path.relpath(path, top), kept


def content(path: str) -> bytes:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def descendants(top: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    below = [top]
    for pid in below:
        below += [child for child, parent in parents.items() if parent == pid]
    return below[1:]


def command_line(pid: int) -> list[str]:
    """The words of a process's command; none where it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")
    return []


def is_alive(pid: int) -> bool:
    """Whether a process runs, zombies aside."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def walk_files(top: str) -> list[os.DirEntry[str]]:
    """All regular files below a directory."""
    found: list[os.DirEntry[str]] = []
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += walk_files(entry.path)
            elif entry.is_file(follow_symlinks=False):
                found.append(entry)
    return found


def number(run: Run, name: str) -> int:
    """A figure of a run's result."""
    value = run.result.get(name, 0)
    return value if isinstance(value, int) else 0


def mb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
