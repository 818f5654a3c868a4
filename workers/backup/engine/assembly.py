"""Trees from the bottom up: a directory's tree is made when all that lies in it is known.

Invariant: a tree is handed on (to be looked up, and stored where it is new) before its parent is made,
and the root is made last; so whoever has the root has asked for every tree below it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from shared.errors import HoldfastError
from shared.repository.tree import join_tree
from workers.backup.engine.nodes import dir_node
from workers.backup.engine.scan import LEFT_EMPTY
from workers.backup.engine.treecache import NO_REF, Entry, Ref, SubEntry, TreeReader, TreeWriter

Store = Callable[[bytes, bytes], None]  # (tree id, content): look it up, keep it where it is new
Place = tuple[bytes, Ref]  # a tree and where its record lies


class RecordLost(HoldfastError):
    """The local cache of trees lost a record while it was relied on: the scan starts again without it."""


class Directory:
    """A directory under way. `pending` counts scans, files and subdirectories that are not back yet."""

    __slots__ = ("base", "done", "entries", "failed", "parent", "path", "pending", "ref", "same", "subs")

    def __init__(self, path: bytes, parent: Directory | None, base: bytes, ref: Ref) -> None:
        self.path = path
        self.parent = parent
        self.base = base
        self.ref = ref
        self.pending = 1
        self.same = False
        self.failed = False
        self.entries: list[Entry] = []
        self.subs: list[SubEntry] = []
        self.done: dict[bytes, Place] = {}  # finished subdirectories by name


class Assembler:
    """Makes trees of finished directories and tells their parents."""

    def __init__(self, reader: TreeReader, writer: TreeWriter, store: Store, *, rewrite: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._store = store
        # Where all that the parent snapshot refers to is known to be stored and indexed, an unchanged
        # directory is its old tree, unseen.
        self.trust = False
        self._rewrite = rewrite
        self.root: Place | None = None
        self.directories = 0

    def finish(self, directory: Directory) -> list[Directory]:
        """Make the tree of a directory with nothing pending, and of parents that wait for it alone.

        Returns every directory that is finished with. Raises RecordLost.
        """
        finished = []
        current: Directory | None = directory
        while current is not None and current.pending == 0:
            finished.append(current)
            parent = current.parent
            place = None if current.failed else self._make(current)
            if parent is None:
                self.root = place
                return finished
            if place is not None:
                parent.done[current.path.rpartition(b"/")[2]] = place
            parent.pending -= 1
            current = parent
        return finished

    def _make(self, directory: Directory) -> Place:
        self.directories += 1
        subs: list[SubEntry] = []
        moved = False
        for name, head, key, base, ref in directory.subs:
            place = self._empty() if ref == LEFT_EMPTY else directory.done.get(name)
            if place is None:
                moved = True  # it could not be read: the problem is recorded
                continue
            moved = moved or place != (base, ref)
            subs.append((name, head, key, *place))
        if directory.same and not moved and self.trust and not self._rewrite:
            return directory.base, directory.ref
        entries = directory.entries
        if directory.same:
            record = self._reader.read(directory.ref, directory.base)
            if record is None:
                raise RecordLost(f"the cached tree of {directory.path!r} can't be read any more")
            entries = record.entries
        nodes = [(entry[0], entry[1]) for entry in entries]
        nodes += [(name, dir_node(head, tree)) for name, head, _, tree, _ in subs]
        nodes.sort()
        raw = join_tree([node for _, node in nodes])
        tree = hashlib.sha256(raw).digest()
        self._store(tree, raw)
        return tree, self._writer.write(tree, subs, entries)

    def _empty(self) -> Place:
        raw = join_tree([])
        tree = hashlib.sha256(raw).digest()
        self._store(tree, raw)
        return tree, NO_REF
