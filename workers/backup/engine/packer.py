"""From content to stored packs: compress, seal, write, publish.

A pack is staged: written as it is filled, at the site or into a spool beside the cache, so that none is in memory.

Invariants: at most one pack is being filled and `uploads` are under way, whatever the source's size; a blob counts
as stored only once its whole pack is durable at the site; a pack in which a write failed is never published, and
its Packer takes nothing more, since blobs that were claimed for it are lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from shared.errors import BackupError
from shared.repository.compression import DEFAULT_LEVEL, compressor
from shared.repository.crypto import Buffer, MasterKey, Sealer
from shared.repository.pack import BlobType, PackBuilder
from shared.repository.repository import PACKS, pack_key
from shared.storage.api import ObjectStore, Staged

# Its id, its size in bytes, the type of its blobs, and they as records (shared.repository.pack)
StoredPack = tuple[bytes, int, int, bytes]


_LAST_UPLOADS = 2.0  # seconds that whoever gives up waits for uploads


class Uploader:
    """Threads that publish full packs. A failure is raised in the thread that packs, at its next call.

    `spool`: the directory for packs of a store that takes them only whole.
    """

    def __init__(self, store: ObjectStore, *, uploads: int, spool: str) -> None:
        self._store = store
        self._spool = spool
        self._slots = threading.Semaphore(uploads)
        self._uploads = uploads
        self._done: deque[StoredPack] = deque()
        self._failed: list[BaseException] = []

    def stage(self) -> Staged:
        """A pack to fill. Raises StorageError."""
        return self._store.stage(PACKS, spool=self._spool)

    def upload(self, builder: PackBuilder, staged: Staged) -> None:
        """Close and publish a pack; waits while as many as allowed are under way. Raises what an earlier one raised.

        Unless it raises, what was staged is the uploader's.
        """
        pack_id = builder.close()  # here and not in the thread: the sealer is the packing thread's own
        self._slots.acquire()
        self._raise()
        pack = (pack_id, builder.size, int(builder.type), builder.records)
        threading.Thread(target=self._run, args=(staged, pack), daemon=True).start()

    def finished(self) -> list[StoredPack]:
        """The packs that have become durable since the last call."""
        self._raise()
        packs = []
        while self._done:
            packs.append(self._done.popleft())
        return packs

    def wait(self, report: Callable[[], None] = lambda: None) -> None:
        """Until no upload is under way; `report` is called as they end. Raises what one raised."""
        for _ in range(self._uploads):
            self._slots.acquire()
            report()
        for _ in range(self._uploads):
            self._slots.release()
        self._raise()

    def let_end(self) -> None:
        """Wait a little for what is under way: ended in the middle it leaves a hidden file."""
        end = time.monotonic() + _LAST_UPLOADS
        for _ in range(self._uploads):
            self._slots.acquire(timeout=max(0.0, end - time.monotonic()))

    def _run(self, staged: Staged, pack: StoredPack) -> None:
        try:
            try:
                staged.publish(pack_key(pack[0]), sha256=pack[0].hex())
            finally:
                staged.discard()
            self._done.append(pack)
        except BaseException as error:  # noqa: BLE001 -- carried to the packing thread, which raises it
            self._failed.append(error)
        finally:
            self._slots.release()

    def _raise(self) -> None:
        if self._failed:
            raise self._failed[0]


SMALL = 64 << 10  # bytes


class Packer:
    """Packs blobs of one type. `add` is for one thread; `add_compressed` may be called by several."""

    def __init__(
        self,
        key: MasterKey,
        uploader: Uploader,
        blob_type: BlobType,
        *,
        level: int,
        target: int,
    ) -> None:
        self._sealer = Sealer(key)
        self._uploader = uploader
        self._type = blob_type
        self._target = target
        # Level 0 stores data as it is; trees are always compressed. Two contexts: one that met small and large blobs
        # would give the memory of the large back and take it anew all the time, a twelfth of the work.
        packs = level or blob_type is BlobType.TREE
        self._compressors = [compressor(level or DEFAULT_LEVEL) for _ in range(2)] if packs else []
        self._open: tuple[PackBuilder, Staged] | None = None
        self._failed: Exception | None = None
        self._lock = threading.Lock()

    def add(self, blob_id: bytes, content: Buffer) -> bool:
        """Compress and pack one blob. True where that filled a pack, so that earlier ones may be finished."""
        if not self._compressors:
            return self.add_compressed(blob_id, content, content)
        packed = self._compressors[len(content) > SMALL].compress(content)
        return self.add_compressed(blob_id, content, packed)

    def add_compressed(self, blob_id: bytes, content: Buffer, packed: Buffer) -> bool:
        """Pack one blob that is compressed already; where that made it no smaller, the content itself is stored.

        Raises StorageError, BackupError where this host has no room for it, and never OSError, which whoever reads
        a file takes for that file's: the blob is claimed, so a run that went on would leave it out.
        """
        with self._lock:
            try:
                builder = self._builder()
                if len(packed) < len(content):
                    builder.add(blob_id, packed, len(content))
                else:
                    builder.add(blob_id, content, 0)
                full = builder.full
                if full:
                    self._upload()
            except Exception as error:  # noqa: BLE001 - raised again
                self._fail(error)
            return full

    def flush(self) -> None:
        """Publish the pack that is being filled; the uploader's `wait` says when it is stored. Raises as `add`."""
        with self._lock:
            try:
                self._upload()
            except Exception as error:  # noqa: BLE001 - raised again
                self._fail(error)

    def discard(self) -> None:
        """Give up the pack that is being filled, if there is one."""
        with self._lock:
            self._drop()

    def _builder(self) -> PackBuilder:
        if self._open is None:
            self._refuse()
            staged = self._uploader.stage()
            self._open = PackBuilder(self._sealer, self._type, staged.write, target=self._target), staged
        return self._open[0]

    def _upload(self) -> None:
        self._refuse()
        if self._open is not None:
            self._uploader.upload(*self._open)
            self._open = None

    def _drop(self) -> None:
        if self._open is not None:
            self._open[1].discard()
            self._open = None

    def _refuse(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _fail(self, error: Exception) -> NoReturn:
        """See the invariants: after a failure the pack is discarded, and every later call raises the same."""
        self._drop()
        if error is self._failed:
            raise error
        self._failed = error
        if isinstance(error, OSError):
            self._failed = BackupError(
                f"a pack of {self._target} bytes can't be filled ({error.strerror or error})",
                hint="Give this host more memory, or use smaller packs; what was uploaded is kept",
            )
            raise self._failed from error
        raise error
