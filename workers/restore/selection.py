"""Which of a snapshot's nodes are wanted. Paths here are bytes, relative, without a leading slash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from shared.errors import UsageError

# How a directory is to be treated.
WHOLE = 2  # wanted, and all below it but for excludes
WANTED = 1  # wanted, but what is below is still to be asked for, one by one
PASSING = 0  # not wanted itself: only its children may be
DROPPED = -1  # nothing of it


class _Spec(Protocol):
    def match_file(self, file: str) -> bool: ...


def relative(path: str) -> bytes:
    """An absolute path of a snapshot as selections and walks have it. Raises UsageError."""
    raw = os.fsencode(path)
    parts = [part for part in raw.split(b"/") if part]
    if b".." in parts or b"." in parts:
        raise UsageError(f"{path!r} is no path in a snapshot", hint="Write it as `holdfast snapshots` shows it")
    return b"/".join(parts)


class Selection:
    """Paths AND include patterns, less exclude patterns; each of the three may be empty.

    A path selects what it names and all below; so does a pattern.
    """

    def __init__(self, paths: Iterable[bytes], includes: list[str], excludes: list[str]) -> None:
        named = frozenset(paths)
        self.paths = frozenset(path for path in named if not any(path[:at] in named for at in _slashes(path)))
        self.met: set[bytes] = set()  # those of `paths` that were found in the snapshot
        self._above = {path[:at] for path in self.paths for at in _slashes(path)}
        self._includes = _compile(includes)
        self._excludes = _compile(excludes)
        everything = not self.paths or b"" in self.paths
        self._all_paths = everything
        self.start = WHOLE if everything and self._includes is None and self._excludes is None else PASSING
        if everything and self.start == PASSING and self._includes is None:
            self.start = WANTED

    def state(self, path: bytes, *, is_dir: bool, parent: int) -> int:
        """How the node at `path` is to be treated, below a directory that is treated as `parent` says."""
        if path in self.paths:
            self.met.add(path)
        if self._excludes is not None and self._excludes.match_file(_text(path, is_dir=is_dir)):
            return DROPPED
        wanted = parent in (WHOLE, WANTED)
        if not wanted:
            inside = self._all_paths or self._inside(path)
            if not inside:
                return PASSING if is_dir and path in self._above else DROPPED
            if self._includes is not None and not self._includes.match_file(_text(path, is_dir=is_dir)):
                return PASSING if is_dir else DROPPED
        if not is_dir:
            return WANTED
        return WHOLE if self._excludes is None else WANTED

    def _inside(self, path: bytes) -> bool:
        if path in self.paths:
            return True
        return any(path[:at] in self.paths for at in _slashes(path))


def _slashes(path: bytes) -> list[int]:
    return [at for at, char in enumerate(path) if char == 0x2F]


def _text(path: bytes, *, is_dir: bool) -> str:
    return os.fsdecode(path) + "/" if is_dir else os.fsdecode(path)


def _compile(patterns: list[str]) -> _Spec | None:
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec  # only where patterns are given

    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise UsageError(f"a pattern can't be read: {error}", hint="Patterns are written as in .gitignore") from error
