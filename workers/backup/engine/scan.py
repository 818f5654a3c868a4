"""One directory against its record: what is unchanged, what is to be read, what lies below.

The rule of an incremental: a file is taken as unchanged if inode, size, mtime and ctime are the
parent's, and both times lie before `trusted_before`, the parent's start less a margin; a time too
close to that start may belong to a write that came after it was read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from workers.backup.engine.nodes import dir_head, link_target, node_head, other_node, read_xattrs
from workers.backup.engine.selection import Filter
from workers.backup.engine.treecache import NO_REF, Entry, Key, Record, Ref, SubEntry

_PATH_STEP = 4000  # bytes of path that one open may take, below PATH_MAX
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LEFT_EMPTY: Ref = (-2, 0, 0)  # in place of a base: a mount point whose content is another file system's
Problem = Callable[[bytes, str], None]
DeviceIds = Callable[[int, bytes], int]


@dataclass(slots=True)
class Found:
    """A directory as scanned. `subs` are (name, head, key, base tree, base ref); base tree b"" where there is none."""

    same: bool = False  # only what lies below the subdirectories may differ from the record
    entries: list[Entry] = field(default_factory=list)  # ready nodes; empty where `same`
    subs: list[SubEntry] = field(default_factory=list)
    to_read: list[tuple[bytes, os.stat_result, str, Entry | None]] = field(
        default_factory=list
    )  # name, st, xattrs, old
    content: bytes = b""  # blob ids of what was taken as unchanged
    unmodified: int = 0
    unmodified_bytes: int = 0
    gone: int = 0


def open_directory(path: bytes) -> int:
    """A descriptor of the directory, however long its path. Raises OSError."""
    if len(path) < _PATH_STEP:
        return os.open(path, _DIR_FLAGS)
    fd = os.open(b"/", _DIR_FLAGS)
    parts = path.strip(b"/").split(b"/")
    while parts:
        step = parts.pop(0)
        while parts and len(step) + len(parts[0]) < _PATH_STEP:
            step += b"/" + parts.pop(0)
        try:
            below = os.open(step, _DIR_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def stat_key(st: os.stat_result) -> Key:
    """What an incremental compares."""
    return (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def scan_directory(
    path: bytes,
    names: list[bytes],
    record: Record | None,
    *,
    trusted_before: Callable[[int], int],
    device_id: DeviceIds,
    rules: Filter,
    reread: bool,
    distrusted: AbstractSet[bytes],
    partial: bool,
    read_at_most: int,
    problem: Problem,
) -> Found:
    """Compare the current directory, whose path is `path`, with its record.

    `trusted_before`: from a st_dev to the time in nanoseconds before which times are trusted.
    `reread`: a full backup, which takes no file's content as unchanged. `distrusted`: blobs that the
    repository lacks, so that whatever refers to them is read. `partial`: `names` are not all there is.
    Files beyond `read_at_most` are listed in `to_read` for their names alone: they are looked at again.
    """
    found = Found()
    old = {entry[0]: entry for entry in record.entries} if record else {}
    old_subs = {sub[0]: sub for sub in record.subs} if record else {}
    matched = same_heads = 0
    device = os.stat(".").st_dev
    limit = trusted_before(device)
    lstat = os.lstat
    stats: dict[bytes, os.stat_result] = {}
    for name in names:
        try:
            stats[name] = lstat(name)
        except OSError as error:
            problem(os.path.join(path, name), f"vanished or can't be looked at: {error.strerror}")
    for name in rules.excluded(path, list(stats), lambda n: stat.S_ISDIR(stats[n].st_mode)):
        del stats[name]
    kept: list[Entry] = []
    for name, st in stats.items():
        mode = st.st_mode
        key = (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        settled = key[2] < limit and key[3] < limit

        def complain(text: str, name: bytes = name) -> None:
            problem(os.path.join(path, name), text)

        if stat.S_ISDIR(mode):
            xattrs = read_xattrs(name, complain)
            if rules.one_file_system and st.st_dev != device and not partial:
                found.subs.append((name, _directory_head(name, st, xattrs), key, b"", LEFT_EMPTY))
                continue
            sub = old_subs.get(name)
            if sub is not None:
                matched += 1
                head = sub[1] if settled and sub[2] == key else _directory_head(name, st, xattrs)
                same_heads += head == sub[1]
                found.subs.append((name, head, key, sub[3], sub[4]))
            else:
                found.subs.append((name, _directory_head(name, st, xattrs), key, b"", NO_REF))
            continue
        entry = old.get(name)
        regular = stat.S_ISREG(mode)
        if regular and rules.larger_than and st.st_size > rules.larger_than:
            continue
        unchanged = False
        if entry is not None:
            matched += 1
            unchanged = settled and entry[2] == key and not (regular and (reread or _refers(entry, distrusted)))
        if regular and not unchanged and len(found.to_read) >= read_at_most:
            found.to_read.append((name, st, "", None))
            continue
        xattrs = read_xattrs(name, complain)
        if entry is not None and unchanged:
            kept.append(entry)
            if regular:
                found.unmodified += 1
                found.unmodified_bytes += st.st_size
            continue
        if regular:
            found.to_read.append((name, st, xattrs, entry))
            continue
        ready = _other(name, st, xattrs, device_id(st.st_dev, os.path.join(path, name)), complain)
        if ready is not None:
            found.entries.append((name, ready, key, b""))
    found.gone = 0 if partial else len(old) + len(old_subs) - matched
    found.content = b"".join([entry[3] for entry in kept])
    if (
        record is not None
        and len(kept) == len(old)
        and not found.entries
        and not found.to_read
        and (same_heads == len(old_subs) == len(found.subs))
    ):
        found.same = True
    else:
        found.entries += kept
    return found


def _refers(entry: Entry, blobs: AbstractSet[bytes]) -> bool:
    return bool(blobs) and any(entry[3][at : at + 32] in blobs for at in range(0, len(entry[3]), 32))


def _directory_head(name: bytes, st: os.stat_result, xattrs: str) -> bytes:
    return dir_head(node_head(name, st, size=0, device_id=0, xattrs=xattrs))


def _other(
    name: bytes, st: os.stat_result, xattrs: str, device_id: int, complain: Callable[[str], None]
) -> bytes | None:
    target = ""
    if stat.S_ISLNK(st.st_mode):
        try:
            target = link_target(os.readlink(name))
        except OSError as error:
            complain(f"the link can't be read: {error.strerror}")
            return None
    identity = device_id if st.st_nlink > 1 else 0
    return other_node(node_head(name, st, size=0, device_id=identity, xattrs=xattrs, linktarget=target))
