"""Which segments stand for which index files: taking up, building, merging, discarding.

Invariant: each wanted index file is owned by exactly one open segment, and only records of owned
index files count. A segment says itself from which index files it was made, so there is no list
of segments that could be wrong: whatever files are found, a set that covers the wanted index files is
chosen, and what is not covered is built from the store. So each step can be the last one:

    build:  load -> write under a temporary name -> rename        a kill leaves a temporary file
    merge:  write -> rename -> delete the inputs                  a kill leaves inputs that nobody chooses
    sweep:  delete what was not chosen, and temporary files       under the lock only

Two processes may do all this at once; the lock only keeps them from doing it twice. A process that
does not get the lock takes up what the other one publishes, as long as it gets on, and else builds what it
lacks itself. Readers need no lock: an open segment outlives its name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence

from shared.repository.indexcache.folder import Folder, Lock
from shared.repository.indexcache.layout import Layout, Unusable
from shared.repository.indexcache.merge import FAN_IN, choose, merge, merged_layout
from shared.repository.indexcache.run import Run
from shared.repository.indexcache.segment import Corrupt, Segment
from shared.repository.pack import Blob
from shared.storage.api import MissingObject

Load = Callable[[str], Iterable[tuple[bytes, Sequence[Blob]]]]
Progress = Callable[[int, int], None]

STALL = 5.0  # seconds without a new segment after which a waiting process builds for itself
POLL = 0.05  # seconds between two looks while waiting
ATTEMPTS = 3  # rounds in which segments may turn out corrupt before the directory is given up


class Assembly:
    """The open segments of one cache, the largest first. Not for several threads at once."""

    def __init__(self, folder: Folder, key: bytes, load: Load, progress: Progress | None = None) -> None:
        self.segments: list[Segment] = []
        self._folder = folder
        self._key = key
        self._load = load
        self._progress = progress
        self._wanted: frozenset[bytes] = frozenset()
        self._useless: set[str] = set()  # files found at the last look that cover nothing
        self._detached = False  # whether new segments are kept in memory: the directory does not keep what is written
        self._discarded = 0

    @property
    def indexes(self) -> frozenset[bytes]:
        """The ids of the index files that count."""
        return self._wanted

    def settle(self, wanted: frozenset[bytes]) -> None:
        """Make these index files count and no others; one that is gone meanwhile is left out.

        Raises what loading an index file raises, but for MissingObject.
        """
        self._wanted = wanted
        self._discarded = 0
        self._detached = False
        self._settle_whole()

    def prepare(self, index: bytes, packs: Iterable[tuple[bytes, Sequence[Blob]]]) -> None:
        """Write a segment for an index file that is not wanted yet; safe beside another thread's use of the rest.

        Whoever settles next finds it like one of another process; a sweep before that only makes it work for nothing.
        """
        run = Run()
        run.add(index, packs)
        with contextlib.suppress(OSError):
            self._write(run.layout(self._key), run.write)

    def repair(self, corrupt: Segment) -> None:
        """Discard a segment and build anew what it stood for. Raises what `settle` raises."""
        self.discard(corrupt)
        self._settle_whole()

    def _settle_whole(self) -> None:
        try:
            while True:
                try:
                    self._settle()
                except Corrupt as corrupt:
                    self.discard(corrupt.segment)
                else:
                    return
        finally:
            # What was deleted since it was listed, or could not be loaded: nobody may think that it counts.
            self._wanted -= frozenset(self._missing())

    def discard(self, segment: Segment) -> None:
        """Give up a segment and delete its file."""
        self.segments = [kept for kept in self.segments if kept is not segment]
        segment.close()
        if segment.name:
            self._folder.remove(segment.name)
        self._discarded += 1
        self._detached = self._discarded >= ATTEMPTS

    def close(self) -> None:
        """Close all segments."""
        for segment in self.segments:
            segment.close()
        self.segments = []

    def _settle(self) -> None:
        self._adopt()
        if not self._missing() and not self._useless and not choose(self.segments):
            return  # a warm open: nothing was written, nothing locked
        with self._folder.lock() as lock:
            held = self._take(lock)
            self._build(merging=held)
            if held:
                self._merge()
                self._folder.sweep({segment.name for segment in self.segments})

    def _missing(self) -> list[bytes]:
        owned = frozenset().union(*(segment.owned for segment in self.segments))
        return sorted(self._wanted - owned)

    def _adopt(self) -> None:
        """Choose among the open segments and the files those that cover what is wanted, the largest first."""
        for _ in range(ATTEMPTS):
            if not self._look() or not self._missing():
                return  # else a merge took place between listing and opening: look again

    def _look(self) -> bool:
        """Open what is new and choose; True where a file vanished meanwhile."""
        known = {segment.name for segment in self.segments}
        candidates = list(self.segments)
        vanished = False
        for name in self._folder.segments():
            if name in known:
                continue
            try:
                candidates.append(Segment.open(self._folder.open(name), self._key, name))
            except FileNotFoundError:
                vanished = True
            except Unusable:
                self._folder.remove(name)
            except OSError:
                continue  # not readable: as if it were not there
        for segment in candidates:
            segment.assign(self._wanted)
        candidates.sort(key=lambda segment: (-segment.live_blobs, -len(segment.owned), segment.name))
        chosen: list[Segment] = []
        useless: set[str] = set()
        uncovered = set(self._wanted)
        for segment in candidates:
            if owned := segment.assign(uncovered):
                uncovered -= owned
                chosen.append(segment)
            else:
                segment.close()
                useless.add(segment.name)
        self.segments, self._useless = chosen, useless - {""}
        return vanished

    def _take(self, lock: Lock) -> bool:
        """Take the lock; where another has it, wait as long as it publishes what is missing here."""
        held = lock.take()
        if held or not lock.usable:
            if held:
                self._adopt()  # another may have built it all before it let go
            return held
        missing = self._missing()
        stalled = time.monotonic() + STALL
        while missing and time.monotonic() < stalled:
            time.sleep(POLL)
            held = lock.take()
            self._adopt()
            if held:
                break
            before, missing = len(missing), self._missing()
            if len(missing) < before:
                stalled = time.monotonic() + STALL
        return held

    def _build(self, *, merging: bool) -> None:
        """Load what is missing, a run of it in memory at a time."""
        missing = self._missing()
        run = Run()
        for done, index in enumerate(missing, 1):
            with contextlib.suppress(MissingObject):  # deleted since it was listed
                run.add(index, self._load(index.hex()))
            if run.full:
                self._add_run(run)
                run = Run()
                if merging and len(self.segments) >= FAN_IN:
                    self._merge()
            if self._progress:
                self._progress(done, len(missing))
        if run.sources:
            self._add_run(run)

    def _add_run(self, run: Run) -> None:
        layout = run.layout(self._key)
        try:
            segment = self._publish(layout, run.write)
        except OSError:  # full, read-only, or deleted at this moment: this process manages without
            segment = self._in_memory(layout, run.write)
        self.segments.append(segment)

    def _merge(self) -> None:
        while chosen := choose(self.segments):
            layout = merged_layout(self._key, chosen)
            try:
                merged = self._publish(layout, lambda write, layout: merge(write, layout, chosen))
            except OSError:
                return  # no space for a copy: more segments to ask are no harm
            self.segments = [segment for segment in self.segments if segment not in chosen]
            self.segments.insert(0, merged)
            for segment in chosen:
                segment.close()
                if segment.name:
                    self._folder.remove(segment.name)
        self.segments.sort(key=lambda segment: -segment.live_blobs)

    def _publish(self, layout: Layout, fill: Callable[[Callable[[bytes], object], Layout], None]) -> Segment:
        """Write a segment into the directory and open it. Raises OSError."""
        if self._detached:
            raise OSError("this directory does not keep what is written")
        name = self._write(layout, fill)
        try:
            return Segment.open(self._folder.open(name), self._key, name)
        except Unusable as error:
            self._folder.remove(name)
            raise OSError(f"{name}: {error}") from error

    def _write(self, layout: Layout, fill: Callable[[Callable[[bytes], object], Layout], None]) -> str:
        name, file = self._folder.create()
        with file:
            fill(file.write, layout)
            file.publish()
        return name

    def _in_memory(self, layout: Layout, fill: Callable[[Callable[[bytes], object], Layout], None]) -> Segment:
        """A segment that lives and dies with this process."""
        fd = os.memfd_create("holdfast-index")
        with open(fd, "wb", closefd=False) as file:
            fill(file.write, layout)
        return Segment.open(fd, self._key)
