"""A helper's part of the planning: from trees to what is to be written, grouped by place in the packs.

Nothing is written here. What one batch of directories gives is passed on as marshalled records, which the
coordinator stores without looking into them, so that it holds some hundred bytes for each file.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from shared.repository.errors import Damaged
from shared.repository.indexcache import Location
from shared.repository.pack import BlobType
from shared.repository.tree import Node, decode_tree, permissions
from workers.access import WholeFirst
from workers.restore.metadata import Meta
from workers.restore.places import Places, blocked, join, kind_of, shown
from workers.restore.reading import Reader, Span
from workers.restore.selection import DROPPED, PASSING, WANTED, WHOLE, Selection

WINDOW_BITS = 22  # a task takes at least what lies in 4 MiB of a pack
HOLE_RATIO = 1000  # what zstd packs this well is zeros, and takes no space

_KINDS = {
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "dev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
}

# path, tree id, state (see selection), whether the directory is in the target already
Directory: TypeAlias = tuple[bytes, bytes, int, bool]
# name, metadata, size, whether it is only to be verified, and its blob's offset, length, uncompressed, id
Single: TypeAlias = tuple[bytes, Meta, int, bool, int, int, int, bytes]
# a window of a pack: (pack id, offset >> WINDOW_BITS)
Window: TypeAlias = tuple[bytes, int]

NEW, REPLACE, SAME, LEAVE = range(4)  # what is to be done with a node that may be in the target already


@dataclass(slots=True)
class Batch:
    """What some directories hold. Everything in it can be marshalled."""

    below: list[Directory] = field(default_factory=list)
    directories: dict[int, list[Any]] = field(default_factory=dict)  # by depth: (path, metadata, create)
    singles: dict[Window, list[Any]] = field(default_factory=dict)  # [(path, [Single, ...]), ...]
    pieces: list[Any] = field(
        default_factory=list
    )  # path, name, meta, size, check, {window: [(offset in file, *span)]}
    specials: list[Any] = field(default_factory=list)  # (path, [Special, ...])
    empty: list[Any] = field(default_factory=list)  # (path, [(name, meta), ...])
    links: list[Any] = field(default_factory=list)  # key, status, what (index into LINKED), path, record
    problems: list[tuple[bytes, str]] = field(default_factory=list)
    damaged: set[bytes] = field(default_factory=set)
    met: set[bytes] = field(default_factory=set)
    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0])  # files, bytes, same, left, space

    def pack(self) -> tuple[Any, ...]:
        """For the pipe: the bulk already marshalled, so that the coordinator need not unmarshal it."""
        return (
            self.below,
            [(depth, marshal.dumps(listed)) for depth, listed in self.directories.items()],
            [(window, marshal.dumps(groups)) for window, groups in self.singles.items()],
            self.pieces,
            marshal.dumps((self.specials, self.empty)) if self.specials or self.empty else b"",
            self.links,
            self.problems,
            list(self.damaged),
            list(self.met),
            self.counts,
        )


class Walker:
    """Plans batches of directories. For one process."""

    def __init__(
        self, index: WholeFirst, reader: Reader, selection: Selection, places: Places | None, policy: str
    ) -> None:
        """`places`: the target where it exists and holds something; None for one that is empty or is not there yet.

        `policy`: always, if-changed, if-newer or never.
        """
        self._index = index
        self._reader = reader
        self._selection = selection
        self._places = places
        self._policy = policy

    def walk(self, directories: list[Directory]) -> Batch:
        """What these directories hold. Raises StorageError."""
        batch = Batch()
        trees = self._load(directories, batch)
        planned: list[tuple[bytes, Node, int, int]] = []  # directory, node, state, status
        for directory, raw in zip(directories, trees, strict=True):
            if raw is None:
                continue
            path, _, parent_state, present = directory
            problems: list[str] = []
            try:
                nodes = decode_tree(raw, problems)
            except Damaged as error:
                batch.problems.append((path, error.args[0]))
                continue
            batch.problems += [(path, problem) for problem in problems]
            dir_fd = self._target_directory(path, batch) if present else None
            if present and dir_fd is None:
                continue
            for node in nodes:
                state = parent_state if parent_state == WHOLE else self._state(path, node, parent_state)
                if state == DROPPED:
                    continue
                try:
                    if node.type == "dir":
                        self._directory(path, node, state, dir_fd, batch)
                    else:
                        self._other(path, node, dir_fd, batch, planned)
                except (TypeError, ValueError, OverflowError, AttributeError) as error:
                    batch.problems.append((join(path, node.name), f"its node holds a value that can't be: {error}"))
        self._place(planned, batch)
        batch.met = self._selection.met
        return batch

    def _load(self, directories: list[Directory], batch: Batch) -> list[bytes | None]:
        ids = [directory[1] for directory in directories]
        found: dict[bytes, bytes] = {}
        packs: defaultdict[bytes, dict[bytes, Span]] = defaultdict(dict)
        for tree, location in zip(ids, self._index.lookup(BlobType.TREE, ids), strict=True):
            if location is not None:
                packs[location.pack][tree] = Span(location.offset, location.length, location.uncompressed, tree)
        reasons: dict[bytes, str] = {}
        for pack, spans in packs.items():
            for span, content in self._reader.trees(pack, list(spans.values())):
                if isinstance(content, Damaged):
                    batch.damaged.add(pack)
                    reasons[span.id] = content.args[0]
                else:
                    found[span.id] = content
        for path, tree, _, _ in directories:
            if tree not in found:
                reason = reasons.get(tree, f"its tree {tree.hex()[:16]} is in no index")
                batch.problems.append((path, f"nothing in this directory can be restored: {reason}"))
        return [found.get(tree) for tree in ids]

    def _target_directory(self, path: bytes, batch: Batch) -> int | None:
        assert self._places is not None  # noqa: S101 -- only then is a directory present
        try:
            return self._places.get(path, create=False)
        except OSError as error:
            batch.problems.append((path, error.strerror or str(error)))
            return None

    def _state(self, path: bytes, node: Node, parent: int) -> int:
        return self._selection.state(join(path, node.name), is_dir=node.type == "dir", parent=parent)

    def _directory(self, path: bytes, node: Node, state: int, dir_fd: int | None, batch: Batch) -> None:
        here = join(path, node.name)
        assert node.subtree is not None  # noqa: S101 -- decode_tree sees to that
        present = False
        if dir_fd is not None:
            try:
                mode = os.stat(node.name, dir_fd=dir_fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                pass
            else:
                if not stat.S_ISDIR(mode):
                    batch.problems.append((here, blocked(kind_of(mode), here)))
                    return
                present = True
        batch.below.append((here, node.subtree, state, present))
        # A directory that is only passed through, or is not to be touched, keeps what it has.
        if not present or (state != PASSING and self._policy != "never"):
            listed = batch.directories.setdefault(here.count(b"/"), [])
            listed.append((here, _meta(node), state != PASSING))

    def _other(
        self,
        path: bytes,
        node: Node,
        dir_fd: int | None,
        batch: Batch,
        planned: list[tuple[bytes, Node, int, int]],
    ) -> None:
        if node.type != "file" and node.type not in _KINDS:
            batch.problems.append((join(path, node.name), f"its type {shown(node.type.encode())!r} is not known"))
            return
        status, freed = NEW, 0
        if dir_fd is not None:
            status, freed = self._compare(node, dir_fd)
        if status == LEAVE:
            batch.counts[3] += 1
            return
        if status == SAME:
            batch.counts[2] += 1
        else:
            batch.counts[0] += 1
            batch.counts[4] -= freed
        planned.append((path, node, status, 0))

    def _compare(self, node: Node, dir_fd: int) -> tuple[int, int]:
        """What is to be done, and how many bytes of disk it frees."""
        try:
            found = os.stat(node.name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return NEW, 0
        if self._policy == "never":
            return LEAVE, 0
        if self._policy == "if-newer":
            return (REPLACE, found.st_blocks * 512) if node.mtime > found.st_mtime_ns else (LEAVE, 0)
        if self._policy == "if-changed" and _same(node, found, dir_fd):
            return SAME, 0
        return REPLACE, found.st_blocks * 512

    def _place(self, planned: list[tuple[bytes, Node, int, int]], batch: Batch) -> None:
        """Look up every blob of the batch at once, and group what is to be written by where it lies."""
        wanted = [blob for _, node, _, _ in planned if node.type == "file" for blob in node.content or ()]
        places = dict(zip(wanted, self._index.lookup(BlobType.DATA, wanted), strict=True)) if wanted else {}
        singles: dict[Window, dict[bytes, list[Single]]] = {}
        specials: dict[bytes, list[Any]] = {}
        empty: dict[bytes, list[Any]] = {}
        for path, node, status, _ in planned:
            try:
                meta = _meta(node)
                record: Any
                if node.type != "file":
                    what = "special"
                    record = (node.name, _KINDS[node.type], meta, node.linktarget, node.device)
                elif not node.content:
                    what, record = "empty", (node.name, meta)
                    if node.size:
                        batch.problems.append((join(path, node.name), f"its node says {node.size} bytes, it has none"))
                elif len(node.content) == 1 and (location := places[node.content[0]]) is not None:
                    what, record = "single", self._single(path, node, meta, status, location, batch)
                else:
                    what, record = "pieces", self._pieces(path, node, meta, status, places, batch)
                    if record is None:
                        continue
                if node.links > 1 and node.inode:
                    batch.links.append((_link_key(node), status, what, path, record))
                elif what == "single":
                    key, single = record
                    singles.setdefault(key, {}).setdefault(path, []).append(single)
                elif what == "pieces":
                    batch.pieces.append(record)
                elif status != SAME:
                    (specials if what == "special" else empty).setdefault(path, []).append(record)
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                batch.problems.append((join(path, node.name), f"its node holds a value that can't be: {error}"))
        batch.singles = {window: list(groups.items()) for window, groups in singles.items()}
        batch.specials = list(specials.items())
        batch.empty = list(empty.items())

    def _single(
        self, path: bytes, node: Node, meta: Meta, status: int, location: Location, batch: Batch
    ) -> tuple[Window, Single]:
        assert node.content is not None  # noqa: S101 -- the caller has looked
        pack, offset, length, uncompressed = location
        size = uncompressed or length - 32
        if size != node.size:
            batch.problems.append((join(path, node.name), f"its node says {node.size} bytes, its content has {size}"))
        if status != SAME:
            batch.counts[1] += size
            batch.counts[4] += disk_space(size, length)
        single = (node.name, meta, size, status == SAME, offset, length, uncompressed, node.content[0])
        return (pack, offset >> WINDOW_BITS), single

    def _pieces(
        self,
        path: bytes,
        node: Node,
        meta: Meta,
        status: int,
        places: dict[bytes, Location | None],
        batch: Batch,
    ) -> tuple[Any, ...] | None:
        assert node.content is not None  # noqa: S101 -- the caller has looked
        windows: dict[Window, list[tuple[int, int, int, int, bytes]]] = {}
        at = space = 0
        for blob in node.content:
            location = places[blob]
            if location is None:
                batch.problems.append((join(path, node.name), f"its blob {blob.hex()[:16]} is in no index"))
                batch.counts[0 if status != SAME else 2] -= 1
                return None
            pack, offset, length, uncompressed = location
            size = uncompressed or length - 32
            windows.setdefault((pack, offset >> WINDOW_BITS), []).append((at, offset, length, uncompressed, blob))
            at += size
            space += disk_space(size, length)
        if at != node.size:
            batch.problems.append((join(path, node.name), f"its node says {node.size} bytes, its content has {at}"))
        if status != SAME:
            batch.counts[1] += at
            batch.counts[4] += space
        return path, node.name, meta, at, status == SAME, list(windows.items())


def disk_space(size: int, length: int) -> int:
    """What `size` bytes of content, of which `length` are stored, take on a disk that keeps holes."""
    return size if size < HOLE_RATIO * length else 0


def _meta(node: Node) -> Meta:
    _ = node.uid | node.gid | node.mtime | node.atime | node.device  # a TypeError for what is no integer
    return permissions(node.mode), node.uid, node.gid, node.mtime, node.atime, node.xattrs


def _link_key(node: Node) -> bytes:
    """What two names of one inode have in common. The content is part of it: inode numbers alone may lie."""
    what = (
        node.inode,
        node.device_id,
        node.type,
        node.mode,
        node.mtime,
        node.size,
        node.linktarget,
        node.device,
        node.content,
    )
    return hashlib.sha256(marshal.dumps(what, 2)).digest()  # 2: no references, equal values give equal bytes


def _same(node: Node, found: os.stat_result, dir_fd: int) -> bool:
    """Whether what is there has the node's type, size and time, and so is taken as finished."""
    if node.type != "file":
        if stat.S_IFMT(found.st_mode) != _KINDS[node.type]:
            return False
        if node.type == "symlink" and os.readlink(node.name, dir_fd=dir_fd) != node.linktarget:
            return False
        if node.type in ("dev", "chardev") and found.st_rdev != node.device:
            return False
    elif not stat.S_ISREG(found.st_mode) or found.st_size != node.size:
        return False
    if found.st_mtime_ns == node.mtime:
        return True
    # A file system that keeps whole seconds.
    return found.st_mtime_ns % 10**9 == 0 and found.st_mtime_ns == node.mtime - node.mtime % 10**9


__all__ = ["LEAVE", "NEW", "REPLACE", "SAME", "WANTED", "Batch", "Directory", "Single", "Walker", "Window"]
