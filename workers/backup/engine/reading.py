"""Files read in a helper: small ones in batches, each hashed, asked for and packed together.

While the answer to one batch is on its way the next are read. What small files hold lies in stretches of
memory that go from batch to batch: to take fresh memory for each file costs a page fault for every 4 KiB read.

Invariants: at most WAITING batches wait (EARLY of them while no answer has come yet), so memory is bounded;
and a stretch is used again only when all that was read into it is packed, or known not to be new.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from shared.repository.chunker import MIN_SIZE
from shared.repository.crypto import Buffer, MasterKey
from workers.backup.engine.big import BIG_FILE, BigFileReader, cut_whole
from workers.backup.engine.nodes import file_node, node_head
from workers.backup.engine.packer import Packer
from workers.backup.engine.scan import stat_key
from workers.backup.engine.treecache import Entry, Key

BATCH_FILES = 128
BATCH_BYTES = 1 << 20
AHEAD = 8  # files open before they are read
WAITING = 3
EARLY = 8
READ_ON = 1 << 16  # bytes asked for where a file is longer than it was
RETRIES = 3  # readings of a file that changes meanwhile

# path, name, node, key, ids of its blobs, against the parent (below), bytes read
ReadNode = tuple[bytes, bytes, bytes, Key, bytes, int, int]
NEW, CHANGED, UNMODIFIED = range(3)
# A file's name, what it was when it was scanned, its attributes, what the parent has
ToRead = tuple[bytes, os.stat_result, str, Entry | None]
TORN: Key = (0, 0, 0, 0)  # of what changed while it was read: no later scan takes it as unchanged


class Outlet(Protocol):
    """What a reader needs of the helper that it works for."""

    def ask(self, ids: bytes) -> int:
        """Ask which of these blobs are new; the question's number."""

    def answer(self, number: int) -> bytes:
        """Wait for the answer to a question: a byte for each blob, 1 for new."""

    def nodes(self, nodes: list[ReadNode]) -> None:
        """Hand on what was read."""

    def problem(self, path: bytes, text: str) -> None:
        """Record what could not be backed up as it is."""

    def progress(self, more: int) -> None:
        """So many bytes more of a big file are done."""

    def report(self) -> None:
        """Tell of packs that have become durable."""

    def device_id(self, device: int, path: bytes) -> int:
        """The identity that nodes give to a file system."""


class _Read(NamedTuple):
    """A file that was read: where, what it was when it was scanned or read last, and its chunks."""

    path: bytes
    name: bytes
    st: os.stat_result
    xattrs: str
    old: Entry | None
    torn: bool
    chunks: list[Buffer]


class FileReader:
    """See the module. For a helper's main thread."""

    def __init__(self, outlet: Outlet, key: MasterKey, packer: Packer, big: BigFileReader) -> None:
        self.bytes_read = 0
        self._outlet = outlet
        self._key = key
        self._packer = packer
        self._big = big
        self._batch: list[_Read] = []
        self._memory = _stretch()
        self._used = 0
        self._free: list[memoryview] = []
        # The question's number, the blobs, and the memory that they lie in.
        self._waiting: deque[tuple[int, list[tuple[bytes, Buffer]], memoryview]] = deque()
        self._limit = EARLY

    @property
    def has_batch(self) -> bool:
        """Whether files are read and not asked for yet."""
        return bool(self._batch)

    @property
    def has_waiting(self) -> bool:
        """Whether a batch was asked for and is not packed yet."""
        return bool(self._waiting)

    def read(self, path: bytes, files: Sequence[ToRead]) -> None:
        """Read files of the current directory, whose path is `path`: into batches, or at once where one is big.

        Some are open ahead of the one that is read, and the kernel is told of them: a disk answers many as fast as one.
        """
        ahead: deque[int | OSError] = deque()
        following = iter(files)
        try:
            for name, st, xattrs, old in files:
                while len(ahead) < AHEAD and (file := next(following, None)) is not None:
                    ahead.append(_open(file[0], file[1].st_size))
                fd = ahead[0]
                try:
                    if isinstance(fd, OSError):
                        raise fd
                    if st.st_size >= BIG_FILE:
                        self._read_big(fd, path, name, st, xattrs, old)
                    else:
                        self._read_small(fd, path, name, st, xattrs, old)
                except OSError as error:
                    self._lost(path, name, f"can't be read: {error.strerror}")
                del ahead[0]
                if isinstance(fd, int):
                    os.close(fd)
        finally:
            for fd in ahead:
                if isinstance(fd, int):
                    os.close(fd)

    def _read_small(
        self, fd: int, path: bytes, name: bytes, st: os.stat_result, xattrs: str, old: Entry | None
    ) -> None:
        if st.st_size >= BATCH_BYTES - self._used and self._batch:
            self.submit()
        torn = False
        for _ in range(RETRIES):
            read = read_whole(fd, st.st_size, self._memory[self._used :])
            if read is None:  # it has become a big one
                self._read_big(fd, path, name, st, xattrs, old)
                return
            data = read
            after = os.fstat(fd)
            if (
                after.st_ctime_ns == st.st_ctime_ns
                and after.st_mtime_ns == st.st_mtime_ns
                and after.st_size == st.st_size
                and after.st_ino == st.st_ino
            ):
                break
            st = after
            if not stat.S_ISREG(st.st_mode):
                self._lost(path, name, "is no regular file any more")
                return
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            torn = self._torn(path, name)
        size = len(data)
        chunks: list[Buffer] = []
        if size > MIN_SIZE:
            chunks = cut_whole(self._key, data)
        elif size:
            chunks = [data]
        self._batch.append(_Read(path, name, st, xattrs, old, torn, chunks))
        self._used += size
        self.bytes_read += size
        if self._used >= BATCH_BYTES or len(self._batch) >= BATCH_FILES:
            self.submit()

    def _read_big(self, fd: int, path: bytes, name: bytes, st: os.stat_result, xattrs: str, old: Entry | None) -> None:
        torn = False
        for _ in range(RETRIES):
            os.lseek(fd, 0, os.SEEK_SET)
            if not stat.S_ISREG(os.fstat(fd).st_mode):  # a device, say, would never end
                self._lost(path, name, "is no regular file any more")
                return
            content, size = self._big.read(fd, self._grew)
            after = os.fstat(fd)
            if stat_key(after) == stat_key(st):
                break
            st = after
        else:
            torn = self._torn(path, name)
        self._outlet.nodes([self._node(path, name, st, xattrs, old, torn, content, size)])
        self._outlet.report()

    def _grew(self, more: int) -> None:
        self.bytes_read += more
        self._outlet.progress(more)

    def _node(
        self,
        path: bytes,
        name: bytes,
        st: os.stat_result,
        xattrs: str,
        old: Entry | None,
        torn: bool,
        content: list[bytes],
        size: int,
    ) -> ReadNode:
        device = self._outlet.device_id(st.st_dev, os.path.join(path, name)) if st.st_nlink > 1 else 0
        head = node_head(name, st, size=size, device_id=device, xattrs=xattrs)
        key = TORN if torn else stat_key(st)
        blobs = b"".join(content)
        state = NEW if old is None else UNMODIFIED if old[2] == key and old[3] == blobs else CHANGED
        return (path, name, file_node(head, content), key, blobs, state, size)

    def _torn(self, path: bytes, name: bytes) -> bool:
        self._outlet.problem(os.path.join(path, name), "changed while it was read; what was read is kept")
        return True

    def _lost(self, path: bytes, name: bytes, text: str) -> None:
        self._outlet.problem(os.path.join(path, name), text)
        self._outlet.nodes([(path, name, b"", TORN, b"", NEW, 0)])

    # -- batches ----------------------------------------------------------------------------------

    def submit(self) -> None:
        """Hash the batch, hand on its nodes, ask which of its blobs are new."""
        sha256 = hashlib.sha256
        nodes = []
        blobs: list[tuple[bytes, Buffer]] = []
        for path, name, st, xattrs, old, torn, chunks in self._batch:
            content = []
            size = 0
            for chunk in chunks:
                digest = sha256(chunk).digest()
                content.append(digest)
                blobs.append((digest, chunk))
                size += len(chunk)
            nodes.append(self._node(path, name, st, xattrs, old, torn, content, size))
        self._batch = []
        self._used = 0
        self._outlet.nodes(nodes)
        if not blobs:
            return
        number = self._outlet.ask(b"".join([blob_id for blob_id, _ in blobs]))
        self._waiting.append((number, blobs, self._memory))
        del blobs
        while len(self._waiting) >= self._limit:
            self.settle()
        self._memory = self._free.pop() if self._free else _stretch()

    def settle(self) -> None:
        """Pack what is new of the oldest batch that waits."""
        number, blobs, memory = self._waiting.popleft()
        flags = self._outlet.answer(number)
        self._limit = WAITING
        for (blob_id, chunk), new in zip(blobs, flags, strict=True):
            if new and self._packer.add(blob_id, chunk):
                self._outlet.report()  # at once: a pack that is not journaled is uploaded again after a kill
        if len(self._free) < WAITING:
            self._free.append(memory)
        self._outlet.report()

    def finish(self) -> None:
        """Pack all that was read."""
        if self._batch:
            self.submit()
        while self._waiting:
            self.settle()

    def drop(self) -> None:
        """Forget what was read and is not packed: the next attempt reads it again."""
        self._batch.clear()
        self._used = 0
        self._waiting.clear()


def _open(name: bytes, size: int) -> int | OSError:
    """Open a file of the current directory that had `size` bytes, and have the kernel fetch a small one; or why not."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error
    if 0 < size < BIG_FILE:
        with suppress(OSError):  # advice; what can't take it can still be read
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
    return fd


def _stretch() -> memoryview:
    return memoryview(mmap.mmap(-1, BATCH_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def read_whole(fd: int, size: int, room: memoryview) -> Buffer | None:
    """All that the file holds, which had `size` bytes: in `room`, or in memory of its own where it does not fit.

    None where that would be more than memory is for. Raises OSError.
    """
    if size >= BIG_FILE:
        return None
    parts: list[bytes] = []
    total = 0
    if size < len(room):
        total = os.readv(fd, (room,))
        if total == size:  # with room to spare, so that was all
            return room[:size]
        parts.append(bytes(room[:total]))  # it grew or shrank, or the read was short
    while data := os.read(fd, max(size + 1 - total, READ_ON)):
        parts.append(data)
        total += len(data)
        if total >= BIG_FILE:
            return None
        if total == size == len(data):
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)
