"""Plans of shards: whatever the source is like, each path there may be lies in one shard, and shards weigh alike."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.backup.shards.plan import ALL, CUTS, GRAIN, Folder, Plan, bucket_of, buckets_for, make_plan
from workers.backup.shards.weigh import Seen, weigh

names = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and b"\0" not in name)
counts = st.integers(2, 64)


def tree(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """A directory: names to sizes of files, or to directories."""
    return st.dictionaries(names, leaves, max_size=6)


sources = st.dictionaries(
    st.sampled_from([b"/", b"/srv", b"/home/a", b"/home/b", b"/data-\xff"]),
    tree(st.recursive(st.integers(0, 1 << 40), tree, max_leaves=30)),
    min_size=1,
).map(lambda tops: {b"/": tops[b"/"]} if b"/" in tops else tops)


def weighed(source: dict[bytes, object], count: int) -> dict[bytes, Folder]:
    """The source as it is weighed for `count` shards."""

    def look(_: bytes, note: object) -> Seen:
        listed = note.items() if isinstance(note, dict) else ()
        return Seen(
            [(name, size) for name, size in listed if isinstance(size, int)],
            [(name, below) for name, below in listed if isinstance(below, dict)],
        )

    return weigh(source, look, buckets_for(count), lambda: None)


def owners(plan: Plan, path: bytes) -> set[int]:
    """The shards that come to a path: they have to look at each name above it."""
    found = set(range(plan.count))
    at = path
    while at != b"/":
        above, name = os.path.split(at)
        found = {number for number in found if plan.is_mine(number, above, name)}
        at = above
    return found


def walk(path: bytes, folder: object) -> list[tuple[bytes, bool]]:
    """All paths below, and whether each is a directory."""
    if not isinstance(folder, dict):
        return []
    listed = [(os.path.join(path, name), isinstance(below, dict)) for name, below in folder.items()]
    return listed + [one for name, below in folder.items() for one in walk(os.path.join(path, name), below)]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(sources, counts, st.lists(names, max_size=4))
def test_each_path_lies_in_one_shard_and_each_cut_directory_in_all(
    source: dict[bytes, object], count: int, later: list[bytes]
) -> None:
    """Also a path that was not there when the plan was made, in a directory that is cut or in one that is not."""
    plan = make_plan(weighed(source, count), count, kind="full", selection="s")
    for top, folder in source.items():
        for path, is_folder in [(top, True), *walk(top, folder)]:
            cut = path in plan.cuts
            assert len(owners(plan, path)) == (count if cut else 1)
            for name in later if is_folder else ():
                new = os.path.join(path, name)
                assert len(owners(plan, new)) == 1 or new in plan.cuts
    for path, cut in plan.cuts.items():
        for name, number in cut.named.items():
            below = os.path.join(path, name)
            assert (number == ALL) == (below in plan.cuts)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(sources, counts)
def test_a_plan_reads_as_it_was_written(source: dict[bytes, object], count: int) -> None:
    """Over the ledger and the pipe, whatever the names are; and the same source gives the same plan."""
    plan = make_plan(weighed(source, count), count, kind="incremental", selection="abc")
    again = Plan.parse(plan.to_text())
    assert again == plan
    assert again.digest == make_plan(weighed(source, count), count, kind="incremental", selection="abc").digest
    assert plan.to_text().isascii()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 1000), min_size=200, max_size=400), st.integers(2, 16), st.integers(0, 3))
def test_shards_weigh_alike_where_the_source_can_be_cut(sizes: list[int], count: int, depth: int) -> None:
    """Many files, none of them large: the heaviest shard has at most a grain or two more than the lightest."""
    folder: dict[bytes, object] = {}
    for number, size in enumerate(sizes):
        at = folder
        for level in range(depth):
            at = at.setdefault(b"%d" % (number // (7 ** (level + 1)) % 7), {})  # type: ignore[assignment]
        at[b"f%d" % number] = size << 20
    tops = weighed({b"/srv": folder}, count)
    plan = make_plan(tops, count, kind="full", selection="s")
    loads = [0] * count
    for path, is_folder in walk(b"/srv", folder):
        if not is_folder:
            name = os.path.basename(path)
            (number,) = owners(plan, path)
            loads[number] += sizes[int(name[1:])] << 20
    total = sum(loads)
    # What lies in a directory's bucket is not cut further: with few files to a bucket some are twice the average.
    assert max(loads) <= total / count + 3 * total / (count * GRAIN) + (1000 << 20)


def test_a_plan_is_bounded_however_large_the_source() -> None:
    """A hundred thousand directories: few are cut, and few stand by name."""
    folder = {b"d%d" % number: {b"f": 1 << 20} for number in range(100_000)}
    tops = weighed({b"/home": {b"x": {}, **folder}}, 8)
    plan = make_plan(tops, 8, kind="full", selection="s")
    assert len(plan.cuts) <= CUTS + 2
    assert sum(len(cut.named) for cut in plan.cuts.values()) <= 8 * GRAIN + 2
    assert len(plan.to_text()) < 4096


def test_buckets_are_the_same_everywhere() -> None:
    """Machines of several releases share the shards of a run: what falls where must not change."""
    assert [bucket_of(name, 16) for name in (b"a", b"b", b"passwd", b"\xff")] == [3, 9, 4, 0]
