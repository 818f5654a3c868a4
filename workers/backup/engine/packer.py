"""From content to stored packs: compress, seal, collect, upload.

Invariant: at most one pack is being filled and `uploads` are under way, so memory is bounded whatever
the source's size; a blob counts as stored only once its whole pack is durable at the site.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque

from shared.errors import BackupError
from shared.repository.compression import DEFAULT_LEVEL, compressor
from shared.repository.crypto import Buffer, MasterKey, Sealer
from shared.repository.pack import BlobType, PackBuilder
from shared.repository.repository import pack_key
from shared.storage.api import ObjectStore

# Its id, its size in bytes, the type of its blobs, and they as records (shared.repository.pack)
StoredPack = tuple[bytes, int, int, bytes]


class Uploader:
    """Threads that hash full packs and put them. A failure is raised in the thread that packs, at its next call."""

    def __init__(self, store: ObjectStore, *, uploads: int) -> None:
        self._store = store
        self._slots = threading.Semaphore(uploads)
        self._uploads = uploads
        self._done: deque[StoredPack] = deque()
        self._failed: list[BaseException] = []

    def upload(self, builder: PackBuilder) -> None:
        """Close and send a pack; waits while as many as allowed are under way. Raises what an earlier upload raised."""
        data = builder.close()  # here and not in the thread: the sealer is the packing thread's own
        self._slots.acquire()
        self._raise()
        threading.Thread(target=self._run, args=(data, builder.type, builder.records), daemon=True).start()

    def finished(self) -> list[StoredPack]:
        """The packs that have become durable since the last call."""
        self._raise()
        packs = []
        while self._done:
            packs.append(self._done.popleft())
        return packs

    def wait(self) -> None:
        """Until no upload is under way. Raises what one raised."""
        for _ in range(self._uploads):
            self._slots.acquire()
        for _ in range(self._uploads):
            self._slots.release()
        self._raise()

    def _run(self, data: memoryview, blob_type: BlobType, records: bytes) -> None:
        try:
            pack_id = hashlib.sha256(data).digest()
            self._store.put(pack_key(pack_id), data, sha256=pack_id.hex())
            self._done.append((pack_id, len(data), int(blob_type), records))
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
        self._builder: PackBuilder | None = None
        self._lock = threading.Lock()

    def add(self, blob_id: bytes, content: Buffer) -> bool:
        """Compress and pack one blob. True where that filled a pack, so that earlier ones may be finished."""
        if not self._compressors:
            return self.add_compressed(blob_id, content, content)
        packed = self._compressors[len(content) > SMALL].compress(content)
        return self.add_compressed(blob_id, content, packed)

    def add_compressed(self, blob_id: bytes, content: Buffer, packed: Buffer) -> bool:
        """Pack one blob that is compressed already; where that made it no smaller, the content itself is stored.

        Raises BackupError where there is no memory for it, and never OSError, which whoever reads a file takes
        for that file's: the blob is claimed, so a run that went on would leave it out.
        """
        try:
            return self._add(blob_id, content, packed)
        except OSError as error:
            raise BackupError(
                f"a pack of {self._target} bytes can't be filled ({error.strerror or error})",
                hint="Give this process more memory, or use smaller packs; what was uploaded is kept",
            ) from error

    def _add(self, blob_id: bytes, content: Buffer, packed: Buffer) -> bool:
        with self._lock:
            builder = self._builder
            if builder is None:
                builder = self._builder = PackBuilder(self._sealer, self._type, target=self._target)
            if len(packed) < len(content):
                builder.add(blob_id, packed, len(content))
            else:
                builder.add(blob_id, content, 0)
            if not builder.full:
                return False
            self._builder = None
            self._uploader.upload(builder)
            return True

    def flush(self) -> None:
        """Send the pack that is being filled. The uploader's `wait` says when it is stored."""
        if self._builder is not None:
            builder, self._builder = self._builder, None
            self._uploader.upload(builder)
