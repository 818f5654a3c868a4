"""A helper process: takes directories, goes from stat to sealed and uploaded pack by itself.

Messages to it:    ("scan", [(path, names|None, tree, ref)])   ("answer", number, flags)   ("flush",)   ("open", {...})
                   ("stream",), where the source is one
Messages from it:  ("scanned", [directory results], left over)  ("nodes", [...])  ("ask", number, ids)
                   ("packed", a stored pack)   ("progress", bytes)   ("problem", path, text)   ("flushed",)
                   ("failed", text, hint, exit code)   of a stream alone: ("streamed", node)   ("broken", as "failed")

How files are read, and how much of them is in memory, is engine.reading's.
"""

from __future__ import annotations

import hashlib
import os
import traceback
from collections import deque
from typing import Any

from shared.errors import HoldfastError
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.pack import BlobType
from workers.access import repository_store
from workers.backup.engine.big import BigFileReader
from workers.backup.engine.packer import Packer, Uploader
from workers.backup.engine.parent import ParentReader
from workers.backup.engine.reading import FileReader, ReadNode
from workers.backup.engine.scan import LEFT_EMPTY, Found, open_directory, scan_directory
from workers.backup.engine.selection import Filter
from workers.backup.engine.stream import read_stream
from workers.backup.engine.treecache import Ref, TreeReader
from workers.backup.spec import BackupSpec
from workers.helpers import Channel, CoordinatorGone
from workers.programs.program import ProgramFailed

ITEM_ENTRIES = 1000  # entries that a helper scans before it offers the rest to others
ITEM_BYTES = 8 << 20  # bytes read, likewise
READ_FILES = 512  # files of one directory that a helper reads before it offers the rest to others
PART_FILES = 8192  # at most so many are offered as one part; each part costs another look at the directory's record
PARTS = 16  # and not many more parts than this

# path, the names to look at (None: all), its tree in the parent, where its record lies, where its tree blob lies
Item = tuple[bytes, list[bytes] | None, bytes, Ref, tuple[Any, ...]]


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
        self._devices: dict[int, int] = {}
        self._limits: dict[int, int] = {}
        self._flush_asked = False
        self._held: list[ReadNode] | None = None
        self._reader: FileReader | None = None
        self._packer: Packer | None = None
        self._stream_asked = False

    def run(self) -> None:
        """Until the coordinator closes the channel."""
        try:
            self._run()
        finally:
            if self._packer is not None:
                self._packer.discard()
                self._uploader.let_end()

    def _run(self) -> None:
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
            reader = self._reader
            if self._todo and reader:
                self._scan(self._todo.popleft(), reader)
            elif self._stream_asked and reader:
                self._stream()
            elif self._flush_asked:
                self._flush()
            elif reader and reader.has_batch and not self.channel.waiting():
                reader.submit()
            elif reader and reader.has_waiting and not self.channel.waiting():
                reader.settle()
            else:
                self._route(self.channel.receive())
        except _StopWork:
            # Whatever is packed is kept; what was read but not asked for is read again by the next attempt.
            self._todo.clear()
            if self._reader:
                self._reader.drop()
            self._flush_asked = True

    def _route(self, message: Any) -> None:
        match message[0]:
            case "scan":
                self._todo.extend(message[1])
            case "answer":
                self._answers[message[1]] = message[2]
            case "flush":
                self._flush_asked = True
            case "stream":
                self._stream_asked = True
            case "stop":
                raise _StopWork
            case "open":
                self._open(message[1])

    def _open(self, start: dict[str, Any]) -> None:
        spec = self._spec
        key = MasterKey.from_bytes(start["key"])
        store = repository_store(spec.site, spec.repository, look=self.channel.look)
        if self._packer is not None:
            self._packer.discard()  # of a pass that was abandoned
        self._uploader = Uploader(store, uploads=start["uploads"], spool=spec.cache_dir)
        self._packer = packer = Packer(
            key, self._uploader, BlobType.DATA, level=spec.compression_level, target=spec.pack_size
        )
        self._parents = ParentReader(TreeReader(start["trees"], start["segments"]), store, Sealer(key))
        big = BigFileReader(key, packer, spec.compression_level, ask=self._ask_now, threads=start["threads"])
        self._big = big
        self._began, self._is_first = start["began"], start["first"]
        self._reader = FileReader(self, key, packer, big)
        self._devices = start["devices"]
        self._limits = start["limits"]
        self._default_limit = start["limit"]
        self._reread = start["reread"]
        self._distrusted = start["distrusted"]

    def _stream(self) -> None:
        spec = self._spec
        self._stream_asked = False
        if spec.stream is None:
            return
        try:
            node = read_stream(
                spec.stream,
                self._big,
                began=self._began,
                is_first=self._is_first,
                grew=self.progress,
                look=self._look,
            )
        except ProgramFailed as error:
            text = f"source {spec.source}: {error.args[0]}; no snapshot is made"
            self.channel.send(("broken", text, error.hint, error.exit_code))
            return
        self.channel.send(("streamed", node))
        self.report()

    def _look(self) -> None:
        """Heed what has come. Raises _StopWork, CoordinatorGone."""
        while self.channel.waiting():
            self._route(self.channel.receive())

    # -- scanning ---------------------------------------------------------------------------------

    def _scan(self, item: Item, reader: FileReader) -> None:
        """Scan a directory, and what lies below it while the item's budget lasts."""
        results: list[Any] = []
        self._held = []
        stack = [item]
        entries = 0
        started = reader.bytes_read
        left: list[Any] = []
        while stack:
            path, only, tree, ref, location = stack.pop()
            found = self._one(path, only, tree, ref, location, reader)
            if found is None:
                results.append((path, None))
                continue
            later = [file[0] for file in found.to_read[READ_FILES:]] if only is None else []
            entries += len(found.entries) + found.unmodified + len(found.to_read) + len(found.subs)
            busy = entries >= ITEM_ENTRIES or reader.bytes_read - started >= ITEM_BYTES
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
            part = min(max(READ_FILES, len(later) // PARTS), PART_FILES)
            left += [(path, later[i : i + part], tree, ref) for i in range(0, len(later), part)]
            if busy:
                left += [(rest[0], None, rest[2], rest[3]) for rest in stack]  # for whoever is idle
                stack.clear()
        self.channel.send(("scanned", results, left))
        nodes, self._held = self._held, None
        if nodes:
            self.channel.send(("nodes", nodes))
        self.report()

    def _one(
        self,
        path: bytes,
        only: list[bytes] | None,
        tree: bytes,
        ref: Ref,
        location: tuple[Any, ...],
        reader: FileReader,
    ) -> Found | None:
        try:
            fd = open_directory(path)
        except OSError as error:
            self.problem(path, f"the directory can't be opened: {error.strerror}")
            return None
        try:
            os.fchdir(fd)
            names = only if only is not None else os.listdir(b".")
            limit = READ_FILES if only is None else len(names)
            kept = None if only is not None else self._rules.markers(names)
            record = self._parents.record(ref, tree, location) if tree else None
            record = self._rules.mine_of(path, record)
            found = scan_directory(
                path,
                self._rules.mine(path, names if kept is None else kept),
                record,
                trusted_before=lambda dev: self._limits.get(dev, self._default_limit),
                device_id=self.device_id,
                rules=self._rules,
                reread=self._reread,
                distrusted=self._distrusted,
                partial=only is not None,
                read_at_most=limit,
                problem=self.problem,
            )
            if found.same and (ref[0] < 0 or only is not None or self._rules.is_cut(path)):
                # The coordinator can't look the record up (it came from the repository), or it is but a part.
                found.same = False
                found.entries = record.entries if record else []
            reader.read(path, found.to_read[:limit])
        except OSError as error:
            self.problem(path, f"the directory can't be read: {error.strerror}")
            return None
        else:
            return found
        finally:
            os.close(fd)

    # -- what a reader needs (engine.reading.Outlet) ------------------------------------------------

    def device_id(self, device: int, path: bytes) -> int:
        """The identity that nodes give to the file system `device` (a st_dev), of which `path` is a part."""
        known = self._devices.get(device)
        if known is None:
            known = self._devices[device] = device_id_for(first_met(path, device))
        return known

    def ask(self, ids: bytes) -> int:
        """Ask which of these blobs, ids one behind the other, are new; the question's number."""
        self._asked += 1
        self.channel.send(("ask", self._asked, ids))
        return self._asked

    def answer(self, number: int) -> bytes:
        """Wait for the answer to a question: a byte for each blob, 1 for new."""
        while number not in self._answers:
            self._route(self.channel.receive())
        return self._answers.pop(number)

    def _ask_now(self, ids: list[bytes]) -> bytes:
        return self.answer(self.ask(b"".join(ids)))

    def nodes(self, nodes: list[ReadNode]) -> None:
        """Hand on what was read, though not before the directory that it lies in is told of."""
        if self._held is None:
            self.channel.send(("nodes", nodes))
        else:
            self._held += nodes

    def problem(self, path: bytes, text: str) -> None:
        """Record what could not be backed up as it is."""
        self.channel.send(("problem", path, text))

    def progress(self, more: int) -> None:
        """So many bytes more of a big file are done."""
        self.channel.send(("progress", more))
        self.report()

    def report(self) -> None:
        """Tell of packs that have become durable."""
        for pack in self._uploader.finished():
            self.channel.send(("packed", pack))

    def _flush(self) -> None:
        if self._reader:
            self._reader.finish()
        if self._packer:
            self._packer.flush()
        self._uploader.wait(self.report)
        os.chdir("/")  # whoever flushes is done with the source: a hook may unmount it now
        self._flush_asked = False
        self.channel.send(("flushed",))


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
