"""Which entries of a source are left out: patterns, markers, mount points, size."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from shared.errors import BackupError
from workers.backup.engine.treecache import Record
from workers.backup.shards.plan import Plan
from workers.backup.spec import Selection

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
Matcher = Callable[[str, bool], bool]  # (path relative to the source's, whether it is a directory)
_NOTHING: set[bytes] = set()
_DIRECTORY_MARK = "ps_d"  # the group with which pathspec's expressions match a directory's slash


class Filter:
    """The rules of one source, asked for each entry of a directory. Paths are bytes."""

    def __init__(self, selection: Selection) -> None:
        self.one_file_system = selection.one_file_system
        self.larger_than = selection.exclude_larger_than
        self._markers = [os.fsencode(name) for name in selection.exclude_if_present]
        self._caches = selection.exclude_caches
        patterns = [*selection.excludes, *read_patterns(selection.exclude_files)]
        self._match = _compile(patterns) if patterns else None
        self._own: dict[bytes, set[bytes]] = {}
        for place in selection.own:
            above, name = os.path.split(os.fsencode(place))
            self._own.setdefault(above, set()).add(name)
        self._plan = Plan.parse(selection.plan) if selection.plan else None
        self._shard = selection.shard
        # Longest first: an entry is matched relative to the source path that it lies in.
        self._roots = sorted((os.fsencode(os.path.abspath(p)) for p in selection.paths), key=len, reverse=True)

    def excluded(self, directory: bytes, names: list[bytes], is_dir: Callable[[bytes], bool]) -> set[bytes]:
        """Which of `names` in `directory` a pattern leaves out, or are Holdfast's own."""
        out = self._own.get(directory, _NOTHING).intersection(names)
        if self._match is None:
            return out
        root = next((r for r in self._roots if directory == r or directory.startswith(r.rstrip(b"/") + b"/")), None)
        if root is None:
            return out
        below = os.fsdecode(directory[len(root) :].strip(b"/"))
        prefix = f"{below}/" if below else ""
        for name in names:
            path = prefix + os.fsdecode(name)
            if self._match(path, is_dir(name)):
                out.add(name)
        return out

    def is_cut(self, directory: bytes) -> bool:
        """Whether a directory is shared with other shards."""
        return self._plan is not None and directory in self._plan.cuts

    def mine(self, directory: bytes, names: list[bytes]) -> list[bytes]:
        """Those of `names` in `directory` that are not another shard's."""
        plan = self._plan
        if plan is None or directory not in plan.cuts:
            return names
        return [name for name in names if plan.is_mine(self._shard, directory, name)]

    def mine_of(self, directory: bytes, record: Record | None) -> Record | None:
        """What a directory's record says of the names that are not another shard's."""
        plan = self._plan
        if plan is None or record is None or directory not in plan.cuts:
            return record
        subs = [sub for sub in record.subs if plan.is_mine(self._shard, directory, sub[0])]
        entries = [entry for entry in record.entries if plan.is_mine(self._shard, directory, entry[0])]
        return Record(record.tree, subs, entries)

    def markers(self, names: list[bytes]) -> list[bytes] | None:
        """The entries that alone are kept of the current directory because a marker lies in it; None: keep all."""
        if not self._caches and not self._markers:
            return None
        here = set(names)
        found = [name for name in self._markers if name in here]
        if self._caches and CACHE_TAG in here and _is_cache_tag():
            found.append(CACHE_TAG)
        return found or None


def _is_cache_tag() -> bool:
    try:
        # Not waiting: a fifo of that name would hold up the backup for ever.
        fd = os.open(CACHE_TAG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            return file.read(len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except OSError:
        return False


def read_patterns(files: list[str]) -> list[str]:
    """The patterns that files list, a line each. Raises BackupError."""
    patterns: list[str] = []
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                patterns += file.read().splitlines()
        except OSError as error:
            raise BackupError(
                f"the file of exclude patterns {path} can't be read ({error.strerror})",
                hint="Correct `exclude_files` of the source: without it too much would be backed up",
            ) from error
    return patterns


def _compile(patterns: list[str]) -> Matcher:
    """The last pattern that an entry itself matches decides.

    pathspec answers for files in any directory, and lets `*` win over `!*/`. A scan asks for one entry of a
    directory that is kept already, as git does, so a match of an ancestor (told by pathspec's mark) is none.
    """
    from pathspec import GitIgnoreSpec  # only where there are patterns: it takes a while to import

    try:
        spec = GitIgnoreSpec.from_lines(patterns)
    except (ValueError, re.error) as error:
        raise BackupError(f"an exclude pattern can't be understood: {error}") from error
    rules = [(rule.regex, rule.include) for rule in reversed(spec.patterns) if rule.include is not None and rule.regex]

    def matches(path: str, is_dir: bool) -> bool:
        return next((include for regex, include in rules if _hits(regex, path, is_dir=is_dir)), False)

    return matches


def _hits(regex: re.Pattern[str], path: str, *, is_dir: bool) -> bool:
    marked = _DIRECTORY_MARK in regex.groupindex
    if any(not marked or found[_DIRECTORY_MARK] is None for found in regex.finditer(path)):
        return True
    return is_dir and marked and any(found.start(_DIRECTORY_MARK) == len(path) for found in regex.finditer(f"{path}/"))
