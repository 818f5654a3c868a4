"""How trees hang together: who suffers from a bad one, and which hard links meet in one snapshot.

Trees are numbers here, so that a million of them takes some 200 MB and not a GB.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator

from shared.repository.tree import Node
from workers.maintenance.treecheck import Link
from workers.restore.places import join

Load = Callable[[bytes], list[Node]]


class TreeGraph:
    """The distinct trees of all snapshots."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._children: dict[int, array[int]] = {}
        self._links: dict[int, list[Link]] = {}
        self._linked: frozenset[int] | None = None  # trees with hard links, and all above them

    def __len__(self) -> int:
        """How many trees were met."""
        return len(self._numbers)

    def meet(self, tree: bytes) -> bool:
        """Note a tree; True where it is met for the first time."""
        if tree in self._numbers:
            return False
        self._numbers[tree] = len(self._numbers)
        return True

    def add(self, tree: bytes, children: Iterable[bytes], links: list[Link]) -> None:
        """Note what hangs below a tree (all of it met before) and its hard links."""
        number = self._numbers[tree]
        below = array("I", (self._numbers[child] for child in children))
        if below:
            self._children[number] = below
        if links:
            self._links[number] = links

    def clashes(self, root: bytes) -> list[tuple[Link, Link]]:
        """Pairs of names in one snapshot that share an inode by their numbers, but not their content."""
        if not self._links:
            return []
        if self._linked is None:
            self._linked = self._with_parents(self._links)
        seen: dict[tuple[int, int], Link] = {}
        found = []
        for number in self._reachable(self._numbers[root]):
            for link in self._links.get(number, ()):
                first = seen.setdefault(link[:2], link)
                if first[2] != link[2]:
                    found.append((first, link))
        return found

    def _reachable(self, root: int) -> Iterator[int]:
        assert self._linked is not None  # noqa: S101 -- `clashes` has made it
        seen = {root} & self._linked
        stack = list(seen)
        while stack:
            number = stack.pop()
            yield number
            for child in self._children.get(number, ()):
                if child not in seen and child in self._linked:
                    seen.add(child)
                    stack.append(child)

    def above(self, trees: Iterable[bytes]) -> frozenset[int]:
        """The numbers of these trees and of every tree above them."""
        return self._with_parents(self._numbers[tree] for tree in trees)

    def _with_parents(self, numbers: Iterable[int]) -> frozenset[int]:
        parents: dict[int, list[int]] = {}
        for number, children in self._children.items():
            for child in children:
                parents.setdefault(child, []).append(number)
        stack = list(numbers)
        found = set(stack)
        while stack:
            for parent in parents.get(stack.pop(), ()):
                if parent not in found:
                    found.add(parent)
                    stack.append(parent)
        return frozenset(found)

    def paths(
        self, root: bytes, targets: frozenset[bytes], above: frozenset[int], load: Load
    ) -> Iterator[tuple[bytes, bytes]]:
        """Each (tree of `targets`, a path at which it hangs below `root`). Reads only trees that lead there."""
        stack = [(b"", root)]
        while stack:
            path, tree = stack.pop()
            if self._numbers.get(tree) not in above:
                continue
            if tree in targets:
                yield tree, path
            if self._numbers[tree] in self._children:
                below = [node for node in load(tree) if node.subtree is not None]
                stack += [(join(path, node.name), node.subtree) for node in below if node.subtree]
