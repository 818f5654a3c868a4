"""Files of several megabytes: cut as they are read, their chunks hashed and compressed by threads.

Hashing and compressing let go of the interpreter, so one big file keeps every core busy. Two windows
are in memory: while the chunks of one are worked on, the next is read and cut.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import zstandard

from shared.errors import BackupError
from shared.repository.chunker import MAX_SIZE, FastCdcChunker, seed_for
from shared.repository.compression import compressor
from shared.repository.crypto import Buffer, MasterKey
from workers.backup.engine.packer import Packer

BIG_FILE = 4 << 20  # bytes; smaller ones travel in batches
WINDOW = 4 << 20  # bytes read and cut at a time
UNTOLD = 64 << 30  # bytes that a file may hold beyond its size: some file systems tell none (FUSE), or a wrong one

Fill = Callable[[memoryview], int]  # bytes that were read into it, as many as came at once; 0 at the end

_chunkers: dict[bytes, FastCdcChunker] = {}


def _chunker(key: MasterKey) -> FastCdcChunker:
    chunker = _chunkers.get(key.encrypt)
    if chunker is None:
        chunker = _chunkers[key.encrypt] = FastCdcChunker(seed_for(key))
    return chunker


def cut_whole(key: MasterKey, data: Buffer) -> list[Buffer]:
    """The chunks of a file that is in memory, as views."""
    view = memoryview(data)
    chunks: list[Buffer] = []
    at = 0
    for length in _chunker(key).cut(view, final=True):
        chunks.append(view[at : at + length])
        at += length
    return chunks


class BigFileReader:
    """Reads one big file at a time, in a helper's main thread."""

    def __init__(
        self, key: MasterKey, packer: Packer, level: int, *, ask: Callable[[list[bytes]], bytes], threads: int
    ) -> None:
        self._key = key
        self._packer = packer
        self._level = level
        self._ask = ask
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._compressors: list[zstandard.ZstdCompressor] = []

    def read(self, fd: int, grew: Callable[[int], None]) -> tuple[list[bytes], int]:
        """The blob ids and size in bytes of what the file holds from its start; new blobs are packed.

        `grew` is told of bytes that are done, or of none where only a pack may have been finished.
        Of a file that grows meanwhile it reads a window more than it held at first and no further: who writes may
        be faster. Raises OSError, also for a file that does not grow and has no end.
        """
        size = os.fstat(fd).st_size
        return self.stream(lambda room: os.readv(fd, [room]), grew, lambda done: _is_enough(fd, size, done))

    def stream(
        self, fill: Fill, grew: Callable[[int], None], is_enough: Callable[[int], bool] = lambda _: False
    ) -> tuple[list[bytes], int]:
        """The same of what `fill` gives, to its end, or until `is_enough` says so of that many bytes."""
        pool = self._pool or self._prepare()
        # Made for each file: a context for chunks this large holds megabytes, and most files are small.
        self._compressors = [compressor(self._level) for _ in range(self._threads)] if self._level else []
        chunker = _chunker(self._key)
        content: list[bytes] = []
        total = 0
        rest: memoryview | bytes = b""
        running: list[Future[None]] = []
        window = 0
        try:
            while True:
                # The other buffer: what runs may still look into this one's last content.
                whole, final = _fill(self._buffers[window % 2], fill, rest)
                window += 1
                final = final or is_enough(total + len(whole))
                chunks = []
                at = 0
                for length in chunker.cut(whole, final=final):
                    chunks.append(whole[at : at + length])
                    at += length
                rest = whole[at:]
                ids = list(pool.map(_digest, chunks))
                content += ids
                total += at
                for future in running:
                    future.result()
                    grew(0)  # a pack that it filled is told of now, not when the whole window is packed
                running.clear()
                flags = self._ask(ids) if ids else b""
                running = [
                    pool.submit(self._pack, blob_id, chunk)
                    for blob_id, chunk, new in zip(ids, chunks, flags, strict=True)
                    if new
                ]
                grew(at)
                if final:
                    return content, total
        finally:
            _settle(running)
            self._compressors = []
            for memory in self._maps:
                memory.madvise(mmap.MADV_DONTNEED)  # most files are small: give it back till the next big one

    def _prepare(self) -> ThreadPoolExecutor:
        try:
            # Private: of shared memory MADV_DONTNEED gives nothing back.
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._maps = [mmap.mmap(-1, MAX_SIZE + WINDOW, flags=private) for _ in range(2)]
        except OSError as error:  # not the file's, as whoever asked would take it
            raise BackupError(
                f"there is no memory to read big files ({error.strerror})", hint="Give this process more memory"
            ) from error
        self._buffers = [memoryview(m) for m in self._maps]
        self._pool = ThreadPoolExecutor(self._threads)
        return self._pool

    def _pack(self, blob_id: bytes, chunk: memoryview) -> None:
        if not self._level:
            self._packer.add_compressed(blob_id, chunk, chunk)
            return
        worker = self._compressors.pop()
        try:
            packed = worker.compress(chunk)
        finally:
            self._compressors.append(worker)
        self._packer.add_compressed(blob_id, chunk, packed)


def _fill(buffer: memoryview, fill: Fill, rest: memoryview | bytes) -> tuple[memoryview, bool]:
    """What was left, and up to a window more behind it; and whether the file ends there."""
    filled = len(rest)
    buffer[:filled] = rest
    end = filled + WINDOW
    while filled < end:
        count = fill(buffer[filled:end])
        if not count:
            break
        filled += count
    return buffer[:filled], filled < end


def _is_enough(fd: int, size: int, done: int) -> bool:
    """Whether to stop at `done` bytes of a file that had `size`: it has grown. Raises OSError where it has no end."""
    if done <= size:
        return False
    if os.fstat(fd).st_size > size:
        return True
    if done > size + UNTOLD:
        raise OSError(errno.EFBIG, f"it goes on for more than {UNTOLD >> 30} GiB beyond its size")
    return False


def _settle(running: list[Future[None]]) -> None:
    for future in running:
        future.result()
    running.clear()


def _digest(chunk: memoryview) -> bytes:
    return hashlib.sha256(chunk).digest()
