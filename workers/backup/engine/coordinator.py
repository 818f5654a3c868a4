"""The coordinator of an engine: hands directories to helpers, answers what is new, makes the trees.

One pass is one scan of the source. While the repository's lock is young the index may not be read yet
(`ready` says when): helpers scan and read all the same, and their questions wait.

Invariants: a blob is claimed for one helper, once; an index file names only packs that are durable; and
the pass ends only when every pack is stored and indexed, so a root that it returns is whole.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.errors import HoldfastError, Interrupted
from shared.repository.pack import BlobType
from workers.backup.engine.assembly import Assembler, Directory, Place
from workers.backup.engine.big import BIG_FILE
from workers.backup.engine.known import Known
from workers.backup.engine.packer import Packer, Uploader
from workers.backup.engine.reading import CHANGED, NEW, UNMODIFIED
from workers.backup.engine.scan import LEFT_EMPTY
from workers.backup.engine.treecache import Ref
from workers.helpers import HelperPool

AHEAD = 2  # items that a helper has at once, so that it never waits for the next
TREE_BATCH = 128  # trees looked up together
CHECK_BATCH = 1 << 16  # reused blobs looked up together
TICK = 0.2  # seconds between looks at the clock
STOP_PATIENCE = 8.0  # seconds, once asked to stop, that helpers have to flush; a supervisor kills after 15
_STOPPED = "the backup was stopped"
_GOES_ON = "What was uploaded is indexed; run it again and it goes on from there"
_WORK = frozenset(
    {"scanned", "nodes", "streamed", "ask", "problem"}
)  # messages that mean nothing in a pass that is abandoned


@dataclass(slots=True)
class Counts:
    """What a pass met. Sizes in bytes."""

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    files_gone: int = 0
    dirs: int = 0
    bytes_processed: int = 0
    bytes_read: int = 0
    bytes_added: int = 0
    problems: int = 0
    listed: list[str] = field(default_factory=list)


class RemoteError(HoldfastError):
    """A helper's error, raised again where the run is steered."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code  # type: ignore[misc] # the class of the original stayed in the helper


class Coordinator:
    """One pass. See the module."""

    def __init__(
        self,
        pool: HelperPool,
        known: Known,
        assembler_for: Callable[[Callable[[bytes, bytes], None]], Assembler],
        trees: Packer,
        uploader: Uploader,
        *,
        roots: dict[bytes, list[bytes]],
        parent: tuple[bytes, Ref] | None,
        on_tick: Callable[[Counts], None],
        stopping: Callable[[], bool],
        stream: list[Directory] | None = None,
    ) -> None:
        """`stream`: the folders above its file, where the source is one; then nothing is scanned."""
        self.counts = Counts()
        self.lost: set[bytes] = set()
        self._pool = pool
        self._known = known
        self._assembler = assembler_for(self._offer_tree)
        self._trees = trees
        self._uploader = uploader
        self._partial = roots
        self._check = True  # whether blobs of unchanged files are looked up
        self._unfinished: list[Directory] = []
        self._on_tick = on_tick
        self._stopping = stopping
        self._outstanding = [0] * len(pool)
        self._directories: dict[bytes, Directory] = {}
        self._stack: list[tuple[bytes, list[bytes] | None, bytes, Ref]] = []
        self._unchecked: list[bytes] = []
        self._offered: list[tuple[bytes, bytes]] = []
        self._flushed: set[int] = set()
        self._abandoned = False
        self._next_tick = 0.0
        self._broken: RemoteError | None = None
        self._stream = stream is not None
        if stream is not None:
            self._root = stream[0]
            self._directories.update((directory.path, directory) for directory in stream)
            return
        tree, ref = parent or (b"", (-1, 0, 0))
        self._root = Directory(b"/", None, tree, ref)
        self._directories[b"/"] = self._root
        self._stack.append((b"/", self._partial.get(b"/"), tree, ref))

    def run(self, make_ready: Callable[[], bool], ready_at: float) -> Place | None:
        """Scan it all; the root's tree, or None where nothing could be read.

        `make_ready` is called at `ready_at` (monotonic seconds): it opens the index, and says whether all
        that the parent refers to is known to be indexed. Raises Interrupted, and what helpers raise.
        """
        if self._stream:
            self._pool.send(0, ("stream",))
        while not self._known.ready and (left := ready_at - time.monotonic()) > 0:
            self._dispatch()
            self._listen(min(left, TICK))
            self._heed()
        self._start_finishing(trust=make_ready())
        while self._assembler.root is None and not self._root.failed:
            self._dispatch()
            self._listen(TICK)
            self._heed()
        self._check_reused(everything=True)
        self._store_trees()
        self._flush("flush")
        self.counts.dirs = self._assembler.directories
        return None if self._root.failed else self._assembler.root

    def _start_finishing(self, *, trust: bool) -> None:
        self._assembler.trust = trust
        self._check = not trust
        if trust:
            self._unchecked.clear()
        unfinished, self._unfinished = self._unfinished, []
        for directory in unfinished:
            self._finish(directory)

    # -- handing out ------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while self._stack:
            helper = min(range(len(self._outstanding)), key=self._outstanding.__getitem__)
            if self._outstanding[helper] >= AHEAD:
                return
            path, names, tree, ref = self._stack[-1]
            where: tuple[Any, ...] = ()
            if tree and ref[0] < 0:
                # No local record: the helper is to fetch the tree itself, so it is told where it lies.
                if not self._known.ready:
                    return
                where = self._known.locate_tree(tree)
            self._stack.pop()
            self._outstanding[helper] += 1
            self._pool.send(helper, ("scan", [(path, names, tree, ref, where)]))

    def _listen(self, timeout: float) -> None:
        for helper, message in self._pool.poll(timeout):
            self._handle(helper, message)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._settle_packs()
            self._on_tick(self.counts)

    def _handle(self, helper: int, message: Any) -> None:
        if self._abandoned and message[0] in _WORK:
            return  # it was under way; to take it up could lose another record, or claim what nobody will store
        match message[0]:
            case "scanned":
                self._outstanding[helper] -= 1
                self._scanned(message[1], message[2])
            case "nodes":
                self._nodes(message[1])
            case "streamed":
                self._nodes([message[1]], counted=True)
            case "broken":
                self._broken = RemoteError(message[1], message[2], message[3])
            case "ask":
                self._known.ask(message[2], lambda flags: self._pool.send(helper, ("answer", message[1], flags)))
            case "packed":
                self.counts.bytes_added += self._known.stored(message[1])
            case "progress":
                self.counts.bytes_processed += message[1]
                self.counts.bytes_read += message[1]
            case "problem":
                self.problem(message[1], message[2])
            case "flushed":
                self._flushed.add(helper)
            case "failed":
                raise RemoteError(message[1], message[2], message[3])

    def problem(self, path: bytes, text: str) -> None:
        """Record what could not be backed up as it is; it makes the snapshot incomplete."""
        self.counts.problems += 1
        if len(self.counts.listed) < 100:
            self.counts.listed.append(f"{os.fsdecode(path)}: {text}".encode(errors="backslashreplace").decode())

    # -- taking back ------------------------------------------------------------------------------

    def _scanned(self, results: list[Any], left: list[Any]) -> None:
        touched = []
        for path, result in results:
            directory = self._directories[path]
            directory.pending -= 1
            touched.append(directory)
            if result is None:
                directory.failed = True
                continue
            same, entries, subs, taken, reading, content, (unmodified, size, gone) = result
            directory.same = same
            directory.entries += entries
            directory.subs += subs
            directory.pending += reading
            if self._check and content:
                self._unchecked += [content[at : at + 32] for at in range(0, len(content), 32)]
            self.counts.files_unmodified += unmodified
            self.counts.bytes_processed += size
            self.counts.files_gone += gone
            for (name, _, _, base, ref), took in zip(subs, taken, strict=True):
                if ref == LEFT_EMPTY:
                    continue
                below = os.path.join(path, name)
                self._directories[below] = Directory(below, directory, base, ref)
                directory.pending += 1
                if not took:
                    self._stack.append((below, self._partial.get(below), base, ref))
        for path, names, tree, ref in left:
            if names is not None:
                self._directories[path].pending += 1
            self._stack.append((path, names, tree, ref))
        for directory in touched:
            self._finish(directory)
        self._check_reused(everything=False)

    def _nodes(self, nodes: list[Any], *, counted: bool = False) -> None:
        counts = self.counts
        for path, name, node, key, content, state, size in nodes:
            directory = self._directories[path]
            directory.pending -= 1
            if node:
                directory.entries.append((name, node, key, content))
                counts.files_new += state == NEW
                counts.files_changed += state == CHANGED
                counts.files_unmodified += state == UNMODIFIED
                if size < BIG_FILE and not counted:  # a big one was counted as it was read
                    counts.bytes_processed += size
                    counts.bytes_read += size
            if not directory.pending:
                self._finish(directory)

    def _finish(self, directory: Directory) -> None:
        if not self._known.ready:
            self._unfinished.append(directory)
            return
        if directory.pending or self._directories.get(directory.path) is not directory:
            return
        for done in self._assembler.finish(directory):
            del self._directories[done.path]

    # -- trees and reused blobs -------------------------------------------------------------------

    def _offer_tree(self, tree: bytes, raw: bytes) -> None:
        self._offered.append((tree, raw))
        if len(self._offered) >= TREE_BATCH:
            self._store_trees()

    def _store_trees(self) -> None:
        if not self._known.ready:
            return
        offered, self._offered = self._offered, []
        flags = self._known.claim(BlobType.TREE, [tree for tree, _ in offered])
        for (tree, raw), new in zip(offered, flags, strict=True):
            if new:
                self._trees.add(tree, raw)

    def _check_reused(self, *, everything: bool) -> None:
        """Look up the blobs of files that were taken as unchanged; those that are not indexed are `lost`."""
        if self._known.ready and (len(self._unchecked) >= CHECK_BATCH or (everything and self._unchecked)):
            ids, self._unchecked = self._unchecked, []
            self.lost.update(self._known.not_stored(BlobType.DATA, ids))

    # -- ending -----------------------------------------------------------------------------------

    def _settle_packs(self) -> None:
        for pack in self._uploader.finished():
            self.counts.bytes_added += self._known.stored(pack)
        self._known.flush_if_due()
        if self._known.ready and self._offered:
            self._store_trees()

    def _flush(self, word: str) -> None:
        """Have everybody store what is packed; index it. Raises Interrupted where that is asked for and one hangs."""
        self._flushed.clear()
        self._pool.broadcast((word,))
        patience = 0.0
        while len(self._flushed) < len(self._pool):
            self._listen(TICK)
            if self._stopping():
                now = time.monotonic()
                patience = patience or now + STOP_PATIENCE
                if now >= patience:
                    break  # it hangs, in a network mount that is gone perhaps: what the others have packed is kept
        self._trees.flush()
        self._uploader.wait()
        self._settle_packs()
        self._known.flush()
        stuck = set(range(len(self._pool))) - self._flushed
        if stuck:
            for number in stuck:
                os.kill(self._pool.pids[number], signal.SIGKILL)
            raise Interrupted(
                _STOPPED, hint=f"{_GOES_ON} (a helper was not done in time, so the last of it may be uploaded again)"
            )

    def abandon(self) -> None:
        """End the pass early: what is packed is stored and indexed, and nothing stays claimed."""
        self._abandoned = True
        self._known.drop_questions()
        self._flush("stop")
        self._known.drop_claims()

    def _heed(self) -> None:
        """End the pass where somebody wants that, or where the source broke off: what is packed is kept."""
        if self._stopping():
            self.abandon()
            raise Interrupted(_STOPPED, hint=_GOES_ON)
        if self._broken is not None:
            self.abandon()
            raise self._broken
