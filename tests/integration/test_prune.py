"""What a prune gives back, what it leaves, and what it refuses: on real repositories, stock restic beside it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.errors import Interrupted
from shared.repository.absent import DOOMED, QUARANTINE
from shared.repository.errors import Damaged, Locked
from shared.repository.repository import pack_key
from shared.topology import StaleEpoch
from tests.support.backups import PASSWORD, REPOSITORY, Shop, write
from tests.support.restores import names_below, verify
from workers.backup.spec import SiteSpec
from workers.maintenance import prune_slice
from workers.maintenance.prune import run_prune
from workers.maintenance.prune_spec import PruneReport, PruneSpec

SMALL = 32 << 10  # bytes of a pack


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository."""
    return Shop(str(tmp_path))


def spec(shop: Shop, **more: Any) -> PruneSpec:
    """A prune that spares nothing."""
    base = PruneSpec(
        SiteSpec("a", shop.site),
        REPOSITORY,
        "d" * 32,
        [PASSWORD],
        max_unused=0,
        pack_size=SMALL,
        spare=0,
        pause=0,
        patience=0,
        helpers=2,
        cache_dir=shop.cache,
    )
    return replace(base, **more)


def prune(shop: Shop, guard: Callable[[], None] = lambda: None, **more: Any) -> PruneReport:
    """Run it."""
    return run_prune(spec(shop, **more), shop.events.append, guard)


def fill(shop: Shop, numbers: range, size: int = 4000) -> None:
    """Files that share nothing."""
    for number in numbers:
        write(f"{shop.source}/f{number}", random.Random(number).randbytes(size))


def forget(shop: Shop, snapshot: str) -> None:
    """As stock restic does it."""
    os.unlink(f"{shop.repository}/snapshots/{snapshot}")


def two_days(shop: Shop) -> str:
    """A day that is forgotten, and one that still needs a half of its files; the snapshot that stays."""
    fill(shop, range(40))
    first = shop.backup(pack_size=SMALL).snapshot
    for number in range(0, 40, 2):
        os.unlink(f"{shop.source}/f{number}")
    second = shop.backup(pack_size=SMALL).snapshot
    forget(shop, first)
    return second


def state(shop: Shop) -> list[str]:
    """All that lies at the site."""
    return names_below(shop.repository)


def size_of(shop: Shop) -> int:
    """The bytes of all packs."""
    return sum(map(os.path.getsize, shop.packs().values()))


def test_space_comes_back_in_two_steps(shop: Shop) -> None:
    """Packs are noted and leave the index; when the grace period is over they are deleted. Files stay the same."""
    snapshot = two_days(shop)
    before, packs = size_of(shop), set(shop.packs())
    first = prune(shop)
    assert (verify(shop).problems, verify(shop).notes) == ([], [])
    assert (first.packs, first.bytes) == (len(packs), before)
    assert (first.packs_deleted, packs - set(shop.packs())) == (0, set())
    assert first.packs_doomed == len(shop.names("holdfast/doomed")) > 0
    shop.check()
    waiting = prune(shop)
    assert (waiting.packs_deleted, waiting.packs_waiting) == (0, first.packs_doomed)
    second = prune(shop, grace=0)
    assert (second.packs_deleted, second.bytes_deleted) == (first.packs_doomed, first.bytes_doomed)
    assert (second.bytes_unused, shop.names("holdfast/doomed"), shop.names("locks")) == (0, set(), set())
    assert size_of(shop) < 0.6 * before
    shop.check("0.14")
    target = shop.restore(snapshot=snapshot)
    assert names_below(target) == names_below(shop.source)


def test_where_there_is_nothing_to_do_nothing_is_written(shop: Shop) -> None:
    """Not even an index file."""
    fill(shop, range(5))
    shop.backup()
    before = state(shop)
    report = prune(shop)
    assert (report.done, report.packs_doomed, report.bytes_unused, state(shop)) == (True, 0, 0, before)


def test_a_dry_run_says_what_would_be_done(shop: Shop) -> None:
    """With the same figures, and it changes nothing."""
    two_days(shop)
    before = state(shop)
    said = prune(shop, dry_run=True)
    assert state(shop) == before
    done = prune(shop)
    for name in ("packs", "bytes", "bytes_unused", "packs_doomed", "bytes_doomed", "packs_repacked", "bytes_repacked"):
        assert getattr(said, name) == getattr(done, name) > 0, name
    later = prune(shop, dry_run=True, grace=0)
    assert (later.packs_deleted, later.bytes_deleted) == (done.packs_doomed, done.bytes_doomed)
    assert prune(shop, dry_run=True).packs_waiting == done.packs_doomed


def test_an_empty_repository(shop: Shop) -> None:
    """No snapshot, no index, no pack."""
    assert prune(shop).packs == 0
    fill(shop, range(3))
    forget(shop, shop.backup().snapshot)
    assert prune(shop).packs_doomed == len(shop.packs()) > 0
    prune(shop, grace=0)
    assert (shop.packs(), shop.names("index")) == ({}, set())
    shop.check()


def test_a_doomed_pack_that_is_needed_again_is_saved(shop: Shop) -> None:
    """A snapshot that comes back (from another site, say) finds its packs indexed, and no longer noted."""
    fill(shop, range(20))
    snapshot = shop.backup(pack_size=SMALL).snapshot
    with open(f"{shop.repository}/snapshots/{snapshot}", "rb") as file:
        sealed = file.read()
    forget(shop, snapshot)
    doomed = prune(shop).packs_doomed
    write(f"{shop.repository}/snapshots/{snapshot}", sealed)
    report = prune(shop, grace=0)
    assert (report.packs_saved, report.packs_deleted, shop.names("holdfast/doomed")) == (doomed, 0, set())
    shop.check()
    assert names_below(shop.restore(snapshot=snapshot)) == names_below(shop.source)


def test_a_pack_that_an_index_lists_again_leaves_it_first(shop: Shop) -> None:
    """As stock `rebuild-index` does: it is deleted all the same, and no index lists what is not there."""
    two_days(shop)
    doomed = prune(shop).packs_doomed
    shop.restic("0.14", "rebuild-index")
    report = prune(shop, grace=0)
    assert (report.packs_deleted, report.packs_doomed) == (doomed, 0)
    shop.check()


def test_a_backup_takes_a_doomed_pack_for_absent(shop: Shop) -> None:
    """Its blobs are stored again, so that nothing new relies on what is to be deleted."""
    fill(shop, range(10))
    forget(shop, shop.backup().snapshot)
    prune(shop)
    shop.restic("0.14", "rebuild-index")
    again = shop.backup()
    assert again.packs_stored > 0
    report = prune(shop, grace=0)
    assert (report.packs_saved, report.packs_doomed) == (0, 0)
    shop.check()


def test_an_unlisted_pack_is_left_to_a_run_that_may_be_resumed(shop: Shop) -> None:
    """While it is young; then it is noted too."""
    fill(shop, range(5))
    shop.backup()
    lost = os.urandom(100)
    name = "ab" * 32
    shop.store().put(f"data/ab/{name}", lost)
    assert (prune(shop, spare=3600).packs_doomed, shop.names("holdfast/doomed")) == (0, set())
    assert (prune(shop).packs_doomed, shop.names("holdfast/doomed")) == (1, {name})
    assert prune(shop, grace=0).bytes_deleted == 100


def test_an_index_file_that_was_lost_is_made_good(shop: Shop) -> None:
    """What a snapshot needs and no index lists is looked for in packs that none lists."""
    fill(shop, range(10))
    snapshot = shop.backup(pack_size=SMALL).snapshot
    for name in shop.names("index"):
        os.unlink(f"{shop.repository}/index/{name}")
    report = prune(shop)
    assert (report.packs_saved, report.packs_doomed) == (len(shop.packs()), 0)
    shop.check()
    assert names_below(shop.restore(snapshot=snapshot)) == names_below(shop.source)


@pytest.mark.parametrize("how", ["missing", "cut", "snapshot", "tree"])
def test_what_is_damaged_is_not_pruned(shop: Shop, how: str) -> None:
    """A blob that is nowhere, a pack that is cut, a snapshot or a tree that can't be read: nothing is changed."""
    snapshot = two_days(shop)
    kind = {"tree": 1}.get(how, 0)
    needed = {name: pack.hex() for (type_, name), (pack, _) in shop.blobs().items() if type_ == kind}
    if how == "snapshot":
        write(f"{shop.repository}/snapshots/{snapshot}", b"garbage" * 20)
    else:
        (only,) = shop.open().snapshots()
        node = shop.nodes(only.tree, shop.source)[b"f1"]
        blob = node.content[0] if node.content and how != "tree" else shop.tree_of(only.tree)
        path = shop.packs()[needed[blob]]
        if how == "missing":
            os.unlink(path)
        else:
            os.chmod(path, 0o600)
            os.truncate(path, os.path.getsize(path) - 5)
    before = state(shop)
    with pytest.raises(Damaged, match="nothing was pruned"):
        prune(shop)
    assert state(shop) == before


def test_a_damaged_blob_keeps_its_pack(shop: Shop) -> None:
    """What does not verify is not copied: the old pack stays as it is, and is named."""
    two_days(shop)
    snapshot = next(shop.open().snapshots())
    node = shop.nodes(snapshot.tree, shop.source)[b"f1"]
    assert node.content
    pack, blob = shop.blobs()[0, node.content[0]]  # type: ignore[index]
    path = shop.packs()[pack.hex()]
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(blob.offset + 20)
        file.write(b"flipped")
    report = prune(shop)
    assert [note for note in report.notes if pack.hex() in note] == report.notes
    assert pack.hex() not in shop.names("holdfast/doomed")
    prune(shop, grace=0)
    assert pack.hex() in shop.packs()


def test_packs_in_quarantine(shop: Shop) -> None:
    """One that is needed stays, noted and listed as it is; one that is not goes, and its mark with it."""
    fill(shop, range(20))
    first = shop.backup(pack_size=SMALL).snapshot
    fill(shop, range(20, 24))
    shop.backup(pack_size=SMALL)
    for name in shop.packs():
        shop.store().put(QUARANTINE + name, b"")
    needed = set(shop.packs())
    assert prune(shop).packs_doomed == 0
    full = shop.backup(kind="full", pack_size=SMALL).snapshot  # stores all of it again
    for name in shop.names("snapshots") - {full}:
        forget(shop, name)
    assert first != full
    assert prune(shop).packs_doomed == len(needed)
    prune(shop, grace=0)
    assert (set(shop.packs()) & needed, shop.names("holdfast/quarantine")) == (set(), set())
    shop.check()


def test_a_blob_in_two_packs_counts_once(shop: Shop) -> None:
    """Of packs that hold the same, those that are not needed for anything else go."""
    fill(shop, range(20))
    shop.backup(pack_size=SMALL)
    once = size_of(shop)
    hidden = {name: f"{shop.repository}/index/{name}" for name in shop.names("index")}
    for name, path in hidden.items():
        os.rename(path, f"{shop.base}/{name}")
    shop.backup(kind="full", pack_size=SMALL)
    for name, path in hidden.items():
        os.rename(f"{shop.base}/{name}", path)
    assert size_of(shop) > 1.9 * once
    prune(shop)
    prune(shop, grace=0)
    assert size_of(shop) < 1.2 * once
    shop.check()


def test_little_that_is_unused_may_stay(shop: Shop) -> None:
    """Up to `max_unused` per cent; the packs with the largest gain come first."""
    two_days(shop)
    report = prune(shop, max_unused=20)
    assert 0 < report.packs_repacked < report.packs
    left = prune(shop, dry_run=True)
    assert 0 < left.bytes_unused <= 0.2 * left.bytes
    assert prune(shop, max_unused=100).packs_repacked == 0


def test_a_run_copies_no_more_than_it_may(shop: Shop) -> None:
    """But one pack at least; the next run goes on."""
    two_days(shop)
    report = prune(shop, max_repack=20_000)
    assert 0 < report.bytes_repacked <= SMALL
    assert not report.done
    runs = 1
    while not prune(shop, max_repack=20_000).done:
        runs += 1
        assert runs < 30
    assert prune(shop, dry_run=True).bytes_unused == 0


def test_work_is_done_in_turns(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into one turn under the lock waits for the next; in between others get theirs."""
    for day in range(8):
        fill(shop, range(day * 3, day * 3 + 3))
        shop.backup(pack_size=SMALL)
        for number in range(day * 3, day * 3 + 2):
            os.unlink(f"{shop.source}/f{number}")
    last = shop.backup(pack_size=SMALL).snapshot
    for name in shop.names("snapshots") - {last}:
        forget(shop, name)
    monkeypatch.setattr(prune_slice, "_MAX_INDEXES", 2)
    report = prune(shop)
    assert (report.slices > 3, report.done, report.packs_repacked > 3) == (True, True, True)
    shop.check()
    prune(shop, grace=0)
    assert prune(shop, dry_run=True).bytes_unused == 0
    shop.check()


def test_a_turn_that_is_over_leaves_the_rest_to_the_next(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock: no pack is begun after half of the time, none deleted after most of it."""
    two_days(shop)
    monkeypatch.setattr(prune_slice, "_REPACK_SHARE", -1.0)
    report = prune(shop)
    assert (report.packs_repacked, report.done) == (0, False)
    monkeypatch.undo()
    doomed = prune(shop).packs_doomed
    monkeypatch.setattr(prune_slice, "_DELETE_SHARE", -1.0)
    report = prune(shop, grace=0)
    assert (report.packs_deleted, report.done) == (0, False)
    monkeypatch.undo()
    assert prune(shop, grace=0).packs_deleted >= doomed > 0


def test_a_backup_that_holds_the_lock_is_waited_for(shop: Shop) -> None:
    """Not for ever."""
    two_days(shop)
    lock = shop.open().lock(holder="web1/holdfast/other")
    lock.begin()
    with pytest.raises(Locked, match="web1/holdfast/other"):
        prune(shop)
    pid = os.fork()  # no thread: what it holds open would be the prune's forked helpers', too
    if pid == 0:
        try:
            time.sleep(0.5)
            lock.release()
        finally:
            os._exit(0)
    assert prune(shop, patience=60).packs_doomed > 0
    os.waitpid(pid, 0)


@pytest.mark.parametrize("step", [1, 2])
def test_a_new_epoch_stops_it_before_the_next_delete(shop: Shop, step: int) -> None:
    """Whenever it comes: packs and index are there as they were, and the lock is given back."""
    two_days(shop)
    if step == 2:
        prune(shop)
    packs, index = set(shop.packs()), shop.names("index")
    stops = 0
    while True:
        looks = iter(range(stops))

        def guard(looks: Any = looks) -> None:
            if next(looks, None) is None:
                raise StaleEpoch("another epoch")

        try:
            prune(shop, guard, grace=1000 * (2 - step))
        except StaleEpoch:
            stops += 1
        else:
            break
        assert packs <= set(shop.packs())
        assert index <= shop.names("index")
        assert shop.names("locks") == set()
        shop.check()
    assert stops >= (2 if step == 2 else 4)
    assert (packs <= set(shop.packs()), index <= shop.names("index")) == (step == 1, step == 2)


def test_a_lock_that_was_removed_stops_it(shop: Shop) -> None:
    """Somebody unlocked the repository while it worked."""
    two_days(shop)
    prune(shop)
    before = set(shop.packs())

    def guard() -> None:
        for name in shop.names("locks"):
            os.unlink(f"{shop.repository}/locks/{name}")

    with pytest.raises(Locked, match="our own lock"):
        prune(shop, guard, grace=0)
    assert before - set(shop.packs()) == set()
    shop.check()


def test_it_stops_when_it_is_told_to(shop: Shop) -> None:
    """At the next step, its lock given back."""
    two_days(shop)
    looks: list[int] = []

    def guard() -> None:
        looks.append(1)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        prune(shop, guard)
    assert shop.names("locks") == set()
    shop.check()
    assert prune(shop).packs_doomed > 0


def test_packs_of_trees_and_data_that_stock_restic_wrote(shop: Shop) -> None:
    """A repository of restic's own, chunked and packed its way."""
    fill(shop, range(30), size=30_000)
    first = shop.restic_backup("0.18")["snapshot_id"]
    for number in range(20):
        os.unlink(f"{shop.source}/f{number}")
    shop.restic_backup("0.14")
    forget(shop, next(name for name in shop.names("snapshots") if name.startswith(first)))
    before = size_of(shop)
    assert prune(shop).packs_doomed > 0
    prune(shop, grace=0)
    assert size_of(shop) < 0.6 * before
    shop.check("0.14")
    target = f"{shop.base}/stock"
    shop.restic("0.18", "restore", "latest", "--target", target)
    assert names_below(target + shop.source) == names_below(shop.source)


def test_the_note_says_when_and_by_whom(shop: Shop) -> None:
    """Sealed, for people; its age is the object's own, by the store's clock."""
    fill(shop, range(2))
    forget(shop, shop.backup().snapshot)
    prune(shop)
    (name, *_) = sorted(shop.names("holdfast/doomed"))
    store = shop.store()
    note = orjson.loads(shop.open().open_small(store.get(DOOMED + name)))
    assert (note["pack"], note["by"], note["time"][:2]) == (name, "d" * 32, "20")
    assert store.stat(pack_key(bytes.fromhex(name))).size > 0
