"""The parent's trees, kept locally in the form that a scan compares with: a derived cache, never needed.

A record per directory: its tree's id, its subdirectories (with where their records lie) and its other
entries, each with the numbers that an incremental trusts. Records are appended to segment files while a
run goes on; a head file, published by rename after the commit, names the segments and the root's record.
An unchanged directory's record is not written again, it is pointed at; so the segments form a chain that
is rewritten once it holds more than twice what is needed.

Invariant: a record carries a CRC and the id of the tree that it stands for, and a head names its snapshot;
whatever does not fit is a miss, and a miss reads the tree from the repository.
"""

from __future__ import annotations

import marshal
import os
import secrets
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import zstandard

_MAGIC = b"holdfast trees 1\n"
_LEVEL = -3  # zstd's: a third larger than level 1, at twice its speed
_CRC = 4  # bytes
_BUFFER = 1 << 20  # bytes collected before a write

Ref = tuple[int, int, int]  # segment number, offset, length in bytes
Key = tuple[int, int, int, int]  # inode, size in bytes, mtime and ctime in nanoseconds
NO_REF: Ref = (-1, 0, 0)


# Plain tuples, as marshal gives and takes them: a scan of unchanged files makes no other objects.
# A subdirectory: name, its node up to the id of its subtree, key, its tree, where its record lies.
SubEntry = tuple[bytes, bytes, Key, bytes, Ref]
# Anything else: name, its node's JSON, key, the ids of its blobs one behind the other.
Entry = tuple[bytes, bytes, Key, bytes]


class Record(NamedTuple):
    """What a directory held."""

    tree: bytes
    subs: list[SubEntry]
    entries: list[Entry]


@dataclass(slots=True)
class Head:
    """What is known of the snapshot that a cache stands for. `index_ids` (hex) listed all its blobs at its commit."""

    snapshot: str
    root: Ref
    index_ids: list[str]
    segments: list[str] = field(default_factory=list)
    live: int = 0  # bytes of records that the snapshot needs, when last compacted


def load_head(directory: str) -> Head | None:
    """The published head, or None where there is none that is whole."""
    try:
        with open(os.path.join(directory, "head"), "rb") as file:
            raw = file.read()
        if not raw.startswith(_MAGIC) or zlib.crc32(raw[:-_CRC]) != int.from_bytes(raw[-_CRC:], "little"):
            return None
        snapshot, root, index_ids, segments, live = marshal.loads(raw[len(_MAGIC) : -_CRC])  # noqa: S302 -- CRC fits
        return Head(snapshot, root, index_ids, segments, live)
    except (OSError, ValueError, EOFError, TypeError):
        return None


def forget_head(directory: str) -> None:
    """Throw the cache away."""
    try:
        os.unlink(os.path.join(directory, "head"))
    except FileNotFoundError:
        return


class TreeReader:
    """Reads records of the published segments; each process opens its own files."""

    def __init__(self, directory: str, segments: Iterable[str]) -> None:
        self._paths = [os.path.join(directory, name) for name in segments]
        self._fds: list[int | None] = [None] * len(self._paths)
        self._unpack = zstandard.ZstdDecompressor()

    def read(self, ref: Ref, tree: bytes) -> Record | None:
        """The record at `ref` if it is whole and stands for `tree`; else None."""
        number, offset, length = ref
        if not 0 <= number < len(self._paths):
            return None
        try:
            fd = self._fds[number]
            if fd is None:
                fd = self._fds[number] = os.open(self._paths[number], os.O_RDONLY | os.O_CLOEXEC)
            raw = os.pread(fd, length, offset)
            if len(raw) != length or zlib.crc32(raw[:-_CRC]) != int.from_bytes(raw[-_CRC:], "little"):
                return None
            found, subs, entries = marshal.loads(self._unpack.decompress(raw[:-_CRC]))  # noqa: S302 -- its CRC fits
        except (OSError, ValueError, EOFError, TypeError, zstandard.ZstdError):
            return None
        return Record(found, subs, entries) if found == tree else None

    def close(self) -> None:
        """Close its files."""
        for fd in self._fds:
            if fd is not None:
                os.close(fd)
        self._fds = [None] * len(self._paths)


class TreeWriter:
    """Writes a run's records to a segment of its own, and publishes a head after the commit."""

    def __init__(self, directory: str, old: Head | None) -> None:
        self._directory = directory
        self._old = old
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._name = f"seg-{secrets.token_hex(8)}"
        self._number = len(old.segments) if old else 0
        self._path = os.path.join(directory, self._name)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._pack = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
        self._buffer = bytearray()
        self._written = 0

    def write(self, tree: bytes, subs: list[SubEntry], entries: list[Entry]) -> Ref:
        """Append a record; where it lies."""
        raw = self._pack.compress(marshal.dumps((tree, subs, entries)))
        offset = self._written + len(self._buffer)
        self._buffer += raw
        self._buffer += zlib.crc32(raw).to_bytes(_CRC, "little")
        if len(self._buffer) >= _BUFFER:
            self._flush()
        return (self._number, offset, len(raw) + _CRC)

    def publish(self, snapshot: str, root: Ref, index_ids: Iterable[str]) -> None:
        """Make this run's records the cache of `snapshot`. No fsync: the CRCs find what a power cut leaves.

        Where another run of the source has published meanwhile, and so swept this one's segment away, that
        one's head stays.
        """
        self._flush()
        if not os.path.exists(self._path):
            os.close(self._fd)
            return
        old = self._old
        segments = [*(old.segments if old else []), self._name]
        live = old.live if old else self._written
        head = Head(snapshot, root, sorted(index_ids), segments, live)
        self._write_head(head)
        self._sweep(segments)

    def discard(self) -> None:
        """Drop what was written; the published head stays as it is."""
        os.close(self._fd)
        with suppress(FileNotFoundError):  # another run of the source swept it away
            os.unlink(self._path)

    @staticmethod
    def wants_rewrite(directory: str, head: Head) -> bool:
        """Whether the chain has grown to more than twice what it held when it was whole: then start afresh."""
        try:
            total = sum(os.stat(os.path.join(directory, name)).st_size for name in head.segments)
        except OSError:
            return True
        return len(head.segments) > 64 or total > 2 * head.live + (1 << 20)

    def _flush(self) -> None:
        while self._buffer:
            sent = os.write(self._fd, self._buffer)
            self._written += sent
            del self._buffer[:sent]

    def _write_head(self, head: Head) -> None:
        body = _MAGIC + marshal.dumps((head.snapshot, head.root, head.index_ids, head.segments, head.live))
        temporary = os.path.join(self._directory, f"tmp-{self._name}")
        with open(temporary, "wb") as file:
            file.write(body + zlib.crc32(body).to_bytes(_CRC, "little"))
        os.close(self._fd)
        os.replace(temporary, os.path.join(self._directory, "head"))

    def _sweep(self, segments: list[str]) -> None:
        keep = {"head", *segments}
        for name in os.listdir(self._directory):
            if name not in keep:
                try:
                    os.unlink(os.path.join(self._directory, name))
                except FileNotFoundError:
                    continue
