"""The reaper on a real ledger and a real repository: rings, gives up, and removes the locks of the dead alone."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from scheduler import reaper
from scheduler.reaper import Unlocker, reap
from scheduler.tick import tick
from shared.ledger.ledger import Ledger
from shared.ledger.model import ATTEMPTS, Evidence, RunKind, RunState, Word
from shared.repository.committed import COMMITS
from shared.repository.locks import read_locks
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, encode_snapshot, make_tags
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, own_ledger

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all tests of this module."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as (ledger, _):
        yield ledger


@pytest.fixture
def ledger(shared_ledger: Ledger) -> Ledger:
    """An empty ledger."""
    shared_ledger.client.flushall()
    return shared_ledger.realm("")


@pytest.fixture
def small(tmp_path: object) -> SmallFleet:
    """A fleet whose one source has a repository."""
    return SmallFleet(str(tmp_path))


def create(small: SmallFleet) -> Repository:
    """The source's repository, empty."""
    fleet = small.fleet
    return Repository.create(
        fleet.open_site("a").below("repos/web1"),
        repository_id="web1",
        fleet_secret=fleet.secret.read(),
        recovery_password=fleet.recovery_password.read("recovery password").decode(),
    )


def lock(small: SmallFleet, repository: Repository, holder: str, *, age: float) -> str:
    """A lock of `holder` that was written `age` seconds ago; its id."""
    before = set(locks(repository))
    repository.lock(holder=holder).begin()
    (lock_id,) = set(locks(repository)) - before
    path = os.path.join(small.directory, "site", "repos", "web1", "locks", lock_id)
    then = os.stat(path).st_mtime - age
    os.utime(path, (then, then))
    return lock_id


def commit(repository: Repository, run_id: str) -> str:
    """A full backup of the run, as far as its commit and its snapshot; the snapshot's id."""
    tags = make_tags(
        source="web1", run=run_id, kind="full", slot=a_run().slot, last_full="", unreadable=0, began=1, more=[]
    )
    sealed = repository.seal_small(encode_snapshot(Snapshot(time=1, tree=bytes(32), paths=[b"/x"], tags=tags)))
    name = hashlib.sha256(sealed).hexdigest()
    repository.store.put(f"{COMMITS}{run_id}", sealed)
    repository.store.put(f"snapshots/{name}", sealed)
    return name


def locks(repository: Repository) -> list[str]:
    """The ids of all locks."""
    store = repository.store
    return sorted(lock.id for lock in read_locks(store, repository.load, now=store.clock()))


def dead(small: SmallFleet, ledger: Ledger, kind: RunKind = RunKind.FULL) -> str:
    """The id of a run whose worker has just been found dead, and the run rung again."""
    request = a_run(kind=kind)
    ledger.open(request)
    assert ledger.claim(request.id, "dead:1").lease is not None
    ledger.client.hset(ledger.keys.run(request.id), "lease", 0)
    ledger.client.zadd(ledger.keys.open, {request.id: 0})
    rung: list[tuple[str, str]] = []
    assert reap(small.fleet, ledger.reap(), rung.extend) == ([request.id], [])
    assert rung == [(request.id, request.queue)]
    return request.id


def test_the_lock_of_a_fenced_run_is_removed_and_no_other(ledger: Ledger, small: SmallFleet) -> None:
    """Not another run's, not a person's, and not that of the next attempt at the same run, which is already there."""
    repository = create(small)
    run_id = dead(small, ledger)
    gone = lock(small, repository, f"web1/holdfast/{run_id}", age=10)
    kept = [
        lock(small, repository, f"web1/holdfast/{'ab' * 16}", age=10),
        lock(small, repository, "web1", age=10),
        lock(small, repository, f"web2/holdfast/{run_id}", age=0),
    ]
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    assert locks(repository) == sorted(kept)
    assert gone not in kept
    assert ledger.fenced() == []


def test_the_lock_of_an_engine_that_was_killed_goes_and_no_other_processs(ledger: Ledger, small: SmallFleet) -> None:
    """Its supervisor lives and says which process it was. However young the lock is, it goes, and that one alone."""
    repository = create(small)
    request = a_run()
    ledger.open(request)
    gone = lock(small, repository, f"web1/holdfast/{request.id}", age=0)
    (found,) = read_locks(repository.store, repository.load, now=repository.store.clock())
    ledger.lock_left(request.id, found.pid + 1)  # of a process that had none
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    assert locks(repository) == [gone]
    ledger.lock_left(request.id, found.pid)
    unlock(ledger)
    unlock.wait(20)
    assert locks(repository) == []
    assert ledger.fenced() == []


def test_a_site_that_is_away_is_tried_again_and_holds_nothing_up(
    ledger: Ledger, small: SmallFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence stays noted until the lock is gone; between two tries the site is left alone."""
    repository = create(small)
    run_id = dead(small, ledger)
    lock(small, repository, f"web1/holdfast/{run_id}", age=10)
    site = os.path.join(small.directory, "site")
    shutil.move(site, site + "-away")
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    shutil.move(site + "-away", site)
    unlock(ledger)
    unlock.wait(20)
    assert len(ledger.fenced()) == len(locks(repository)) == 1
    monkeypatch.setattr(reaper, "AGAIN", 0.0)
    unlock(ledger)
    unlock.wait(20)
    assert (ledger.fenced(), locks(repository)) == ([], [])


@pytest.mark.parametrize("end", ["cancelled", "given up"])
@pytest.mark.parametrize("there", [True, False])
def test_a_run_whose_snapshot_stands_is_not_called_cancelled_or_failed(
    ledger: Ledger, small: SmallFleet, end: str, there: bool
) -> None:
    """Its worker died between the snapshot and telling so; then a person ended it, or it had died too often."""
    repository = create(small)
    run_id = dead(small, ledger)
    assert ledger.claim(run_id, "dead:2").lease is not None
    snapshot = commit(repository, run_id) if there else ""
    ledger.client.hset(ledger.keys.run(run_id), mapping={"lease": 0, "deaths": 4})
    ledger.client.zadd(ledger.keys.open, {run_id: 0})
    if end == "cancelled":
        assert ledger.cancel(run_id, "anna") is Word.CANCELLED
    else:
        assert [run.id for run in ledger.reap()] == [run_id]
    before = ledger.get(run_id)
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    run = ledger.get(run_id)
    assert run is not None
    assert ledger.fenced() == []
    if there:
        assert (run.state, run.error, run.exit_code) == (RunState.SUCCEEDED, "", 0)
        assert (run.result["snapshot"], run.result["site"]) == (snapshot, "a")
        assert ledger.evidence("web1", "a") == Evidence(run.request.slot, run.request.slot)
    else:
        assert run == before
        assert ledger.evidence("web1", "a") is None


@pytest.mark.parametrize("end", ["while it waits", "by its worker", "as it is given back"])
def test_a_snapshot_of_an_earlier_attempt_is_found_after_its_lock_was_removed(
    ledger: Ledger, small: SmallFleet, end: str
) -> None:
    """The dead one's lock is dealt with; only then somebody cancels the run, which waits for its second attempt."""
    repository = create(small)
    run_id = dead(small, ledger)
    snapshot = commit(repository, run_id)
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    assert ledger.fenced() == []
    if end == "while it waits":
        assert ledger.cancel(run_id, "anna") is Word.CANCELLED
    else:
        lease = ledger.claim(run_id, "new:1").lease
        assert lease is not None
        assert ledger.cancel(run_id, "anna") is Word.ASKED
        if end == "by its worker":
            assert ledger.finish(lease, RunState.CANCELLED, error="cancelled by anna", exit_code=130) is Word.FINISHED
        else:
            assert ledger.release(lease) is Word.CANCELLED
    unlock(ledger)
    unlock.wait(20)
    run = ledger.get(run_id)
    assert run is not None
    assert ledger.fenced() == []
    assert (run.state, run.result["snapshot"]) == (RunState.SUCCEEDED, snapshot)


@pytest.mark.parametrize("why", ["no repository", "no backup", "no such source", "gone", "too old"])
def test_a_fence_that_left_no_lock_is_forgotten(ledger: Ledger, small: SmallFleet, why: str) -> None:
    """Nothing is kept for ever because of what no longer exists, or counts no more."""
    run_id = dead(small, ledger, RunKind.VERIFY if why == "no backup" else RunKind.FULL)
    if why == "no such source":
        ledger.client.hset(ledger.keys.run(run_id), "source", "retired")
    if why == "gone":
        ledger.client.delete(ledger.keys.run(run_id))
    if why == "too old":
        ledger.client.zadd(ledger.keys.fenced, {run_id: 1})
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    assert ledger.fenced() == []


def test_the_exclusive_lock_of_a_dead_forget_is_removed(ledger: Ledger, small: SmallFleet) -> None:
    """Else backups would wait for half an hour; no run's snapshot is looked for."""
    repository = create(small)
    run_id = dead(small, ledger, RunKind.FORGET)
    lock(small, repository, f"backup2/holdfast/{run_id}", age=10)
    unlock = Unlocker(small.fleet)
    unlock(ledger)
    unlock.wait(20)
    assert (locks(repository), ledger.fenced()) == ([], [])


def test_a_tick_reaps_unlocks_and_tells_what_it_gave_up(ledger: Ledger, small: SmallFleet) -> None:
    """A run that has died five times is not rung again, and its slot waits."""
    repository = create(small)
    run_id = dead(small, ledger)
    ledger.client.hset(ledger.keys.run(run_id), "deaths", ATTEMPTS - 1)
    lock(small, repository, f"web1/holdfast/{run_id}", age=10)
    assert ledger.claim(run_id, "dead:2").lease is not None
    ledger.client.hset(ledger.keys.run(run_id), "lease", 0)
    ledger.client.zadd(ledger.keys.open, {run_id: 0})
    known = Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z")
    unlock = Unlocker(small.fleet)
    rung: list[tuple[str, str]] = []
    ticked = tick(small.fleet, ledger, rung.extend, lambda *_: known, NOON, unlock=unlock)
    unlock.wait(20)
    assert (ticked.rung_again, ticked.given_up, rung) == ([], [run_id], [])
    run = ledger.get(run_id)
    assert run is not None
    assert (run.state, run.error) == (
        RunState.FAILED,
        "given up after 5 attempts; the last: its worker stopped answering",
    )
    assert locks(repository) == []
