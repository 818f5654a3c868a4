"""What a prune counts as used, and what follows, against a plain model of it."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import HoldfastError
from shared.repository.pack import Blob, BlobType, from_records, pack_size
from tests.support.indexes import IndexSite, shrink
from workers.maintenance import used as used_module
from workers.maintenance.prune_plan import PackUse, Survey, make_plan, survey, used_parts
from workers.maintenance.used import Collector, UsedIds

Key = tuple[BlobType, bytes]


def name(text: str) -> bytes:
    """An id."""
    return hashlib.sha256(text.encode()).digest()


# A pack: its blobs by number (they may lie in several packs, or twice in one), how many index files list it, its state.
packs = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), min_size=1, max_size=8),
        st.integers(1, 2),
        st.sampled_from(["sound", "sound", "sound", "missing", "cut", "doomed", "quarantined"]),
    ),
    min_size=1,
    max_size=12,
)


class World:
    """An index, what lies at the site, what is used."""

    def __init__(self, made: list[tuple[list[int], int, str]], wanted: set[int], folder: str) -> None:
        self.site = IndexSite()
        self.blobs: dict[bytes, list[Blob]] = {}
        self.listed: dict[bytes, int] = {}
        self.marked: dict[bytes, int] = {}
        files: list[list[tuple[bytes, list[Blob]]]] = [[], []]
        for number, (contents, times, state) in enumerate(made):
            pack, blobs, offset = name(f"pack {number}"), [], 0
            for content in contents:
                blobs.append(Blob(name(f"blob {content}"), kind_of(content), offset, 40 + content, 0))
                offset += 40 + content
            self.blobs[pack] = blobs
            for file in files[:times]:
                file.append((pack, blobs))
            if state != "missing":
                self.listed[pack] = pack_size(blobs) - (state == "cut")
            if state in ("doomed", "quarantined"):
                self.marked[pack] = 1 if state == "doomed" else 2
        for number, listed in enumerate(files):
            self.site.put(f"file {number}", listed)
        self.collectors: list[Collector] = []  # whose files go with them
        self.used = UsedIds()
        self.used.trees = {name(f"blob {content}") for content in wanted if kind_of(content) is BlobType.TREE}
        for part in range(2):  # two helpers, that have met some of the same
            collector = Collector(folder)
            collector.add(name(f"blob {one}") for one in sorted(wanted)[part:] if kind_of(one) is BlobType.DATA)
            self.used.extend(collector.take())
            self.collectors.append(collector)
        self.wanted: set[Key] = {(kind_of(content), name(f"blob {content}")) for content in wanted}

    def keys(self, pack: bytes) -> list[Key]:
        """The blobs of a pack."""
        return [(blob.type, blob.id) for blob in self.blobs[pack]]

    def is_sound(self, pack: bytes) -> bool:
        """Whether it is there, whole as far as its size tells."""
        return self.listed.get(pack) == pack_size(self.blobs[pack])


def kind_of(content: int) -> BlobType:
    """Every fourth one is a tree."""
    return BlobType.TREE if content % 4 == 0 else BlobType.DATA


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(packs, st.sets(st.integers(0, 30)), st.integers(0, 100), st.booleans())
def test_nothing_that_is_used_leaves(
    made: list[tuple[list[int], int, str]], wanted: set[int], max_unused: int, small: bool
) -> None:
    """What is missing is said; else each used blob counts for one sound pack: it is kept there or copied from there."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if small:
            shrink(patch)
            patch.setattr(used_module, "_RUN", 3)
        world = World(made, wanted, folder)
        cache = world.site.open(f"{folder}/cache")
        found: Survey = cache.scan(lambda scan: survey(scan, world.used, world.listed, world.marked, lambda: None))
        there = {key for pack in world.blobs if world.is_sound(pack) for key in world.keys(pack)}
        assert set(found.missing) == world.wanted - there
        assert sum(pack.used for pack in found.packs.values()) == len(world.wanted & there)
        plan = make_plan(found.packs.values(), max_unused=max_unused, max_repack=0, max_indexes=100, max_blobs=10_000)
        copied = {pack.id for pack in plan.repack}
        parts = cache.scan(lambda scan: used_parts(scan, world.used, found, copied, lambda: None))
        cache.close()
        for collector in world.collectors:
            collector.close()
    assert all(world.is_sound(pack) and pack not in world.marked for pack in copied)
    new = Counter((BlobType(kind), one.id) for part in parts.values() for kind, records in part
                  for one in from_records(BlobType(kind), records))  # fmt: skip
    assert set(new.values()) <= {1}
    for pack, part in parts.items():
        assert sum(len(records) // 44 for _, records in part) == found.packs[pack].used
    leaving = {pack.id for pack in plan.leaving}
    kept = {key for pack in world.blobs if world.is_sound(pack) and pack not in leaving for key in world.keys(pack)}
    assert world.wanted & there <= kept | set(new)
    if max_unused == 0:
        unused = [pack for pack in found.packs.values() if pack.id not in leaving and pack.unused_bytes]
        assert all(pack.marked or not world.is_sound(pack.id) for pack in unused)


def pack(number: int, *, used: int, blobs: int = 10, indexes: int = 1, **more: int) -> PackUse:
    """A sound pack of blobs of 100 bytes."""
    files = [name(f"index {number} {one}") for one in range(indexes)]
    size = 141 * blobs + 36
    return PackUse(name(str(number)), size, files, sound=True, blobs=blobs, used=used, used_bytes=100 * used, **more)


def test_the_largest_gain_comes_first() -> None:
    """Packs are copied, the emptiest first, until few enough bytes are unused."""
    made = [pack(number, used=number) for number in range(11)]
    plan = make_plan(made, max_unused=20, max_repack=0, max_indexes=100, max_blobs=10_000)
    assert plan.unused == made[:1]
    assert plan.repack == made[1 : 1 + len(plan.repack)]
    left = [one for one in made if one not in plan.leaving]
    used = sum(one.used_bytes for one in made)
    assert sum(one.unused_bytes for one in left) <= 0.25 * used
    assert sum(one.unused_bytes for one in [*left, plan.repack[-1]]) > 0.25 * used
    assert make_plan(made, max_unused=100, max_repack=0, max_indexes=100, max_blobs=10_000).repack == []


def test_limits_leave_work_for_later() -> None:
    """Bytes and blobs that may be copied, one pack in any case; and index files that may be touched."""
    made = [pack(number, used=5, indexes=2) for number in range(6)]
    assert [
        len(make_plan(made, max_unused=0, max_repack=most, max_indexes=100, max_blobs=10_000).repack)
        for most in (1, 999, 1000)
    ] == [
        1,
        1,
        2,
    ]
    assert make_plan(made, max_unused=0, max_repack=1000, max_indexes=100, max_blobs=10_000).limited
    plan = make_plan(made, max_unused=0, max_repack=0, max_indexes=5, max_blobs=10_000)
    assert (len(plan.repack), plan.waits, plan.limited) == (2, True, False)
    for blobs, count in ((1, 1), (14, 2), (15, 3)):
        plan = make_plan(made, max_unused=0, max_repack=0, max_indexes=100, max_blobs=blobs)
        assert (len(plan.repack), plan.waits, plan.limited) == (count, True, False)


def test_what_index_files_do_not_agree_on_is_left_alone() -> None:
    """Used or not."""
    plan = make_plan(
        [pack(1, used=0, odd=1), pack(2, used=3, odd=1)], max_unused=0, max_repack=0, max_indexes=100, max_blobs=10_000
    )
    assert (plan.leaving, plan.needed) == ([], [])


def test_ids_that_can_not_be_read_back_are_no_empty_set(tmp_path: Path) -> None:
    """What is lost would pass for unused. And what is collected lies in no file that anybody would have to clean up."""
    collector = Collector(str(tmp_path))
    collector.add(name(str(number)) for number in range(50))
    ids = UsedIds()
    ids.extend(collector.take())
    assert set().union(*map(ids.data, range(256))) == {name(str(number)) for number in range(50)}
    assert list(tmp_path.iterdir()) == []
    ((path, starts),) = ids._runs
    ids._runs = [(path, [start + 1 for start in starts])]
    with pytest.raises(HoldfastError, match="are cut: expected"):
        ids.data(max(range(256), key=lambda first: starts[first + 1] > starts[first] and first))
    collector.close()
    with pytest.raises(HoldfastError, match="can't be read"):
        [ids.data(first) for first in range(256)]
    other = Collector(str(tmp_path / "no" / "such"))
    other.add([name("1")])
    with pytest.raises(HoldfastError, match="can't be kept"):
        other.take()
