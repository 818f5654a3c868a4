"""Somebody removes our lock, or index files, under a running backup: it stops in time, or stores anew what is gone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.repository.errors import Locked
from tests.support.attempts import QUICK, Bench, digest, make_source
from tests.support.zygote import Ended, Zygote

RUN = "cd" * 16


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """One engine at a time."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def bench(tmp_path: object) -> Bench:
    """An empty site and a source of its own."""
    return Bench(os.path.join(str(tmp_path), "bench"), make_source(os.path.join(str(tmp_path), "source"), big=5 << 20))


def _meanwhile(
    zygote: Zygote, bench: Bench, act: Callable[[], Any], *, prefix: str, at: int = 1, kind: str = "full", **more: Any
) -> Ended:
    """A backup that pauses at that operation while `act` is done."""
    operation_kind = "writes" if prefix.startswith("put") else "reads"
    trap = bench.trap(at=at, kind=operation_kind, prefix=prefix, when="pause")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(zygote.run, "backup", bench.spec(RUN, kind=kind), trap=trap, set_={**QUICK, **more})
        try:
            while not trap.paused:
                assert not running.done(), running.result()
                time.sleep(0.01)
            act()
        finally:
            trap.go_on()
        return running.result(60)


def _unlock(bench: Bench) -> None:
    bench.restic("unlock", "--remove-all")
    assert bench.names("locks") == set()


@pytest.mark.parametrize(
    ("prefix", "at"),
    [("put data/", 3), ("stat locks/", 1), ("list index/", 2)],
    ids=["while it uploads", "before the index", "before the snapshot"],
)
def test_a_lock_that_was_removed_stops_the_backup(bench: Bench, zygote: Zygote, prefix: str, at: int) -> None:
    """After stock `unlock --remove-all` a prune may run: nothing more is indexed or committed; the next works."""
    indexed: set[str] = set()

    def act() -> None:
        _unlock(bench)
        indexed.update(bench.names("index"))

    ended = _meanwhile(zygote, bench, act, prefix=prefix, at=at)
    assert ended.exit_code == Locked.exit_code
    assert "our own lock" in ended.error
    assert "was removed" in ended.error
    assert (bench.names("index"), bench.names("snapshots"), bench.names("locks")) == (indexed, set(), set())
    assert bench.names("holdfast/commits") == set()
    assert (ended.strays, ended.left) == (0, 0)
    bench.check()
    durable = bench.names("data")
    ended = zygote.run("backup", bench.spec(RUN), set_=QUICK)
    assert ended.error == ""
    assert bench.blobs(bench.names("data") - durable).keys() & bench.blobs(durable).keys() == set()
    bench.check()
    assert digest(bench.restore(ended.result["snapshot"])) == digest(bench.source)


def test_a_prune_under_a_removed_lock_costs_the_packs_and_no_more(bench: Bench, zygote: Zygote) -> None:
    """Unlocked and pruned in mid-run: all that was uploaded is gone, and the next attempt stores it again."""

    def act() -> None:
        _unlock(bench)
        bench.restic("prune")
        assert bench.names("data") == set()

    ended = _meanwhile(zygote, bench, act, prefix="put data/", at=6)
    assert ended.exit_code == Locked.exit_code
    ended = zygote.run("backup", bench.spec(RUN), set_=QUICK)
    assert ended.error == ""
    bench.check()
    assert digest(bench.restore(ended.result["snapshot"])) == digest(bench.source)


def _forget_and_prune(bench: Bench) -> None:
    """What a prune that respects no lock does to what no snapshot needs any more: here, to everything indexed."""
    gone = bench.indexed()
    for name in bench.names("snapshots"):
        os.unlink(os.path.join(bench.path, "snapshots", name))
    for name in bench.names("index"):
        os.unlink(os.path.join(bench.path, "index", name))
    for pack in gone:
        os.unlink(os.path.join(bench.path, "data", pack[:2], pack))


@pytest.mark.parametrize("cached", ["trees cached", "trees not cached"])
@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_what_is_pruned_under_a_running_backup_is_stored_anew(
    bench: Bench, zygote: Zygote, kind: str, cached: str
) -> None:
    """All that it has taken as stored goes away while it uploads, with the index files that list it.

    An incremental had trusted the unchanged files without reading them: now it reads them after all.
    """
    assert zygote.run("backup", bench.spec("before"), set_=QUICK).error == ""
    if cached == "trees not cached":
        shutil.rmtree(os.path.join(bench.cache, "trees"))
    with open(os.path.join(bench.source, "d3", "one more"), "wb") as file:
        file.write(os.urandom(100_000))
    ended = _meanwhile(zygote, bench, lambda: _forget_and_prune(bench), prefix="put data/", kind=kind)
    assert ended.error == ""
    assert ended.result["bytes_processed"] == sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, files in os.walk(bench.source) for name in files
    )
    bench.check()
    (snapshot,) = bench.snapshots(RUN)
    assert digest(bench.restore(snapshot.id)) == digest(bench.source)
    again = zygote.run("backup", bench.spec("after", kind="incremental"), set_=QUICK)
    assert (again.error, again.result["files_unmodified"], again.result["bytes_read"]) == ("", 243, 0)
    bench.check()


def test_an_incremental_trusts_what_is_unchanged(bench: Bench, zygote: Zygote) -> None:
    """What the test above is about: without a prune not a file is read but the new one."""
    assert zygote.run("backup", bench.spec("before"), set_=QUICK).error == ""
    with open(os.path.join(bench.source, "d3", "one more"), "wb") as file:
        file.write(os.urandom(100_000))
    ended = zygote.run("backup", bench.spec(RUN, kind="incremental"), set_=QUICK)
    assert (ended.result["files_unmodified"], ended.result["files_new"]) == (242, 1)
    assert ended.result["bytes_read"] == 100_000


def test_an_index_that_is_pruned_between_two_of_our_own_is_noticed(bench: Bench, zygote: Zygote) -> None:
    """A long run looks at the index now and then; what it had answered from files that went before counts no more."""
    assert zygote.run("backup", bench.spec("before"), set_=QUICK).error == ""
    make_source(os.path.join(bench.source, "new"), files=30, big=5 << 20, seed=9)
    often = {"workers.backup.engine.known:FLUSH_BYTES": 1, "workers.backup.engine.coordinator:TICK": 0}
    ended = _meanwhile(zygote, bench, lambda: _forget_and_prune(bench), prefix="put data/", **often)
    assert ended.error == ""
    assert len(bench.names("index")) > 1
    bench.check()
    (snapshot,) = bench.snapshots(RUN)
    assert digest(bench.restore(snapshot.id)) == digest(bench.source)


def test_an_exclusive_lock_keeps_a_backup_out(bench: Bench, zygote: Zygote) -> None:
    """Somebody prunes: the backup says who holds the lock, and puts nothing."""
    assert zygote.run("backup", bench.spec("before"), set_=QUICK).error == ""
    lock = bench.open().lock(holder="elsewhere/holdfast/prune", exclusive=True)
    lock.begin()
    there = bench.names("")
    ended = zygote.run("backup", bench.spec(RUN), set_=QUICK)
    assert ended.exit_code == Locked.exit_code
    assert "exclusive lock" in ended.error
    assert "elsewhere/holdfast/prune" in ended.error
    assert bench.names("") == there
    lock.release()
    assert zygote.run("backup", bench.spec(RUN), set_=QUICK).error == ""


def test_a_winner_whose_lock_was_removed_puts_no_snapshot(bench: Bench, zygote: Zygote) -> None:
    """Unlocked and pruned while it commits, so nothing of it is left: its snapshot would lack all it refers to."""

    def act() -> None:
        _unlock(bench)
        bench.restic("prune")
        assert (bench.names("data"), bench.names("index")) == (set(), set())

    ended = _meanwhile(zygote, bench, act, prefix="put_if_absent holdfast/commits/")
    assert ended.exit_code == Locked.exit_code
    assert bench.names("snapshots") == set()
    bench.check()
    ended = zygote.run("backup", bench.spec(RUN), set_=QUICK)
    assert ended.error == ""
    assert bench.names("snapshots") == {ended.result["snapshot"]}
    bench.check()
    assert digest(bench.restore(ended.result["snapshot"])) == digest(bench.source)
