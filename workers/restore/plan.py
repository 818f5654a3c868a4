"""The coordinator's plan: what is to be written, by place in the packs, in records that it does not look into.

It holds about 150 bytes for each file, as long strings; beyond a bound they go to an unnamed file.
"""

from __future__ import annotations

import marshal
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

from workers.crew import Task
from workers.restore.metadata import Meta
from workers.restore.walk import SAME, Single, Window
from workers.restore.writing import Identity

_IN_MEMORY = 64 << 20  # bytes of records
_BATCH = 128  # items of small work in one task

Ref: TypeAlias = bytes | tuple[int, int]


class Spool:
    """Keeps records: in memory at first, then in a temporary file without a name."""

    def __init__(self, directory: str) -> None:
        self._directory = directory if os.path.isdir(directory) else None
        self._held = 0
        self._file: IO[bytes] | None = None
        self._end = 0

    def add(self, raw: bytes) -> Ref:
        """Keep it; what `get` takes."""
        if self._file is None:
            self._held += len(raw)
            if self._held <= _IN_MEMORY:
                return raw
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 -- it lives as long as the plan
        self._file.seek(self._end)
        self._file.write(raw)
        at, self._end = self._end, self._end + len(raw)
        return at, len(raw)

    def get(self, ref: Ref) -> bytes:
        """What was kept."""
        if isinstance(ref, bytes):
            return ref
        assert self._file is not None  # noqa: S101 -- it gave out the reference
        self._file.seek(ref[0])
        return self._file.read(ref[1])

    def close(self) -> None:
        """Give up the file."""
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class PieceFile:
    """A file of several blobs. `left`: pieces to be written yet."""

    path: bytes
    name: bytes
    meta: Meta
    size: int
    same: bool
    left: int
    identity: Identity | None = None
    lost: bool = False


@dataclass(slots=True)
class Totals:
    """What is planned: nodes, bytes of content, nodes that are there already, that are left, bytes of disk."""

    files: int = 0
    bytes: int = 0
    same: int = 0
    left: int = 0
    space: int = 0


class Plan:
    """Filled by the walk, then given out as tasks."""

    def __init__(self, spool_dir: str) -> None:
        self.spool = Spool(spool_dir)
        self.totals = Totals()
        self.pieces: list[PieceFile] = []
        self.links: list[tuple[bytes, bytes, bytes, bytes]] = []  # first directory and name, then this one's
        self._firsts: dict[bytes, tuple[bytes, bytes]] = {}
        self._singles: dict[Window, list[Ref]] = {}
        self._parts: dict[Window, list[tuple[int, Any]]] = {}
        self._made: list[bytes] = []
        self._directories: dict[int, list[bytes]] = {}

    def add(self, batch: Any) -> None:
        """Take up what a helper planned (the fields of `Batch.pack` from `directories` to `links`, and its counts)."""
        directories, singles, pieces, made, links, counts = batch
        for depth, raw in directories:
            self._directories.setdefault(depth, []).append(raw)
        for window, raw in singles:
            self._singles.setdefault(window, []).append(self.spool.add(raw))
        for piece in pieces:
            self._add_pieces(piece)
        if made:
            self._made.append(made)
        totals = self.totals
        totals.files += counts[0]
        totals.bytes += counts[1]
        totals.same += counts[2]
        totals.left += counts[3]
        totals.space += counts[4]
        for link in links:
            self._add_link(*link)

    def _add_pieces(self, piece: Any) -> None:
        path, name, meta, size, same, windows = piece
        number = len(self.pieces)
        self.pieces.append(PieceFile(path, name, meta, size, same, sum(len(parts) for _, parts in windows)))
        for window, parts in windows:
            self._parts.setdefault(window, []).append((number, parts))

    def _add_link(self, key: bytes, status: int, what: str, path: bytes, record: Any) -> None:
        """The first name of an inode is made like any file, the others are linked to it."""
        name: bytes = record[1][0] if what == "single" else record[1] if what == "pieces" else record[0]
        first = self._firsts.get(key)
        if first is not None:
            self.links.append((*first, path, name))
            if status != SAME:
                size = record[1][2] if what == "single" else record[3] if what == "pieces" else 0
                self.totals.bytes -= size
                self.totals.space -= size
            return
        self._firsts[key] = (path, name)
        if what == "single":
            window: Window = record[0]
            single: Single = record[1]
            self._singles.setdefault(window, []).append(self.spool.add(marshal.dumps([(path, [single])])))
        elif what == "pieces":
            self._add_pieces(record)
        elif status != SAME:
            specials = [(path, [record])] if what == "special" else []
            empty = [(path, [record])] if what == "empty" else []
            self._made.append(marshal.dumps((specials, empty)))

    def making(self) -> Iterator[Task]:
        """Tasks that need no pack: small nodes, and the files that pieces go into."""
        for raw in self._made:
            yield "make", raw
        self._made.clear()
        batch: list[tuple[int, bytes, bytes, int]] = []
        for number, file in enumerate(self.pieces):
            if not file.same:
                batch.append((number, file.path, file.name, file.size))
                if len(batch) == _BATCH:
                    yield "create", batch
                    batch = []
        if batch:
            yield "create", batch

    def filling(self, helpers: int, *, keep: bool) -> Iterator[Task]:
        """A task for each pack, and for each window of the last packs, so that all helpers end together.

        `keep`: the records are needed again, for `checking`.
        """
        packs: dict[bytes, list[Window]] = {}
        for window in (*self._singles, *self._parts):
            packs.setdefault(window[0], []).append(window)
        queue = deque((pack, sorted(set(windows))) for pack, windows in packs.items())
        left = sum(len(windows) for _, windows in queue)
        while queue:
            pack, windows = queue.popleft()
            whole = left > 8 * helpers
            left -= len(windows)
            for group in [windows] if whole else [[window] for window in windows]:
                task = self._fill(pack, group, keep=keep)
                if task is not None:
                    yield task

    def _fill(self, pack: bytes, windows: list[Window], *, keep: bool) -> Task | None:
        chunks: list[bytes] = []
        pieces = []
        for window in windows:
            chunks += [self.spool.get(ref) for ref in self._singles.get(window, ())]
            if not keep:
                self._singles.pop(window, None)
            for number, parts in self._parts.get(window, ()):
                file = self.pieces[number]
                if file.identity is not None and not file.lost:
                    pieces.append((number, file.path, file.name, file.identity, parts))
        return ("fill", pack, chunks, pieces) if chunks or pieces else None

    def linking(self) -> Iterator[Task]:
        """Tasks that make hard links, after their first names are there."""
        for at in range(0, len(self.links), _BATCH):
            yield "link", self.links[at : at + _BATCH]

    def discarding(self) -> Iterator[Task]:
        """Tasks that remove files which lost a piece."""
        lost = [(f.path, f.name, f.identity) for f in self.pieces if f.identity is not None and (f.lost or f.left)]
        for at in range(0, len(lost), _BATCH):
            yield "discard", lost[at : at + _BATCH]

    def completing(self) -> Iterator[list[Task]]:
        """Tasks that complete the directories, one depth after the other, the deepest first."""
        for depth in sorted(self._directories, reverse=True):
            chunks = self._directories.pop(depth)
            yield [("directories", chunks[at : at + 4]) for at in range(0, len(chunks), 4)]

    def checking(self) -> Iterator[Task]:
        """Tasks that read what was restored, again."""
        for refs in self._singles.values():
            yield "check", [self.spool.get(ref) for ref in refs], []
        parts: dict[int, list[tuple[int, int, bytes]]] = {}
        for listed in self._parts.values():
            for number, spans in listed:
                parts.setdefault(number, []).extend(
                    (at, uncompressed or length - 32, blob) for at, _, length, uncompressed, blob in spans
                )
        for number, spans in parts.items():
            file = self.pieces[number]
            if file.same or (file.identity is not None and not file.lost):
                yield "check", [], [(file.path, file.name, file.size, sorted(spans))]
