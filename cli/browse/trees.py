"""Trees of a repository, read when they are asked for, a few at once, and kept for a while.

Invariant: a tree that is missing or damaged is told once, and is an empty answer: it never ends a listing. Only what
concerns the whole site (StorageError) is raised.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable

from cli.browse.names import absolute, shown
from shared.repository.errors import Damaged
from shared.repository.pack import BlobType
from shared.repository.tree import Node, decode_tree
from workers.restore.content import Lookup
from workers.restore.reading import Reader, Span

AHEAD = 128  # trees read at once at most
_KEPT_BYTES = 48 << 20  # of trees read ahead or again, undecoded


class Trees:
    """The trees of one repository. For one thread."""

    def __init__(self, index: Lookup, reader: Reader, problem: Callable[[str], None]) -> None:
        """`problem` gets each thing that is wrong, as a line for people, once."""
        self._index = index
        self._reader = reader
        self._problem = problem
        self._kept: OrderedDict[bytes, bytes | str] = OrderedDict()  # a tree's bytes, or what is wrong with it
        self._size = 0
        self._told: set[bytes] = set()
        self.read = 0  # trees read from the store

    def nodes(self, tree: bytes, path: bytes) -> list[Node] | None:
        """The nodes of the directory at `path` (relative); None where its tree can't be read, which is told."""
        if tree not in self._kept:
            self.ahead([tree])
        raw = self._kept[tree]
        self._kept.move_to_end(tree)
        if isinstance(raw, bytes):
            problems: list[str] = []
            try:
                nodes = decode_tree(raw, problems)
            except Damaged as error:
                problems.append(str(error.args[0]))
                nodes = None
        else:
            nodes, problems = None, [raw]
        if problems and tree not in self._told:
            self._told.add(tree)
            for problem in problems:
                self._problem(f"{shown(absolute(path))}: {problem}")
        return nodes

    def has(self, tree: bytes) -> bool:
        """Whether it is here already."""
        return tree in self._kept

    def ahead(self, trees: Iterable[bytes]) -> None:
        """Read the first of these that are not here yet, near ones in one request. Raises StorageError."""
        wanted = [tree for tree in dict.fromkeys(trees) if tree not in self._kept][:AHEAD]
        if not wanted:
            return
        packs: defaultdict[bytes, list[Span]] = defaultdict(list)
        for tree, place in zip(wanted, self._index.lookup(BlobType.TREE, wanted), strict=True):
            if place is None:
                self._keep(tree, f"its tree {tree.hex()[:16]} is in no index")
            else:
                packs[place.pack].append(Span(place.offset, place.length, place.uncompressed, tree))
        for pack, spans in packs.items():
            for span, content in self._reader.trees(pack, spans):
                self._keep(span.id, str(content.args[0]) if isinstance(content, Damaged) else content)
        # The first of them is what was asked for, so it goes last.
        self._kept.move_to_end(wanted[0])
        while self._size > _KEPT_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._size -= len(old)

    def _keep(self, tree: bytes, content: bytes | str) -> None:
        self._kept[tree] = content
        self._size += len(content)
        self.read += 1
