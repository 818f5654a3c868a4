"""How heavy a source's directories are, from the last snapshot's trees, or from a listing where there is none.

A guess for balancing, and so bounded: it goes down level by level, until it has looked into so many directories or
spent so much time. What it has not looked into counts as the average of what it has.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.backup.engine.parent import ParentReader
from workers.backup.engine.selection import Filter
from workers.backup.engine.treecache import Ref
from workers.backup.shards.plan import Folder, bucket_of

A_FILE = 32 << 10  # bytes that looking at an entry counts for
LOOKS = 50_000  # directories that are looked into at most
SECONDS = 30.0  # for which it goes on


@dataclass(slots=True)
class Seen:
    """What is in a directory: its files with their sizes, its folders with what `look` needs to go on there."""

    files: list[tuple[bytes, int]] = field(default_factory=list)
    folders: list[tuple[bytes, Any]] = field(default_factory=list)


Look = Callable[[bytes, Any], Seen]  # a path, and what was noted for it


def weigh(tops: Mapping[bytes, Any], look: Look, buckets: int, look_after: Callable[[], None]) -> dict[bytes, Folder]:
    """Weigh the directories below `tops`, paths with what `look` needs there. `look_after` is called with each."""
    found = {path: Folder() for path in tops}
    waiting = deque((path, note, found[path]) for path, note in tops.items())
    order: list[tuple[Folder, Folder | None]] = [(folder, None) for folder in found.values()]
    looks = own = 0
    end = time.monotonic() + SECONDS
    while waiting and looks < LOOKS and time.monotonic() < end:
        look_after()
        path, note, folder = waiting.popleft()
        seen = look(path, note)
        looks += 1
        folder.looked = True
        folder.weight = A_FILE
        for name, size in seen.files:
            bucket = bucket_of(name, buckets)
            folder.buckets[bucket] = folder.buckets.get(bucket, 0) + size + A_FILE
            folder.weight += size + A_FILE
        own += folder.weight
        for name, below in seen.folders:
            one = folder.folders[name] = Folder()
            order.append((one, folder))
            waiting.append((os.path.join(path, name), below, one))
    average = own // looks if looks else A_FILE
    for folder, above in reversed(order):  # from the bottom up
        if not folder.looked:
            folder.weight = average
        if above is not None:
            above.weight += folder.weight
    return found


Located = Callable[[bytes], tuple[Any, ...]]  # where the blob of a tree lies, or nothing


def in_snapshot(reader: ParentReader, locate: Located) -> Look:
    """Look into a snapshot; a note is a tree and where its record lies. What can't be read is empty."""

    def look(_: bytes, note: tuple[bytes, Ref] | None) -> Seen:
        record = reader.record(note[1], note[0], locate(note[0])) if note else None
        if record is None:
            return Seen()
        return Seen(
            [(name, key[1] if content else 0) for name, _, key, content in record.entries],
            [(name, (tree, ref)) for name, _, _, tree, ref in record.subs],
        )

    return look


def tops_in_snapshot(look: Look, root: tuple[bytes, Ref], paths: Iterable[bytes]) -> dict[bytes, Any]:
    """The notes of a source's paths for `in_snapshot`; None where the snapshot has no directory there."""
    tops: dict[bytes, Any] = {}
    for path in paths:
        note: Any = root
        for part in filter(None, path.split(b"/")):
            note = dict(look(path, note).folders).get(part) if note else None
        tops[path] = note
    return tops


def on_disk(rules: Filter) -> Look:
    """Look at the disk itself; a note is the file system (st_dev) to stay on, or None. What can't be read is empty."""

    def look(path: bytes, device: int | None) -> Seen:
        seen = Seen()
        try:
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                return seen
            if rules.one_file_system and device is not None and status.st_dev != device:
                return seen
            with os.scandir(path) as entries:
                here = {entry.name: entry for entry in entries}
            out = rules.excluded(path, list(here), lambda name: here[name].is_dir(follow_symlinks=False))
        except OSError:
            return seen
        for name, entry in here.items():
            if name in out:
                continue
            if entry.is_dir(follow_symlinks=False):
                seen.folders.append((name, status.st_dev))
            else:
                seen.files.append((name, _size(entry)))
        return seen

    return look


def _size(entry: os.DirEntry[bytes]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
