"""The content of files, in order, in bounded memory.

Invariant: what is given has been authenticated, unpacked and hashed. A file of which a blob is in no index is refused
before its first byte is given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

from shared.repository.errors import Damaged
from shared.repository.indexcache import Location
from shared.repository.pack import BlobType
from shared.repository.tree import Node
from workers.restore.reading import Reader, Span

WINDOW_BYTES = 8 << 20  # of a file are read at once, but for a blob that is larger
_WINDOW_BLOBS = 4096
_BATCH = 20_000  # blobs looked up at once where only their sizes count


class Lookup(Protocol):
    """Where blobs lie: the index, with whole packs before damaged ones (`workers.access.WholeFirst`)."""

    def lookup(self, blob_type: BlobType, ids: Sequence[bytes]) -> list[Location | None]:
        """As IndexCache.lookup."""


class Contents:
    """The files of one repository. For one thread."""

    def __init__(self, index: Lookup, reader: Reader) -> None:
        self._index = index
        self._reader = reader

    def gather(self, nodes: Sequence[Node]) -> dict[bytes, bytes | Damaged]:
        """The blobs of some files by id, near ones read at once; those of files that are too much together are not.

        What is in no index is not in the answer. Raises StorageError.
        """
        blobs = list(dict.fromkeys(blob for node in nodes for blob in node.content or ()))
        packs: defaultdict[bytes, list[Span]] = defaultdict(list)
        size = 0
        for blob, place in zip(blobs, self._index.lookup(BlobType.DATA, blobs), strict=True):
            if place is not None:
                packs[place.pack].append(Span(place.offset, place.length, place.uncompressed, blob))
                size += place.uncompressed or place.length - 32
        if size > 2 * WINDOW_BYTES:  # their nodes lie about their sizes
            return {}
        return {
            span.id: content if isinstance(content, Damaged) else bytes(content)
            for pack, spans in packs.items()
            for span, content in self._reader.blobs(pack, spans, BlobType.DATA)
        }

    def size(self, node: Node) -> int:
        """The bytes that a file's blobs hold together. Raises Damaged where one is in no index."""
        total = 0
        content = node.content or []
        for at in range(0, len(content), _BATCH):
            for _, place in self._places(content[at : at + _BATCH]):
                total += place.uncompressed or place.length - 32
        return total

    def chunks(self, node: Node) -> Iterator[bytes]:
        """A file's content, piece by piece. Raises Damaged, StorageError."""
        for window in self._windows(node.content or []):
            packs: defaultdict[bytes, dict[bytes, Span]] = defaultdict(dict)
            for blob, place in window:
                packs[place.pack][blob] = Span(place.offset, place.length, place.uncompressed, blob)
            found: dict[bytes, bytes] = {}
            for pack, spans in packs.items():
                for span, content in self._reader.blobs(pack, list(spans.values()), BlobType.DATA):
                    if isinstance(content, Damaged):
                        raise content
                    found[span.id] = bytes(content)
            for blob, _ in window:
                yield found[blob]

    def _windows(self, content: list[bytes]) -> Iterator[list[tuple[bytes, Location]]]:
        window: list[tuple[bytes, Location]] = []
        seen: set[bytes] = set()
        size = 0
        for at in range(0, len(content), _WINDOW_BLOBS):
            for blob, place in self._places(content[at : at + _WINDOW_BLOBS]):
                more = 0 if blob in seen else place.uncompressed or place.length - 32
                if window and (size + more > WINDOW_BYTES or len(window) >= _WINDOW_BLOBS):
                    yield window
                    window, seen, size = [], set(), 0
                    more = place.uncompressed or place.length - 32
                window.append((blob, place))
                seen.add(blob)
                size += more
        if window:
            yield window

    def _places(self, content: list[bytes]) -> Iterator[tuple[bytes, Location]]:
        for blob, place in zip(content, self._index.lookup(BlobType.DATA, content), strict=True):
            if place is None:
                raise Damaged(f"its blob {blob.hex()[:16]} is in no index")
            yield blob, place
