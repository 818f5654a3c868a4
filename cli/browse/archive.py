"""A subtree as a tar archive in PAX format, written as it is read.

Extended attributes (ACLs with them) stand in `SCHILY.xattr.<name>` records, as GNU tar (`--xattrs-include='*'`) and
bsdtar read them; times have nanoseconds. Of several names of one inode the first carries the content, the others are
hard links to it. Sockets have no place in an archive.

Invariant: a member's header is written only when its content is known to be there, of the stated size, and, up to
WINDOW_BYTES, has been verified. A larger file that turns out damaged ends the archive short, which no reader of tar
takes for a whole one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cli.browse.names import absolute, shown
from cli.browse.pax import BLOCK, KINDS, RECORD, header
from shared.repository.errors import Damaged
from shared.repository.tree import Node
from workers.restore.content import WINDOW_BYTES, Contents

Write = Callable[[bytes], object]

_BATCH = 2048  # nodes that are looked at together, at most


@dataclass(slots=True)
class Written:
    """What an archive holds."""

    members: int = 0
    files: int = 0
    bytes: int = 0  # of content
    sockets: int = 0  # left out


class Archive:
    """Writes one archive."""

    def __init__(self, contents: Contents, write: Write, problem: Callable[[str], None]) -> None:
        """`problem` gets each file that is left out, as a line for people."""
        self._contents = contents
        self._out = write
        self._problem = problem
        self._size = 0
        self._ready: dict[bytes, bytes | Damaged] = {}  # content of small files that come next
        self._links: dict[bytes, tuple[bytes, int]] = {}  # inode -> its first name, and how many are still to come
        self.written = Written()

    def add_all(self, found: Iterable[tuple[bytes, Node]], base: bytes) -> None:
        """Write these nodes (path, relative; node) below their names without `base`, and the end of the archive.

        Raises Damaged where a large file turns out damaged, StorageError, BrokenPipeError.
        """
        skip = len(base) + 1 if base else 0
        for batch in _batches(found):
            self._ready = self._contents.gather([node for _, node in batch if _is_small(node)])
            for path, node in batch:
                self._add(path, path[skip:], node)
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._size % RECORD))

    def _add(self, path: bytes, name: bytes, node: Node) -> None:
        if node.type == "socket":
            self.written.sockets += 1
            return
        if node.type not in KINDS:
            self._problem(f"{shown(absolute(path))}: its type {shown(node.type.encode())} is not known")
            return
        first = self._first_name(node)
        try:
            start = header(name, node, link=first)
            chunks = self._content(node) if node.type == "file" and first is None else None
        except (Damaged, ValueError, OverflowError) as error:
            self._problem(f"{shown(absolute(path))}: left out: {error.args[0]}")
            return
        self._write(start)
        self.written.members += 1
        if first is None:
            self._remember(name, node)
        if chunks is not None:
            self.written.files += 1
            for chunk in self._whole(path, chunks):
                self._write(chunk)
                self.written.bytes += len(chunk)
            self._write(bytes(-node.size % BLOCK))

    def _content(self, node: Node) -> Iterator[bytes]:
        """A file's content, read already where it is small. Raises Damaged."""
        wanted = node.content or []
        if all(blob in self._ready for blob in wanted):
            found = [self._ready[blob] for blob in wanted]
            whole = [chunk for chunk in found if not isinstance(chunk, Damaged)]
            if len(whole) < len(found):
                raise next(chunk for chunk in found if isinstance(chunk, Damaged))
            size, chunks = sum(map(len, whole)), iter(whole)
        else:
            size, chunks = self._contents.size(node), self._contents.chunks(node)
            if _is_small(node) and size == node.size:
                chunks = iter(list(chunks))
        if size != node.size:
            raise Damaged(f"its node says {node.size} bytes, its content has {size}")
        return chunks

    def _whole(self, path: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except Damaged as error:
            raise Damaged(
                f"{shown(absolute(path))}: {error.args[0]}; the archive ends within this file",
                hint="`holdfast restore` brings back all that is whole; `--site` reads another copy",
            ) from error

    def _first_name(self, node: Node) -> bytes | None:
        if node.links < 2 or not node.inode or node.type == "dir":
            return None
        key = _inode(node)
        known = self._links.get(key)
        if known is None:
            return None
        if known[1] > 1:
            self._links[key] = known[0], known[1] - 1
        else:  # the last of its names: nothing need be remembered
            del self._links[key]
        return known[0]

    def _remember(self, name: bytes, node: Node) -> None:
        if node.links > 1 and node.inode and node.type != "dir":
            self._links[_inode(node)] = name, node.links - 1

    def _write(self, data: bytes) -> None:
        if data:
            self._out(data)
            self._size += len(data)


def _is_small(node: Node) -> bool:
    return node.type == "file" and node.size <= WINDOW_BYTES


def _batches(found: Iterable[tuple[bytes, Node]]) -> Iterator[list[tuple[bytes, Node]]]:
    """Nodes whose small files are read together: WINDOW_BYTES of them at most."""
    batch: list[tuple[bytes, Node]] = []
    size = 0
    for path, node in found:
        more = node.size if _is_small(node) else 0
        if batch and (size + more > WINDOW_BYTES or len(batch) >= _BATCH):
            yield batch
            batch, size = [], 0
        batch.append((path, node))
        size += more
    if batch:
        yield batch


def _inode(node: Node) -> bytes:
    """What all names of one inode have in common. The content is part of it: inode numbers alone may lie."""
    what = (node.inode, node.device_id, node.type, node.mode, node.mtime, node.size, node.linktarget, node.device)
    return hashlib.sha256(repr(what).encode() + b"".join(node.content or ())).digest()
