"""The scheduler's keeping of locks, on a real ledger and a real repository: while shards wait, and not for longer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.keeper import EVERY, LockKeeper
from scheduler.reaper import Unlocker
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunRequest, RunState, shard_run_id
from shared.repository.keptlock import KeptLock
from shared.repository.locks import REFRESH, read_locks
from shared.repository.repository import Repository
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, claimed, expire, own_ledger


class Scene:
    """A run that was cut in one shard, and its kept lock in a repository."""

    def __init__(self, base: str, ledger: Ledger) -> None:
        self.small = SmallFleet(base)
        self.ledger = ledger
        fleet = self.small.fleet
        self.repository = Repository.create(
            fleet.open_site("a").below("repos/web1"),
            repository_id="web1",
            fleet_secret=fleet.secret.read(),
            recovery_password=fleet.recovery_password.read("recovery password").decode(),
        )
        self.keeper = LockKeeper(fleet)
        self.run = a_run()
        shard = shard_run_id(self.run.id, "p", 0)
        self.shard = RunRequest(shard, RunKind.SHARD, "web1", queue="backup", parent=self.run.id)
        ledger.open(self.run)
        ledger.cut(claimed(ledger, self.run.id), [self.shard])
        KeptLock(self.repository, self.run.id).ensure()

    @property
    def locks(self) -> list[str]:
        """The holders of all locks."""
        store = self.repository.store
        return [lock.hostname for lock in read_locks(store, self.repository.load, now=store.clock())]

    def ids(self) -> set[str]:
        """The ids of all locks."""
        return set(os.listdir(self.folder))

    @property
    def folder(self) -> str:
        """Where locks lie."""
        return os.path.join(self.small.directory, "site", "repos", "web1", "locks")

    def age(self, seconds: float) -> None:
        """Make all locks as old as that."""
        then = time.time() - seconds
        for name in self.ids():
            os.utime(os.path.join(self.folder, name), (then, then))

    def look(self) -> None:
        """A look of the scheduler at what it is time for."""
        self.keeper(self.ledger)
        self.keeper.wait(20)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A ledger of its own."""
    with own_ledger(str(tmp_path / "valkey")) as (ledger, _):
        (tmp_path / "fleet").mkdir()
        yield Scene(str(tmp_path / "fleet"), ledger)


def again(scene: Scene) -> None:
    """A minute later."""
    (score,) = [score for _, score in scene.ledger.client.zrange(scene.ledger.keys.cut, 0, -1, withscores=True)]
    assert 0 < score / 1000 - time.time() <= EVERY
    scene.ledger.client.zadd(scene.ledger.keys.cut, {scene.run.id: 0})


def test_a_lock_is_refreshed_while_no_worker_takes_a_shard(scene: Scene) -> None:
    """Each minute it is looked at; each five it is written anew."""
    first = scene.ids()
    scene.look()
    assert scene.ids() == first
    again(scene)
    scene.age(REFRESH + 1)
    scene.look()
    assert len(scene.ids()) == 1
    assert scene.ids() != first
    again(scene)


def test_a_lock_goes_with_its_run(scene: Scene) -> None:
    """Cancelled while it waited: nobody else is there to remove it."""
    scene.ledger.cancel(scene.run.id, "anna")
    scene.look()
    assert scene.locks == []
    assert scene.ledger.client.exists(scene.ledger.keys.cut) == 0


def test_a_lock_that_is_gone_is_not_written_again(scene: Scene) -> None:
    """Somebody unlocked it: something may have been pruned meanwhile, and whoever finishes looks."""
    KeptLock(scene.repository, scene.run.id).release()
    scene.look()
    assert scene.locks == []


def test_the_lock_of_a_dead_worker_goes_and_the_kept_one_stays(scene: Scene) -> None:
    """Both bear the run's id; whoever finished the run was killed, and has left his own."""
    scene.ledger.finish(claimed(scene.ledger, scene.shard.id), RunState.SUCCEEDED)
    claimed(scene.ledger, scene.run.id, "dead:1")
    scene.repository.lock(holder=f"w/holdfast/{scene.run.id}").begin()
    scene.age(10)
    expire(scene.ledger, scene.run.id)
    scene.ledger.reap()
    unlocker = Unlocker(scene.small.fleet)
    unlocker(scene.ledger)
    unlocker.wait(20)
    assert scene.locks == [f"shards/holdfast/{scene.run.id}/shards"]
    scene.look()
    assert len(scene.locks) == 1


def test_a_site_that_is_away_is_asked_again(scene: Scene) -> None:
    """The lock stays where it is, and it is looked at again within a minute."""
    os.rename(os.path.join(scene.small.directory, "site"), os.path.join(scene.small.directory, "away"))
    scene.look()
    again(scene)
    os.rename(os.path.join(scene.small.directory, "away"), os.path.join(scene.small.directory, "site"))
    scene.age(REFRESH + 1)
    scene.look()
    assert len(scene.locks) == 1


def test_a_run_that_is_forgotten_is_looked_at_no_more(scene: Scene) -> None:
    """As its source is no longer configured, or its record has expired."""
    scene.ledger.client.delete(scene.ledger.keys.run(scene.run.id))
    scene.look()
    assert scene.ledger.client.exists(scene.ledger.keys.cut) == 0
