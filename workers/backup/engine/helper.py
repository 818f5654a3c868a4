"""A helper process: takes directories, goes from stat to sealed and uploaded pack by itself.

Messages to it:    ("scan", [(path, names|None, tree, ref)])   ("answer", number, flags)   ("flush",)   ("open", {...})
Messages from it:  ("scanned", [directory results], left over)  ("nodes", [...])  ("ask", number, ids)
                   ("packed", a stored pack)   ("progress", bytes)   ("problem", path, text)   ("flushed",)
                   ("failed", text, hint, exit code)

Small files travel in batches: read and hash a batch, ask which of its blobs are new, and while the answer
is on its way read the next; at most two batches wait, so memory is bounded.
"""

from __future__ import annotations

import hashlib
import os
import stat
import traceback
from collections import deque
from typing import Any

from shared.errors import HoldfastError
from shared.repository.chunker import MIN_SIZE
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.pack import BlobType
from workers.access import repository_store
from workers.backup.engine.big import BIG_FILE, BigFileReader, cut_whole
from workers.backup.engine.nodes import file_node, node_head
from workers.backup.engine.packer import Packer, Uploader
from workers.backup.engine.parent import ParentReader
from workers.backup.engine.scan import LEFT_EMPTY, Found, open_directory, scan_directory, stat_key
from workers.backup.engine.selection import Filter
from workers.backup.engine.treecache import Entry, Key, Ref, TreeReader
from workers.backup.spec import BackupSpec
from workers.helpers import Channel, CoordinatorGone

BATCH_FILES = 128
BATCH_BYTES = 1 << 20
WAITING_BATCHES = 4
ITEM_ENTRIES = 1000  # entries that a helper scans before it offers the rest to others
ITEM_BYTES = 8 << 20  # bytes read, likewise
READ_FILES = 512  # files of one directory that a helper reads before it offers the rest to others
RETRIES = 3  # readings of a file that changes meanwhile

# path, the names to look at (None: all), its tree in the parent, where its record lies, where its tree blob lies
Item = tuple[bytes, list[bytes] | None, bytes, Ref, tuple[Any, ...]]
# path, name, node, key, ids of its blobs, against the parent (below), bytes read
ReadNode = tuple[bytes, bytes, bytes, Key, bytes, int, int]
NEW, CHANGED, UNMODIFIED = range(3)
TORN: Key = (0, 0, 0, 0)  # of what changed while it was read: no later scan takes it as unchanged


class _StopWork(Exception):
    """The coordinator wants no more of the work that is under way."""


class Helper:
    """See the module. Single-threaded but for uploads and the chunks of big files."""

    def __init__(self, channel: Channel, spec: BackupSpec) -> None:
        self.channel = channel
        self._spec = spec
        self._rules = Filter(spec.selection)
        self._todo: deque[Any] = deque()
        self._answers: dict[int, bytes] = {}
        self._asked = 0
        self._waiting: deque[tuple[int, list[tuple[bytes, memoryview | bytes]]]] = deque()
        self._batch: list[tuple[bytes, bytes, os.stat_result, str, Entry | None, bool, list[memoryview | bytes]]] = []
        self._batch_bytes = 0
        self._read_bytes = 0
        self._devices: dict[int, int] = {}
        self._limits: dict[int, int] = {}
        self._flush_asked = False
        self._held: list[ReadNode] | None = None

    def run(self) -> None:
        """Until the coordinator closes the channel."""
        try:
            while True:
                self._step()
        except HoldfastError as error:
            self.channel.send(("failed", str(error.args[0]), error.hint, error.exit_code))
            self.channel.receive()  # wait for the end: what is told once is enough
        except CoordinatorGone:
            raise
        except Exception as error:  # noqa: BLE001 -- a bug is reported like any failure, with its place
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"a helper failed: {error!r} at {os.path.basename(where.filename)}:{where.lineno}"
            self.channel.send(("failed", text, "This is a fault of Holdfast; what was uploaded is kept", 1))
            self.channel.receive()

    def _step(self) -> None:
        try:
            if self._todo:
                self._scan(self._todo.popleft())
            elif self._flush_asked:
                self._flush()
            elif self._batch and not self.channel.waiting():
                self._submit()
            elif self._waiting and not self.channel.waiting():
                self._settle()
            else:
                self._route(self.channel.receive())
        except _StopWork:
            # Whatever is packed is kept; what was read but not asked for is read again by the next attempt.
            self._todo.clear()
            self._batch.clear()
            self._waiting.clear()
            self._flush_asked = True

    def _route(self, message: Any) -> None:
        match message[0]:
            case "scan":
                self._todo.extend(message[1])
            case "answer":
                self._answers[message[1]] = message[2]
            case "flush":
                self._flush_asked = True
            case "stop":
                raise _StopWork
            case "open":
                self._open(message[1])

    def _open(self, start: dict[str, Any]) -> None:
        spec = self._spec
        key = MasterKey.from_bytes(start["key"])
        store = repository_store(spec.site, spec.repository)
        self._uploader = Uploader(store, uploads=start["uploads"])
        self._packer = Packer(key, self._uploader, BlobType.DATA, level=spec.compression_level, target=spec.pack_size)
        self._parents = ParentReader(TreeReader(start["trees"], start["segments"]), store, Sealer(key))
        self._big = BigFileReader(
            key, self._packer, spec.compression_level, ask=self._ask_now, threads=start["threads"]
        )
        self._key = key
        self._devices = start["devices"]
        self._limits = start["limits"]
        self._default_limit = start["limit"]
        self._reread = start["reread"]
        self._distrusted = start["distrusted"]

    # -- scanning ---------------------------------------------------------------------------------

    def _scan(self, item: Item) -> None:
        """Scan a directory, and what lies below it while the item's budget lasts."""
        results: list[Any] = []
        self._held = []
        stack = [item]
        entries = 0
        started = self._read_bytes
        left: list[Any] = []
        while stack:
            path, only, tree, ref, location = stack.pop()
            found = self._one(path, only, tree, ref, location)
            if found is None:
                results.append((path, None))
                continue
            later = [file[0] for file in found.to_read[READ_FILES:]]
            entries += len(found.entries) + found.unmodified + len(found.to_read) + len(found.subs)
            busy = entries >= ITEM_ENTRIES or self._read_bytes - started >= ITEM_BYTES
            taken = []
            for name, _head, _key, base, base_ref in found.subs:
                take = not busy and only is None and base_ref != LEFT_EMPTY and (not base or base_ref[0] >= 0)
                taken.append(take)
                if take:
                    stack.append((os.path.join(path, name), None, base, base_ref, ()))
            results.append(
                (
                    path,
                    (
                        found.same,
                        found.entries,
                        found.subs,
                        taken,
                        len(found.to_read) - len(later),
                        found.content,
                        (found.unmodified, found.unmodified_bytes, found.gone),
                    ),
                )
            )
            left += [(path, later[i : i + READ_FILES], tree, ref) for i in range(0, len(later), READ_FILES)]
            if busy:
                left += [(rest[0], None, rest[2], rest[3]) for rest in stack]  # for whoever is idle
                stack.clear()
        self.channel.send(("scanned", results, left))
        nodes, self._held = self._held, None
        if nodes:
            self.channel.send(("nodes", nodes))
        self._report()

    def _one(
        self, path: bytes, only: list[bytes] | None, tree: bytes, ref: Ref, location: tuple[Any, ...]
    ) -> Found | None:
        try:
            fd = open_directory(path)
        except OSError as error:
            self._problem(path, f"the directory can't be opened: {error.strerror}")
            return None
        try:
            os.fchdir(fd)
            names = only if only is not None else os.listdir(b".")
            kept = None if only is not None else self._rules.markers(names)
            record = self._parents.record(ref, tree, location) if tree else None
            found = scan_directory(
                path,
                names if kept is None else kept,
                record,
                trusted_before=lambda dev: self._limits.get(dev, self._default_limit),
                device_id=self._device_id,
                rules=self._rules,
                reread=self._reread,
                distrusted=self._distrusted,
                partial=only is not None,
                problem=self._problem,
            )
            if found.same and (ref[0] < 0 or only is not None):
                # The coordinator can't look the record up (it came from the repository), or it is but a part.
                found.same = False
                found.entries = record.entries if record else []
            for name, st, xattrs, old in found.to_read[:READ_FILES]:
                self._read(path, name, st, xattrs, old)
        except OSError as error:
            self._problem(path, f"the directory can't be read: {error.strerror}")
            return None
        else:
            return found
        finally:
            os.close(fd)

    def _device_id(self, device: int, path: bytes) -> int:
        known = self._devices.get(device)
        if known is None:
            known = self._devices[device] = device_id_for(first_met(path, device))
        return known

    # -- reading ----------------------------------------------------------------------------------

    def _read(self, path: bytes, name: bytes, st: os.stat_result, xattrs: str, old: Entry | None) -> None:
        """Read one file of the current directory: into the batch, or at once where it is big."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._lost(path, name, f"can't be read: {error.strerror}")
            return
        try:
            if st.st_size >= BIG_FILE:
                self._read_big(fd, path, name, st, xattrs, old)
                return
            torn = False
            for _ in range(RETRIES):
                read = _read_all(fd, st.st_size)
                if read is None:  # it has become a big one
                    self._read_big(fd, path, name, st, xattrs, old)
                    return
                data = read
                after = os.fstat(fd)
                if stat_key(after) == stat_key(st):
                    break
                st = after
                if not stat.S_ISREG(st.st_mode):
                    self._lost(path, name, "is no regular file any more")
                    return
                os.lseek(fd, 0, os.SEEK_SET)
            else:
                torn = self._torn(path, name)
        except OSError as error:
            self._lost(path, name, f"can't be read: {error.strerror}")
            return
        finally:
            os.close(fd)
        size = len(data)
        chunks: list[memoryview | bytes] = []
        if size > MIN_SIZE:
            chunks = cut_whole(self._key, data)
        elif size:
            chunks = [data]
        self._batch.append((path, name, st, xattrs, old, torn, chunks))
        self._batch_bytes += size
        self._read_bytes += size
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_FILES:
            self._submit()

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
        self._send_nodes([self._node(path, name, st, xattrs, old, torn, content, size)])
        self._report()

    def _grew(self, more: int) -> None:
        self._read_bytes += more
        self.channel.send(("progress", more))
        self._report()

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
        device = self._device_id(st.st_dev, os.path.join(path, name)) if st.st_nlink > 1 else 0
        head = node_head(name, st, size=size, device_id=device, xattrs=xattrs)
        key = TORN if torn else stat_key(st)
        blobs = b"".join(content)
        state = NEW if old is None else UNMODIFIED if old[2] == key and old[3] == blobs else CHANGED
        return (path, name, file_node(head, content), key, blobs, state, size)

    def _send_nodes(self, nodes: list[ReadNode]) -> None:
        if self._held is None:
            self.channel.send(("nodes", nodes))
        else:  # their directory is not reported yet
            self._held += nodes

    def _torn(self, path: bytes, name: bytes) -> bool:
        self._problem(os.path.join(path, name), "changed while it was read; what was read is kept")
        return True

    def _lost(self, path: bytes, name: bytes, text: str) -> None:
        self._problem(os.path.join(path, name), text)
        self._send_nodes([(path, name, b"", TORN, b"", NEW, 0)])

    # -- batches ----------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Hash the batch, send its nodes, ask which of its blobs are new."""
        sha256 = hashlib.sha256
        nodes = []
        blobs: list[tuple[bytes, memoryview | bytes]] = []
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
        self._batch_bytes = 0
        self._send_nodes(nodes)
        if blobs:
            self._asked += 1
            self.channel.send(("ask", self._asked, b"".join([blob_id for blob_id, _ in blobs])))
            self._waiting.append((self._asked, blobs))
        while len(self._waiting) >= WAITING_BATCHES:
            self._settle()

    def _settle(self) -> None:
        """Pack what is new of the oldest batch that waits."""
        number, blobs = self._waiting.popleft()
        flags = self._wait_answer(number)
        for (blob_id, chunk), new in zip(blobs, flags, strict=True):
            if new and self._packer.add(blob_id, chunk):
                self._report()  # at once: a pack that is not journaled is uploaded again after a kill
        self._report()

    def _ask_now(self, ids: list[bytes]) -> bytes:
        self._asked += 1
        self.channel.send(("ask", self._asked, b"".join(ids)))
        return self._wait_answer(self._asked)

    def _wait_answer(self, number: int) -> bytes:
        while number not in self._answers:
            self._route(self.channel.receive())
        return self._answers.pop(number)

    def _flush(self) -> None:
        if self._batch:
            self._submit()
        while self._waiting:
            self._settle()
        self._packer.flush()
        self._uploader.wait()
        self._report()
        self._flush_asked = False
        self.channel.send(("flushed",))

    def _report(self) -> None:
        for pack in self._uploader.finished():
            self.channel.send(("packed", pack))

    def _problem(self, path: bytes, text: str) -> None:
        self.channel.send(("problem", path, text))


def first_met(path: bytes, device: int) -> bytes:
    """The highest of `path` and its ancestors that lie on its file system: what every helper finds alike."""
    above = os.path.dirname(path)
    try:
        while above != path and os.lstat(above).st_dev == device:
            path, above = above, os.path.dirname(above)
    except OSError:  # it moved, or is beyond PATH_MAX: links found by two helpers are then two files
        return path
    return path


def device_id_for(path: bytes) -> int:
    """A file system's identity in nodes: from the recorded path at which it is first met, never from st_dev."""
    return int.from_bytes(hashlib.sha256(path).digest()[:8], "big") & (2**63 - 1)


def _read_all(fd: int, size: int) -> bytes | None:
    """All that the file holds, which had `size` bytes; None where that would be more than memory is for."""
    if size >= BIG_FILE:
        return None
    data = os.read(fd, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    total = len(data)
    while data:  # it grew, or the read was short
        if total >= BIG_FILE:
            return None
        data = os.read(fd, 1 << 20)
        parts.append(data)
        total += len(data)
    return b"".join(parts)
