"""What the engine makes of a backup in shards: the same tree as in one piece, whatever the source does meanwhile."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from shared.errors import BackupError
from shared.repository.absent import DOOMED
from shared.repository.keptlock import KeptLock
from shared.repository.locks import REFRESH, STALE
from shared.repository.pack import BlobType
from tests.support.backups import Shop, write
from tests.support.compare import compare_trees
from tests.support.kinds import make_every_kind
from tests.support.shards import Sharded
from workers.backup.shards.plan import Plan
from workers.backup.shards.stands import Standing, rests_on


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Some folders of files."""
    made = Shop(str(tmp_path))
    for number in range(60):
        write(f"{made.source}/d{number % 5}/e{number % 3}/f{number}", os.urandom(1000 + 200 * number))
    return made


def same_tree(shop: Shop, result: dict[str, object], **selection: object) -> bool:
    """Whether the source's tree is that of a full backup of now in one piece."""
    alone = shop.backup(kind="full", **selection)  # type: ignore[arg-type]
    return shop.tree_of(str(result["tree"])) == shop.tree_of(alone.tree)


def test_every_kind_of_file_is_as_in_one_piece(shop: Shop) -> None:
    """Devices, links across shards, names of any bytes, attributes, holes: the same nodes, and restored alike."""
    make_every_kind(f"{shop.source}/kinds", sockets=False)
    os.link(f"{shop.source}/d0/e0/f0", f"{shop.source}/d1/linked")
    sharded = Sharded(shop)
    result = sharded.whole()
    plan = Plan.parse(sharded.plan)
    assert {number for cut in plan.cuts.values() for number in cut.buckets} >= set(range(4))
    assert same_tree(shop, result)
    assert compare_trees(shop.source, shop.restore(snapshot=str(result["snapshot"])), top=False) == []
    shop.check()


def test_an_incremental_one_reads_what_has_changed(shop: Shop) -> None:
    """Against the last snapshot, however that was made; and one in one piece goes on from one in shards."""
    first = shop.backup()
    write(f"{shop.source}/d1/e1/f1", b"changed")
    os.unlink(f"{shop.source}/d2/e2/f2")
    write(f"{shop.source}/new/file", b"new")
    result = Sharded(shop, 3).whole()
    assert (result["kind"], result["parent"]) == ("incremental", first.snapshot)
    assert [result[f"files_{what}"] for what in ("new", "changed", "unmodified", "gone")] == [1, 1, 58, 1]
    after = shop.backup()
    assert (after.parent, after.files_unmodified) == (result["snapshot"], 60)
    assert shop.tree_of(after.tree) == shop.tree_of(str(result["tree"]))


def test_it_is_cut_by_the_sizes_of_the_last_snapshot(shop: Shop) -> None:
    """Where there is none, by a listing, which says the same of files that have not changed."""
    write(f"{shop.source}/large/one", bytes(3 << 20))
    write(f"{shop.source}/large/two", bytes(2 << 20))
    by_listing = Plan.parse(Sharded(shop).cut())
    shop.backup()
    shutil.move(f"{shop.source}/large", f"{shop.base}/elsewhere")
    by_snapshot = Plan.parse(Sharded(shop).cut())
    assert by_snapshot.cuts == by_listing.cuts
    assert (by_listing.kind, by_snapshot.kind) == ("full", "incremental")
    assert os.fsencode(f"{shop.source}/large") in by_snapshot.cuts


def test_a_full_one_reads_every_byte(shop: Shop) -> None:
    """Each shard reads all of its part, though there is a snapshot."""
    shop.backup()
    result = Sharded(shop, kind="full").whole()
    assert (result["kind"], result["files_unmodified"]) == ("full", 60)
    assert result["bytes_read"] == result["bytes_processed"]


def test_what_is_left_out_is_left_out_of_each_shard(shop: Shop) -> None:
    """Patterns hold below the source's path, and not below what a shard begins with; markers count in what is cut."""
    write(f"{shop.source}/d3/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55")
    write(f"{shop.source}/d4/.nobackup")
    excludes = ["/d1/e1", "*7", "!/d0/**/f7"]
    rules = {"excludes": excludes, "exclude_caches": True, "exclude_if_present": [".nobackup"]}
    result = Sharded(shop, **rules).whole()
    assert same_tree(shop, result, **rules)
    assert set(shop.nodes(str(result["tree"]), f"{shop.source}/d4")) == {b".nobackup"}


def test_several_paths_one_of_them_a_file(shop: Shop, tmp_path: Path) -> None:
    """What lies above them is everybody's; a path that is not there is one problem."""
    write(tmp_path / "other" / "one", b"1")
    paths = [shop.source, str(tmp_path / "other" / "one"), str(tmp_path / "gone")]
    result = Sharded(shop, paths=paths).whole()
    assert (result["complete"], result["unreadable"], len(result["problems"])) == (False, 1, 1)
    assert set(shop.nodes(str(result["tree"]), str(tmp_path))) == {b"source", b"other"}
    assert set(shop.nodes(str(result["tree"]), str(tmp_path / "other"))) == {b"one"}


def test_what_comes_and_goes_between_plan_and_end(shop: Shop) -> None:
    """New names have their shard; of a directory that is cut and goes, what was read stays; what it became is there."""
    sharded = Sharded(shop)
    sharded.cut()
    write(f"{shop.source}/d0/new", b"new")
    write(f"{shop.source}/later/deep/file", b"later")
    shutil.rmtree(f"{shop.source}/d1")
    write(f"{shop.source}/d1", b"a file now")
    done = sharded.do([0, 1])
    shutil.rmtree(f"{shop.source}/d2")
    os.unlink(f"{shop.source}/d1")
    os.mkdir(f"{shop.source}/d1")
    result = sharded.step(done=[*done, *sharded.do([2, 3])])
    nodes = shop.nodes(str(result["tree"]), shop.source)
    assert {b"d0", b"d1", b"d3", b"d4", b"later"} <= set(nodes)
    assert nodes[b"d1"].type == "dir"
    assert f"{shop.source}/d2: no directory for 2 of 4 shards" in result["problems"]
    assert (result["complete"], result["unreadable"]) == (False, len(result["problems"]))
    assert set(shop.nodes(str(result["tree"]), f"{shop.source}/later/deep")) == {b"file"}
    shop.check()


def test_its_snapshot_began_with_its_first_shard(shop: Shop) -> None:
    """What changes after a shard has read it is read by the next incremental, whenever the others were done."""
    sharded = Sharded(shop)
    sharded.cut()
    done = sharded.do([0, 1, 2])
    before = time.time_ns()
    written = [f"{shop.source}/d{number % 5}/e{number % 3}/f{number}" for number in range(60)]
    for path in written:
        write(path, b"later", mtime=before)
    result = sharded.step(done=[*done, *sharded.do([3])])
    (snapshot,) = [one for one in shop.open().snapshots() if one.id == result["snapshot"]]
    assert (snapshot.began or 0) < before
    assert shop.backup().files_changed > 0
    assert same_tree(shop, Sharded(shop).whole())


def test_a_shard_is_not_done_by_other_rules_than_it_was_cut_by(shop: Shop) -> None:
    """The shard says so; and the run is cut anew where it is looked at under the new rules."""
    sharded = Sharded(shop)
    plan = sharded.cut()
    done = sharded.do()
    other = Sharded(shop, excludes=["*7"])
    other.run, other.plan = sharded.run, plan
    with pytest.raises(BackupError, match="differ from those that it was cut by"):
        other.step(2)
    said = other.step(done=done)
    assert said["cut"]["plan"] != plan
    assert said["cut"]["again"] == []


@pytest.mark.parametrize("what", ["doomed", "index"])
def test_what_is_gone_of_a_shard_is_found_before_the_end(shop: Shop, what: str) -> None:
    """A pack that was doomed, an index file that went: the shards that need it are named, and no others."""
    sharded = Sharded(shop)
    sharded.cut()
    done = sharded.do([0, 1, 2])
    before = shop.names("index")
    done += sharded.do([3])
    (index,) = shop.names("index") - before
    if what == "index":
        os.unlink(os.path.join(shop.repository, "index", index))
    else:
        for pack, _ in shop.open().load_index(index):
            shop.store().put(DOOMED + pack.hex(), b"{}")
    assert sharded.step(done=done)["cut"] == {"plan": sharded.plan, "again": [3]}
    done[3] = sharded.step(3)
    result = sharded.step(done=done)
    assert result["snapshot"]
    if what == "index":
        shop.check()


def test_shards_that_certainly_stand_are_not_walked(shop: Shop) -> None:
    """The index files of a shard's end are there, the same packs absent; what others have added since is no matter."""
    sharded = Sharded(shop)
    sharded.cut()
    done = sharded.do([0])[0] or {}
    store = shop.store()
    assert Standing(store, ()).holds(done)
    relied_on = min(shop.names("index"))
    shop.backup(source="another")
    assert Standing(store, ()).holds(done)
    assert not Standing(store, (b"\1" * 32,)).holds(done)
    store.delete(f"index/{relied_on}")
    assert not Standing(store, ()).holds(done)
    assert not Standing(store, ()).holds({"index": ""})
    assert rests_on(store, {"f" * 64}, ()) == {}


def test_a_run_that_was_committed_is_not_done_again(shop: Shop) -> None:
    """Killed after the snapshot: whoever looks at the run next finds it."""
    sharded = Sharded(shop)
    result = sharded.whole()
    again = sharded.step()
    assert (again["snapshot"], again["existed"]) == (result["snapshot"], True)
    assert shop.names("locks") == set()


def test_the_kept_lock_stands_from_the_first_shard_to_the_end(shop: Shop) -> None:
    """Written with the plan, refreshed by whoever works on a shard, gone with the snapshot; no prune passes it."""
    sharded = Sharded(shop)
    sharded.cut()
    (first,) = shop.names("locks")
    age(shop, first, REFRESH + 1)
    done = sharded.do()
    (second,) = shop.names("locks")
    assert second != first
    assert "already locked" in shop.restic("0.18", "prune", ok=(1, 11))
    sharded.step(done=done)
    assert shop.names("locks") == set()


def test_a_kept_lock_is_renewed_only_while_it_counts(shop: Shop) -> None:
    """A fresh one would hide that something may have been pruned meanwhile; and two who refresh at once do no harm."""
    repo = shop.open()
    lock = KeptLock(repo, "a" * 32)
    lock.renew()
    assert shop.names("locks") == set()
    lock.ensure()
    (name,) = shop.names("locks")
    lock.renew()
    assert shop.names("locks") == {name}
    age(shop, name, STALE - 30)
    lock.renew()
    assert shop.names("locks") == {name}
    KeptLock(repo, "a" * 32).ensure()
    KeptLock(repo, "b" * 32).ensure()
    assert len(shop.names("locks") - {name}) == 2
    lock.release()
    assert len(shop.names("locks")) == 1


def age(shop: Shop, lock: str, seconds: float) -> None:
    """Make a lock as old as that."""
    path = os.path.join(shop.repository, "locks", lock)
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_trees_alone_tell_what_a_shard_left_out(shop: Shop) -> None:
    """A shard's root is a whole tree of its part: with those of all others it has each file once."""
    sharded = Sharded(shop)
    sharded.cut()
    found: list[str] = []
    for done in sharded.do():
        assert done is not None
        listed = [(str(done["tree"]), shop.source)]
        while listed:
            tree, path = listed.pop()
            for name, node in shop.nodes(tree, path).items():
                below = os.path.join(path, os.fsdecode(name))
                if node.type == "dir":
                    listed.append((tree, below))
                else:
                    found.append(below)
    assert sorted(found) == sorted(os.path.join(at, name) for at, _, names in os.walk(shop.source) for name in names)
    assert {kind for kind, _ in shop.blobs()} == {BlobType.DATA, BlobType.TREE}
