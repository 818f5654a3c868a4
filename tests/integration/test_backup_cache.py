"""The local caches of a backup: deleted, damaged or absent, the snapshot is the same."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.support.backups import SECOND, Shop, write
from tests.support.compare import compare_trees
from workers.backup.engine import sources
from workers.backup.engine.treecache import load_head


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A source with a full and an incremental snapshot, and a change since."""
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)
    made = Shop(str(tmp_path))
    for number in range(40):
        write(f"{made.source}/d{number % 5}/s{number % 3}/f{number}", os.urandom(500))
    os.symlink("target", f"{made.source}/d1/link")
    made.backup(kind="full")
    write(f"{made.source}/d0/second", b"second")
    made.backup()
    write(f"{made.source}/d2/s1/third", b"third")
    return made


def trees(shop: Shop) -> Path:
    """Where the cache of trees lies."""
    (folder,) = Path(shop.cache, "trees").iterdir()
    return folder


def without_cache(shop: Shop) -> bytes:
    """The source's tree as a host makes it that has never seen it."""
    return shop.tree_of(shop.backup(kind="full", cache=f"{shop.base}/fresh-{os.urandom(4).hex()}").tree)


def test_a_cache_that_is_deleted_costs_nothing_but_time(shop: Shop) -> None:
    """The parent's trees are fetched from the repository: nothing is read that is unchanged, the tree is the same."""
    shutil.rmtree(shop.cache)
    done = shop.backup()
    assert (done.files_unmodified, done.bytes_read, done.complete) == (41, 5, True)
    assert shop.tree_of(done.tree) == without_cache(shop)


def test_a_second_host_makes_the_same_tree(shop: Shop) -> None:
    """Two hosts in turn, each with its own cache of an older snapshot: each goes on from the other's."""
    other = f"{shop.base}/other-host"
    first = shop.backup(cache=other)
    write(f"{shop.source}/d3/fourth", b"fourth")
    second = shop.backup()
    third = shop.backup(cache=other)
    assert (second.parent, third.parent) == (first.snapshot, second.snapshot)
    assert (second.bytes_read, third.bytes_read, third.files_unmodified) == (6, 0, 43)
    assert shop.tree_of(second.tree) == shop.tree_of(third.tree) == without_cache(shop)


@pytest.mark.parametrize("seed", range(6))
def test_any_damage_to_the_cache_of_trees_is_found(shop: Shop, seed: int) -> None:
    """Bytes changed anywhere in head and segments, cut, or grown: the tree is the one that is made without it."""
    rng = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201 -- what repeats a failure
    files = sorted(path for path in trees(shop).iterdir() if path.stat().st_size)
    for path in files if seed % 2 else [rng.choice(files)]:
        raw = bytearray(path.read_bytes())
        match seed % 3:
            case 0:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            case 1:
                del raw[rng.randrange(len(raw)) :]
            case _:
                at = rng.randrange(len(raw))
                raw[at : at + 50] = rng.randbytes(50)
        path.write_bytes(raw)
    done = shop.backup()
    assert (done.complete, done.problems) == (True, [])
    assert shop.tree_of(done.tree) == without_cache(shop)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_each_byte_of_a_small_cache_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bit of the head, one after the other: it is not believed."""
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)
    shop = Shop(str(tmp_path))
    write(f"{shop.source}/f", b"x")
    shop.backup()
    head = trees(shop) / "head"
    raw = head.read_bytes()
    assert load_head(str(head.parent)) is not None
    for at in range(len(raw)):
        torn = bytearray(raw)
        torn[at] ^= 1 << at % 8
        head.write_bytes(torn)
        assert load_head(str(head.parent)) is None, at
    for length in range(len(raw)):
        head.write_bytes(raw[:length])
        assert load_head(str(head.parent)) is None, length


def test_segments_that_are_gone_are_not_missed(shop: Shop) -> None:
    """The head stands, what it names does not."""
    for path in trees(shop).iterdir():
        if path.name != "head":
            path.unlink()
    done = shop.backup()
    assert (done.complete, shop.tree_of(done.tree)) == (True, without_cache(shop))


def test_a_cache_of_another_snapshot_is_not_believed(shop: Shop) -> None:
    """An old cache put back by a restore of the host's own disk: only the true parent counts."""
    old = f"{shop.base}/old-cache"
    shutil.copytree(shop.cache, old)
    newer = shop.backup()
    shutil.rmtree(shop.cache)
    shutil.copytree(old, shop.cache)
    done = shop.backup()
    assert (done.parent, done.bytes_read) == (newer.snapshot, 0)
    assert shop.tree_of(done.tree) == shop.tree_of(newer.tree)


def test_the_chain_of_segments_is_rewritten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many incrementals the cache holds one segment again, and nothing that is not named by its head."""
    shop.backup()
    counts = []
    for number in range(6):
        write(f"{shop.source}/d0/new{number}", b"%d" % number)
        shop.backup()
        head = load_head(str(trees(shop)))
        assert head is not None
        counts.append(len(head.segments))
        assert {path.name for path in trees(shop).iterdir()} == {"head", *head.segments}
    assert counts == sorted(counts)
    monkeypatch.setattr("workers.backup.engine.treecache.TreeWriter.wants_rewrite", lambda *_: True)
    write(f"{shop.source}/d0/last", b"last")
    done = shop.backup()
    head = load_head(str(trees(shop)))
    assert head is not None
    assert ([path.name for path in trees(shop).iterdir() if path.name != "head"], done.bytes_read) == (head.segments, 4)
    monkeypatch.undo()
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)
    assert (len(head.segments), shop.backup().bytes_read) == (1, 0)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_the_chain_is_bounded(shop: Shop) -> None:
    """In number and in bytes: beyond 64 segments, or twice what is needed and a MiB, it starts afresh."""
    from workers.backup.engine.treecache import TreeWriter

    folder = str(trees(shop))
    head = load_head(folder)
    assert head is not None
    assert not TreeWriter.wants_rewrite(folder, head)
    head.segments += head.segments[:1] * 64
    assert TreeWriter.wants_rewrite(folder, head)
    del head.segments[1:]
    with open(os.path.join(folder, head.segments[0]), "ab") as file:
        file.truncate(2 * head.live + (1 << 20) + 1)
    assert TreeWriter.wants_rewrite(folder, head)
