"""The index cache against a dictionary, under random histories of index files and of accidents."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.repository.indexcache import IndexCache
from shared.repository.pack import Blob, BlobType
from tests.support.indexes import IndexSite, Packs, assert_true, name, shrink

# Few ids, so that packs share blobs and index files share packs; some differ only in their last byte.
IDS = [name(str(number)) for number in range(12)]
IDS += [bytes(31) + bytes((number,)) for number in range(4)] + [b"\xff" * 31 + bytes((number,)) for number in range(4)]
PACKS = [name(f"pack {number}") for number in range(12)]

number = st.integers(0, (1 << 32) - 1)
place = st.integers(0, 1 << 16)
blob = st.builds(Blob, st.sampled_from(IDS), st.sampled_from(BlobType), number, number, number)
index_file = st.lists(st.tuples(st.sampled_from(PACKS), st.lists(blob, max_size=6)), max_size=5)


class CacheMachine(RuleBasedStateMachine):
    """What a site and a disk can do to a cache, and after each step all answers compared with the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        shrink(self.patch)
        # Names and nonces that are the same each time, so that a failure can be repeated.
        numbers = itertools.count()
        self.patch.setattr(os, "urandom", lambda size: next(numbers).to_bytes(size, "big"))
        self.directory = tempfile.mkdtemp()
        self.site = IndexSite()
        self.count = 0
        self.cache: IndexCache = self.site.open(self.directory)
        self.absent: frozenset[bytes] = frozenset()

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.cache.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.patch.undo()

    def segment(self, which: int) -> list[Path]:
        """One of the files that are not empty, if there is any."""
        paths = sorted(path for path in Path(self.directory).rglob("*.segment") if path.stat().st_size)
        return paths[which % len(paths) :][:1] if paths else []

    @rule(packs=index_file)
    def add(self, packs: Packs) -> None:
        """Somebody writes an index file, and the cache is refreshed."""
        self.count += 1
        self.site.put(str(self.count), packs)
        self.cache.refresh()

    @rule(files=st.lists(index_file, min_size=3, max_size=9))
    def add_many(self, files: list[Packs]) -> None:
        """Many index files come at once."""
        for packs in files:
            self.count += 1
            self.site.put(str(self.count), packs)
        self.cache.refresh()

    @precondition(lambda self: self.site.files)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """Prune takes some index files away, and the cache is refreshed."""
        for index in data.draw(st.sets(st.sampled_from(sorted(self.site.files)), min_size=1)):
            del self.site.files[index]
        self.cache.refresh()

    @rule()
    def reopen(self) -> None:
        """The process ends, another one opens the cache."""
        self.cache.close()
        self.cache = self.site.open(self.directory)

    @rule()
    def other_process(self) -> None:
        """Another process opens the cache, and closes it again."""
        self.site.open(self.directory).close()

    @rule(packs=st.frozensets(st.sampled_from(PACKS)))
    def lose_packs(self, packs: frozenset[bytes]) -> None:
        """These packs count as absent from here on."""
        self.absent = packs

    @rule(which=place, at=place, change=st.integers(1, 255))
    def flip(self, which: int, at: int, change: int) -> None:
        """A byte of a file changes."""
        for path in self.segment(which):
            whole = bytearray(path.read_bytes())
            whole[at % len(whole)] ^= change
            path.write_bytes(whole)

    @rule(which=place, at=place)
    def cut(self, which: int, at: int) -> None:
        """A file loses its end."""
        for path in self.segment(which):
            whole = path.read_bytes()
            path.write_bytes(whole[: at % len(whole)])

    @rule(which=place)
    def delete(self, which: int) -> None:
        """A file is deleted."""
        for path in self.segment(which):
            path.unlink()

    @rule()
    def delete_all(self) -> None:
        """The whole directory is deleted."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @invariant()
    def true(self) -> None:
        """Every answer is that of the dictionary."""
        assert_true(self.cache, self.site, also=IDS, absent=self.absent)


CacheMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow]
)


class TestCache(CacheMachine.TestCase):  # type: ignore[misc,valid-type]  # hypothesis makes the class
    """Whatever happens to index files and to the cache's own, its answers are those of the index files."""
