"""One run, one snapshot per site (DESIGN.md, truth 4): whoever else works on it, and whenever one dies."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.attempts import QUICK, Bench, digest, make_source
from tests.support.killing_store import READS, WRITES, operations
from tests.support.zygote import Ended, Zygote

RUN = "ab" * 16


@pytest.fixture(scope="module")
def zygotes() -> Iterator[tuple[Zygote, Zygote]]:
    """Two engines can run at once."""
    with Zygote() as one, Zygote() as two:
        yield one, two


@pytest.fixture
def bench(tmp_path: object) -> Bench:
    """An empty site and a source of its own."""
    return Bench(os.path.join(str(tmp_path), "bench"), make_source(os.path.join(str(tmp_path), "source"), big=5 << 20))


def _at_once(zygotes: tuple[Zygote, Zygote], *specs: dict[str, object], apart: float = 0.0) -> list[Ended]:
    def one(number: int) -> Ended:
        time.sleep(number * apart)
        return zygotes[number].run("backup", specs[number], set_=QUICK)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(len(specs))))


def _hold_to_one(bench: Bench, *results: Ended) -> None:
    assert [ended.error for ended in results] == [""] * len(results)
    assert [(ended.strays, ended.left) for ended in results] == [(0, 0)] * len(results)
    (snapshot,) = bench.snapshots(RUN)
    assert {ended.result["snapshot"] for ended in results} == {snapshot.id}
    assert bench.names("snapshots") == {snapshot.id}
    assert bench.names("holdfast/commits") == {RUN}
    assert bench.journaled() == set()
    bench.check()
    assert digest(bench.restore(snapshot.id)) == digest(bench.source)


@pytest.mark.parametrize("caches", ["one host", "two hosts"])
@pytest.mark.parametrize("apart", [0.0, 0.05, 0.15])
def test_two_engines_at_once(
    bench: Bench, zygotes: tuple[Zygote, Zygote], tmp_path: object, caches: str, apart: float
) -> None:
    """From nothing: both create, both upload, both commit; both name the same snapshot at the end."""
    other = bench.cache if caches == "one host" else os.path.join(str(tmp_path), "other-cache")
    results = _at_once(zygotes, bench.spec(RUN), bench.spec(RUN, cache_dir=other), apart=apart)
    _hold_to_one(bench, *results)
    after = zygotes[0].run("backup", bench.spec("later", kind="incremental"), set_=QUICK)
    assert after.error == ""
    assert after.result["files_new"] == 0
    bench.check()


def test_a_run_that_comes_again_puts_nothing(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """A slot's run has the same id after a wipe of Redis: here it finds its snapshot, also without any cache."""
    first = zygotes[0].run("backup", bench.spec(RUN), set_=QUICK)
    shutil.rmtree(bench.cache)
    trap = bench.trap()
    again = zygotes[0].run("backup", bench.spec(RUN), trap=trap, set_=QUICK)
    assert again.result["existed"]
    assert operations(trap.record, WRITES) == []
    _hold_to_one(bench, first, again)


def _kill_after_commit(bench: Bench, zygote: Zygote) -> bytes:
    """The winner dies between commit and snapshot; its commit's bytes."""
    assert zygote.run("backup", bench.spec(RUN), trap=bench.trap(at=1, prefix="put snapshots/"), set_=QUICK).killed
    assert bench.names("snapshots") == set()
    with open(os.path.join(bench.path, "holdfast", "commits", RUN), "rb") as file:
        return file.read()


def _change(bench: Bench) -> None:
    with open(os.path.join(bench.source, "later"), "w") as file:
        file.write("the winner did not see this\n")


def test_the_winners_snapshot_is_put_without_reading_the_source(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """All it refers to is there, so its own bytes become the snapshot: not a file of the source is opened again."""
    was = digest(bench.source)
    sealed = _kill_after_commit(bench, zygotes[0])
    moved = bench.source + "-moved"
    os.rename(bench.source, moved)
    os.mkdir(bench.source)  # empty: whoever read it would commit that
    ended = zygotes[0].run("backup", bench.spec(RUN), set_=QUICK)
    assert ended.error == ""
    (name,) = bench.names("snapshots")
    assert ended.result["snapshot"] == name
    with open(os.path.join(bench.path, "snapshots", name), "rb") as file:
        assert file.read() == sealed
    bench.check()
    assert digest(bench.restore(name)) == was


@pytest.mark.parametrize("version", ["0.18", "0.14"])
@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_the_winners_packs_were_pruned(bench: Bench, zygotes: tuple[Zygote, Zygote], version: str, kind: str) -> None:
    """Stock prune sees packs that no snapshot needs. The next attempt replaces the commit with what it stores anew."""
    sealed = _kill_after_commit(bench, zygotes[0])
    bench.restic("unlock", "--remove-all", version=version)
    bench.restic("prune", version=version)
    assert bench.names("data") == set()
    _change(bench)  # what is the same would make the winner's commit whole again, and that would do as well
    ended = zygotes[0].run("backup", bench.spec(RUN, kind=kind), set_=QUICK)
    _hold_to_one(bench, ended)
    with open(os.path.join(bench.path, "holdfast", "commits", RUN), "rb") as file:
        assert file.read() != sealed


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_the_winners_packs_were_pruned_in_part(bench: Bench, zygotes: tuple[Zygote, Zygote], kind: str) -> None:
    """Some of its content an older snapshot needs, so that prune keeps and repacks; the rest is stored anew."""
    everything = bench.source
    bench.source = os.path.join(everything, "d3")
    assert zygotes[0].run("backup", bench.spec("older"), set_=QUICK).error == ""
    bench.source = everything
    trap = bench.trap(at=1, prefix="put snapshots/")
    assert zygotes[0].run("backup", bench.spec(RUN), trap=trap, set_=QUICK).killed
    bench.restic("unlock", "--remove-all")
    bench.restic("prune")
    ended = zygotes[0].run("backup", bench.spec(RUN, kind=kind), set_=QUICK)
    assert ended.error == ""
    bench.check()
    assert len(bench.names("snapshots")) == 2
    assert digest(bench.restore(ended.result["snapshot"])) == digest(everything)


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_a_pack_of_the_winner_is_missing_though_indexed(
    bench: Bench, zygotes: tuple[Zygote, Zygote], kind: str
) -> None:
    """The listing is compared before a commit is believed; what is missing is stored anew, by an incremental too."""
    _kill_after_commit(bench, zygotes[0])
    pack = max(bench.names("data"), key=lambda name: os.path.getsize(os.path.join(bench.path, "data", name[:2], name)))
    os.unlink(os.path.join(bench.path, "data", pack[:2], pack))
    ended = zygotes[0].run("backup", bench.spec(RUN, kind=kind), set_=QUICK)
    assert ended.error == ""
    (snapshot,) = bench.snapshots(RUN)
    assert digest(bench.restore(snapshot.id)) == digest(bench.source)


def test_a_forgotten_run_stays_forgotten(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """Its snapshot's tombstone says that it was removed on purpose: no attempt brings it back."""
    first = zygotes[0].run("backup", bench.spec(RUN), set_=QUICK)
    snapshot = first.result["snapshot"]
    os.makedirs(os.path.join(bench.path, "holdfast", "forgotten"))
    with open(os.path.join(bench.path, "holdfast", "forgotten", snapshot), "w"):
        pass
    os.unlink(os.path.join(bench.path, "snapshots", snapshot))
    trap = bench.trap()
    again = zygotes[0].run("backup", bench.spec(RUN), trap=trap, set_=QUICK)
    assert (again.error, again.result["snapshot"], again.result["superseded"]) == ("", snapshot, True)
    assert bench.names("snapshots") == set()
    assert operations(trap.record, WRITES) == []


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_killed_while_the_commit_is_replaced(bench: Bench, zygotes: tuple[Zygote, Zygote], when: str) -> None:
    """The swap has happened or it has not; either way the third attempt ends with one whole snapshot."""
    _kill_after_commit(bench, zygotes[0])
    bench.restic("unlock", "--remove-all")
    bench.restic("prune")
    _change(bench)
    trap = bench.trap(at=1, prefix="compare_and_swap", when=when)
    assert zygotes[0].run("backup", bench.spec(RUN), trap=trap, set_=QUICK).killed
    bench.check()
    _hold_to_one(bench, zygotes[0].run("backup", bench.spec(RUN), set_=QUICK))


def test_two_engines_replace_a_commit_that_cant_be_read(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """Damage in `holdfast/commits` costs nothing but the reading of the source; one of two replaces it."""
    _kill_after_commit(bench, zygotes[0])
    path = os.path.join(bench.path, "holdfast", "commits", RUN)
    os.chmod(path, 0o600)
    with open(path, "wb") as file:
        file.write(b"no commit at all" * 10)
    _hold_to_one(bench, *_at_once(zygotes, bench.spec(RUN), bench.spec(RUN)))


def test_an_engine_overtaken_after_its_pass_takes_the_winners_snapshot(
    bench: Bench, zygotes: tuple[Zygote, Zygote]
) -> None:
    """It pauses right before its commit; another does the whole run; then its own commit is refused: all is well."""
    trap = bench.trap(at=1, prefix="put_if_absent holdfast/commits/", when="pause")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(zygotes[0].run, "backup", bench.spec(RUN), trap=trap, set_=QUICK)
        while not trap.paused:
            time.sleep(0.01)
        try:
            quick = zygotes[1].run("backup", bench.spec(RUN), set_=QUICK)
        finally:
            trap.go_on()
        _hold_to_one(bench, quick, slow.result(60))


def test_a_winner_that_dies_is_finished_by_one_that_had_read_all_too(
    bench: Bench, zygotes: tuple[Zygote, Zygote]
) -> None:
    """It pauses before its commit; another commits and dies; it then finds that commit whole and puts its bytes."""
    trap = bench.trap(at=1, prefix="put_if_absent holdfast/commits/", when="pause")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(zygotes[0].run, "backup", bench.spec(RUN), trap=trap, set_=QUICK)
        while not trap.paused:
            time.sleep(0.01)
        try:
            sealed = _kill_after_commit(bench, zygotes[1])
        finally:
            trap.go_on()
        ended = slow.result(60)
    _hold_to_one(bench, ended)
    with open(os.path.join(bench.path, "snapshots", ended.result["snapshot"]), "rb") as file:
        assert file.read() == sealed
    assert "list data/" in operations(trap.record, READS)
