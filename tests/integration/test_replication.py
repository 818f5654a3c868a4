"""Snapshots of one site at another: what is brought over, what is not, and what is said of what can't be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.repository.errors import Locked, WrongPassword
from shared.repository.keyring import add_key, read_keys, remove_key
from shared.repository.keys import machine_password
from shared.repository.repository import Repository
from shared.retention import Rules
from shared.storage.api import Denied
from shared.storage.directory import DirectoryStore
from tests.support.attempts import MACHINE, QUICK, RECOVERY, REPOSITORY, Bench
from tests.support.prunes import back_up, change_source, contents, forget, prune_spec
from tests.support.replicas import objects, other, replicate
from tests.support.zygote import Zygote
from workers.replication.target import AnotherRepository


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at these locks."""
    monkeypatch.setattr("shared.repository.locks.WAIT", 0.0)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where backups and prunes run."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Bench:
    """Four days of a source."""
    base = str(tmp_path_factory.mktemp("start"))
    bench = Bench(os.path.join(base, "bench"), os.path.join(base, "source"))
    for day in (1, 2, 3, 4):
        back_up(bench, zygote, day)
    return bench


@pytest.fixture
def bench(start: Bench, tmp_path: Path) -> Bench:
    """A copy of it, to be changed."""
    return start.copy(str(tmp_path / "bench"))


@pytest.fixture
def target(bench: Bench) -> Bench:
    """An empty site."""
    return other(bench)


def leave_tombstone(bench: Bench, name: str) -> str:
    """As a forget does; its path."""
    place = os.path.join(bench.path, "holdfast", "forgotten")
    os.makedirs(place, exist_ok=True)
    path = os.path.join(place, name)
    Path(path).write_bytes(b"sealed")
    return path


def forget_on_purpose(bench: Bench, name: str) -> None:
    """Tombstone first."""
    leave_tombstone(bench, name)
    forget(bench, name)


def pack_path(bench: Bench, name: str) -> str:
    """Where a pack lies."""
    return os.path.join(bench.path, "data", name[:2], name)


def test_every_snapshot_arrives_whole(bench: Bench, target: Bench) -> None:
    """Stock restic finds no error there, and restores from each snapshot what it restores from the first site."""
    report = replicate(bench, target)
    assert (report.created, report.owed, report.snapshots, report.pending, report.errors) == (True, 4, 4, 0, 0)
    assert report.packs == len(target.names("data")) > 4
    target.check()
    target.check(version="0.14")
    assert contents(target) == contents(bench)
    assert target.names("locks") == bench.names("locks") == set()
    assert target.names("keys") == bench.names("keys")
    assert target.names("index").isdisjoint(bench.names("index"))
    assert target.names("holdfast") == {"status"}  # commits stay where they are


def test_done_again_nothing_is_written(bench: Bench, target: Bench) -> None:
    """Nor is a lock taken."""
    replicate(bench, target)
    before = objects(target)
    stamp = os.stat(target.path).st_mtime_ns
    report = replicate(bench, target)
    assert (report.owed, report.snapshots, report.packs, report.index_files) == (0, 0, 0, 0)
    assert objects(target) == before
    assert os.stat(target.path).st_mtime_ns == stamp


def test_a_new_snapshot_brings_only_what_is_new(bench: Bench, target: Bench, zygote: Zygote) -> None:
    """Its own packs, and one index file."""
    replicate(bench, target)
    before = bench.names("data")
    snapshot = back_up(bench, zygote, 5)
    report = replicate(bench, target)
    assert (report.snapshots, report.index_files) == (1, 1)
    assert report.packs <= len(bench.names("data") - before)
    assert snapshot in target.names("snapshots")
    target.check()
    assert contents(target)[snapshot] == contents(bench)[snapshot]


def test_a_dry_run_says_what_is_owed(bench: Bench, target: Bench) -> None:
    """And makes nothing."""
    report = replicate(bench, target, dry_run=True)
    assert (report.owed, report.pending, report.snapshots) == (4, 4, 0)
    assert not os.path.exists(target.path)


def test_a_hundred_reconciles_with_a_site_that_keeps_less_copy_nothing(bench: Bench, target: Bench) -> None:
    """The newest two are kept there; what they forget by their own rules never comes back."""
    rules = Rules(last=2)
    report = replicate(bench, target, rules=rules)
    assert (report.owed, report.snapshots) == (2, 2)
    newest = {one.id for one in sorted(bench.snapshots(), key=lambda one: one.time)[-2:]}
    assert target.names("snapshots") == newest
    target.check()
    before = objects(target)
    for _ in range(100):
        report = replicate(bench, target, rules=rules)
        assert (report.owed, report.packs) == (0, 0)
    assert objects(target) == before


@pytest.mark.parametrize("at", ["origin", "target"])
def test_what_was_forgotten_at_either_end_stays_forgotten(bench: Bench, target: Bench, at: str) -> None:
    """Its tombstone is enough."""
    replicate(bench, target)
    gone = min(target.snapshots(), key=lambda one: one.time).id
    forget(target, gone)
    tombstone = leave_tombstone(bench if at == "origin" else target, gone)
    assert replicate(bench, target).owed == 0
    os.unlink(tombstone)
    assert replicate(bench, target).snapshots == 1  # nothing said that it was on purpose


def test_sites_whose_own_prunes_made_them_differ(bench: Bench, target: Bench, zygote: Zygote) -> None:
    """Each has repacked for itself, so hardly a pack is at both: what is new arrives, and both are whole."""
    replicate(bench, target)
    first, second, *_ = sorted(bench.snapshots(), key=lambda one: one.time)
    forget(bench, first.id)
    forget(target, second.id)
    for place in (bench, target):
        for _ in range(2):
            spec = prune_spec(place, grace=0)
            assert zygote.run("prune", spec, set_=QUICK).error == ""
    assert bench.names("data") != target.names("data")
    snapshot = back_up(bench, zygote, 6)
    report = replicate(bench, target)
    assert (report.errors, snapshot in target.names("snapshots")) == (0, True)
    for place in (bench, target):
        place.check()
    assert contents(target)[snapshot] == contents(bench)[snapshot]
    assert second.id in target.names("snapshots")  # it had no tombstone


def test_doomed_packs_count_as_absent_at_the_target_and_are_read_at_the_origin(
    bench: Bench, target: Bench, zygote: Zygote
) -> None:
    """What is needed of them is listed again there before the snapshot arrives; the prune that follows keeps it."""
    replicate(bench, target)
    gone = max(target.snapshots(), key=lambda one: one.time).id
    forget(target, gone)
    assert zygote.run("prune", prune_spec(target), set_=QUICK).error == ""
    doomed = target.names("holdfast/doomed")
    assert doomed
    report = replicate(bench, target)
    assert (report.snapshots, report.packs_there > 0) == (1, True)
    target.check()
    assert zygote.run("prune", prune_spec(target, grace=0), set_=QUICK).error == ""
    target.check()
    assert contents(target) == contents(bench)


def test_a_damaged_pack_is_named_and_holds_up_no_other_snapshot(bench: Bench, target: Bench, zygote: Zygote) -> None:
    """It is not put. The one that needs it waits; the others arrive, whole; mended, it arrives too."""
    before = bench.names("data")
    newest = back_up(bench, zygote, 5)
    name = min(bench.names("data") - before)
    path = Path(pack_path(bench, name))
    content = path.read_bytes()
    path.unlink()  # a hard link to the start's
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    report = replicate(bench, target)
    assert (report.snapshots, report.pending, report.exit_code) == (4, 1, 24)
    (problem,) = report.problems
    assert newest in problem["object"]
    assert name in problem["message"]
    assert name not in target.names("data")
    assert newest not in target.names("snapshots")
    target.check()
    path.chmod(0o600)
    path.write_bytes(content)
    report = replicate(bench, target)
    assert (report.snapshots, report.pending, report.exit_code) == (1, 0, 0)
    target.check()
    assert contents(target) == contents(bench)


def test_a_pack_that_is_missing_is_named(bench: Bench, target: Bench) -> None:
    """Where all snapshots need it none arrives, and nothing is left that stock restic would find wrong."""
    for name in bench.names("data"):
        os.unlink(pack_path(bench, name))
    report = replicate(bench, target)
    assert (report.snapshots, report.pending, report.errors) == (0, 4, 4)
    assert all("is missing" in one["message"] for one in report.problems)
    target.check()


def test_what_another_pack_holds_too_is_taken_from_there(bench: Bench, target: Bench, zygote: Zygote) -> None:
    """A full backup has stored anew what a lost pack held."""
    name = min(bench.names("data"))
    os.unlink(pack_path(bench, name))
    change_source(bench.source, 7)
    full = bench.spec("f" * 32, kind="full")
    assert zygote.run("backup", full, set_=QUICK).error == ""
    report = replicate(bench, target, rules=Rules(last=1))
    assert (report.snapshots, report.errors) == (1, 0)
    target.check()


def test_a_damaged_snapshot_is_named(bench: Bench, target: Bench) -> None:
    """The others arrive."""
    one = min(bench.names("snapshots"))
    path = Path(bench.path, "snapshots", one)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"?")
    report = replicate(bench, target)
    assert (report.snapshots, report.errors) == (3, 1)
    assert one in report.problems[0]["object"]
    target.check()


def test_another_repository_of_that_name_is_refused(bench: Bench, target: Bench) -> None:
    """Its config is what it was."""
    fleet = b"another fleet's secret, 32 bytes"
    store = DirectoryStore(target.site).below(f"repos/{REPOSITORY}")
    Repository.create(store, repository_id=REPOSITORY, fleet_secret=fleet, recovery_password="theirs")
    before = objects(target)
    with pytest.raises(WrongPassword, match="opens with no password"):
        replicate(bench, target)
    theirs = machine_password(fleet, REPOSITORY)
    with pytest.raises(AnotherRepository, match="has another repository"):
        replicate(bench, target, passwords=[MACHINE, theirs])
    assert objects(target) == before


def test_a_pack_that_lies_there_in_another_size_is_copied_again(bench: Bench, target: Bench) -> None:
    """Nobody knows who has cut it."""
    os.makedirs(target.site, exist_ok=True)
    name = min(bench.names("data"))
    path = pack_path(target, name)
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"cut")
    report = replicate(bench, target)
    assert report.errors == 0
    target.check()


def test_a_prune_under_way_is_waited_for(bench: Bench, target: Bench) -> None:
    """Its lock is exclusive: nothing is written beside it."""
    replicate(bench, target, rules=Rules(last=1))
    lock = target.open().lock(holder="somebody/holdfast/prune", exclusive=True)
    lock.begin()
    before = target.names("data")
    with pytest.raises(Locked, match="is locked"):
        replicate(bench, target)
    assert target.names("data") == before
    lock.release()
    assert replicate(bench, target).snapshots == 3


def test_a_site_that_comes_back_gives_what_it_alone_has(bench: Bench, target: Bench, zygote: Zygote) -> None:
    """And then gets what it missed; what was forgotten here in the meantime does not come back with it."""
    replicate(bench, target)
    only_there = {back_up(bench, zygote, 5)}  # then the site is gone, and the other takes its place
    gone = min(target.snapshots(), key=lambda one: one.time).id
    forget_on_purpose(target, gone)
    new = back_up(target, zygote, 6)
    seen = replicate(target, bench, both_ways=True, dry_run=True)
    assert set(seen.returned) == only_there
    report = replicate(target, bench, both_ways=True)
    assert (set(report.returned), report.snapshots, report.errors) == (only_there, 1, 0)
    assert target.names("snapshots") == bench.names("snapshots") - {gone}
    assert {*only_there, new} < target.names("snapshots")
    target.check()
    there, here = contents(bench), contents(target)
    assert here == {name: there[name] for name in here}
    again = replicate(target, bench, both_ways=True)
    assert (again.returned, again.owed) == ([], 0)


def test_a_site_that_comes_back_empty_is_filled(bench: Bench, target: Bench) -> None:
    """It has nothing that could be asked for."""
    report = replicate(bench, target, both_ways=True)
    assert (report.created, report.returned, report.snapshots) == (True, [], 4)


def test_passwords_follow(bench: Bench, target: Bench) -> None:
    """One that was added opens the other site, too; one that was removed opens it no more, nor comes back."""
    replicate(bench, target)
    here, there = DirectoryStore(bench.path), DirectoryStore(target.path)
    key = Repository.open(here, MACHINE).key
    added = add_key(here, key, "a new password")
    assert replicate(bench, target).keys == 1
    assert Repository.open(there, "a new password").key == key
    remove_key(here, added, keep=[MACHINE, RECOVERY])
    assert replicate(bench, target).keys == 1
    with pytest.raises(WrongPassword):
        Repository.open(there, "a new password")
    assert replicate(target, bench).keys == 0
    assert replicate(bench, target, dry_run=True).keys == 0


def test_no_removal_takes_the_last_key_that_is_in_use(bench: Bench, target: Bench) -> None:
    """It was the last one here: at the other site it stays, and that is said."""
    replicate(bench, target)
    here = DirectoryStore(bench.path)
    machine = next(one for one in read_keys(here) if one.opens(MACHINE))
    remove_key(here, machine.id, keep=[RECOVERY])
    report = replicate(bench, target)
    assert report.keys == 0
    assert [note for note in report.notes if note.startswith(f"key {machine.id[:8]} stays")]
    assert Repository.open(DirectoryStore(target.path), MACHINE)


def test_key_files_that_may_not_be_written_hold_up_no_snapshot(
    bench: Bench, target: Bench, zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and the snapshots arrive."""
    replicate(bench, target)
    here = DirectoryStore(bench.path)
    add_key(here, Repository.open(here, MACHINE).key, "a new password")
    snapshot = back_up(bench, zygote, 5)
    shipped = DirectoryStore.put

    def put(store: DirectoryStore, key: str, *rest: Any, **more: Any) -> None:
        if key.startswith("keys/"):
            raise Denied("site b: denied: put keys/")
        shipped(store, key, *rest, **more)

    monkeypatch.setattr(DirectoryStore, "put", put)
    report = replicate(bench, target)
    assert (report.snapshots, report.keys, report.errors) == (1, 0, 0)
    assert [note for note in report.notes if note.startswith("key files do not follow to b: site b: denied")]
    assert snapshot in target.names("snapshots")
