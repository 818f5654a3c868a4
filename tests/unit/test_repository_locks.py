"""Repository locks by the store's clock: who may hold what together, and whose lock counts no more."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import orjson
import pytest

from shared.repository import locks
from shared.repository.errors import Locked
from shared.repository.locks import REFRESH, STALE, RepositoryLock, read_locks
from shared.repository.repository import Repository
from tests.support.backups import Shop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A repository; the second look comes after 20 ms."""
    assert (locks.WAIT, REFRESH, STALE) == (0.2, 300, 1800)
    monkeypatch.setattr(locks, "WAIT", 0.02)
    return Shop(str(tmp_path))


@pytest.fixture
def repo(shop: Shop) -> Repository:
    """That repository, opened."""
    return shop.open()


def take(repo: Repository, holder: str = "one/holdfast/r1", *, exclusive: bool = False) -> RepositoryLock:
    """A lock that is held."""
    lock = repo.lock(holder=holder, exclusive=exclusive)
    lock.begin()
    lock.confirm()
    return lock


def held(lock: RepositoryLock) -> bool:
    """Whether it still counts."""
    try:
        lock.ensure_held()
    except Locked:
        return False
    return True


def plant(shop: Shop, name: str, content: bytes) -> str:
    """A lock object of somebody's; its path."""
    path = os.path.join(shop.repository, "locks", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def paths(shop: Shop) -> list[str]:
    """The lock objects."""
    return [os.path.join(shop.repository, "locks", name) for name in sorted(shop.names("locks"))]


def age(path: str, seconds: float) -> None:
    """Let a lock object have been written so long ago by the store's clock."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, False)],
)
def test_only_shared_locks_stand_beside_each_other(
    shop: Shop, repo: Repository, first: bool, second: bool, together: bool
) -> None:
    """Backups side by side; whoever wants to be alone waits, and nobody joins who is alone."""
    first_lock = take(repo, "one/holdfast/r1", exclusive=first)
    if together:
        take(repo, "two/holdfast/r2", exclusive=second).release()
    else:
        kind = "exclusive" if first else "shared"
        with pytest.raises(
            Locked, match=rf"is locked: {kind} lock \w+ of one/holdfast/r1 \(pid {os.getpid()}\), 0 s old"
        ):
            take(repo, "two/holdfast/r2", exclusive=second)
    assert (held(first_lock), len(paths(shop))) == (True, 1)
    first_lock.release()
    assert paths(shop) == []


@pytest.mark.parametrize("exclusive", [(True, True), (True, False)])
def test_of_two_that_come_at_once_at_least_one_steps_back(shop: Shop, exclusive: tuple[bool, bool]) -> None:
    """Neither saw the other at its first look: the second look finds it, and who steps back leaves nothing."""
    both = [shop.open().lock(holder=f"{n}/holdfast/r", exclusive=alone) for n, alone in enumerate(exclusive)]
    for lock in both:
        lock._write()
    winners = []
    for lock in both:
        try:
            lock.confirm()
        except Locked:
            assert not held(lock)
        else:
            winners.append(lock)
    assert len(winners) <= 1
    assert len(paths(shop)) == len(winners)


def test_racing_threads_never_hold_together(shop: Shop) -> None:
    """Eight want it exclusively, again and again, for a moment: two never have it at once."""
    holding: list[int] = []
    most = [0]
    start = threading.Barrier(8)

    def race(number: int) -> None:
        repo = shop.open()
        start.wait()
        for _ in range(4):
            try:
                lock = take(repo, f"{number}/holdfast/r", exclusive=True)
            except Locked:
                continue
            holding.append(number)
            most[0] = max(most[0], len(holding))
            holding.remove(number)
            lock.release()

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 1
    assert paths(shop) == []


def test_a_lock_counts_for_30_minutes_by_the_stores_clock(shop: Shop, repo: Repository) -> None:
    """After that it is in nobody's way, and stays where it is; what its own JSON says of time means nothing."""
    dead = take(repo, exclusive=True)
    (path,) = paths(shop)
    age(path, STALE - 60)
    with pytest.raises(Locked, match=r"17[34]\d s old"):
        take(repo, "two/holdfast/r2")
    age(path, STALE + 1)
    take(repo, "two/holdfast/r2", exclusive=True).release()
    assert (paths(shop), held(dead)) == ([path], False)


def test_staleness_does_not_go_by_this_hosts_clock(
    shop: Shop, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is an hour ahead does not take a fresh lock for a dead one."""
    take(repo, exclusive=True)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    with pytest.raises(Locked):
        take(repo, "two/holdfast/r2")


def test_a_refresh_writes_the_new_lock_before_it_deletes_the_old(
    shop: Shop, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment is there none; before five minutes are over nothing is done."""
    lock = take(repo)
    (old,) = paths(shop)
    lock.maintain()
    assert paths(shop) == [old]
    seen: list[int] = []
    delete = type(repo.store).delete
    monkeypatch.setattr(
        type(repo.store), "delete", lambda self, key: (seen.append(len(paths(shop))), delete(self, key))[1]
    )
    monkeypatch.setattr(lock, "_written", time.monotonic() - REFRESH)
    lock.maintain()
    assert (seen, len(paths(shop)), old in paths(shop), held(lock)) == ([2], 1, False, True)
    lock.release()
    assert paths(shop) == []


def test_a_refreshed_lock_does_not_conflict_with_itself(
    shop: Shop, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between writing and deleting it would leave two; released, both go."""
    lock = repo.lock(holder="one/holdfast/r1", exclusive=True)
    lock.begin()
    lock._write()
    lock.confirm()
    assert len(paths(shop)) == 2
    lock.release()
    assert paths(shop) == []


def test_an_unreadable_lock_counts_as_exclusive_while_it_is_fresh(shop: Shop, repo: Repository) -> None:
    """Somebody holds it, whoever that is; after 30 minutes it counts no more."""
    path = plant(shop, "ab" * 32, b"sealed with another key")
    with pytest.raises(Locked, match=r"exclusive lock abababab of somebody unknown \(it can't be read\)"):
        take(repo)
    age(path, STALE + 1)
    take(repo).release()


def test_an_empty_lock_is_none(shop: Shop, repo: Repository) -> None:
    """What a full disk or a power cut leaves of one: restic ignores those too."""
    plant(shop, "cd" * 32, b"")
    take(repo, exclusive=True).release()


def test_a_lock_that_somebody_removed_is_noticed(shop: Shop, repo: Repository) -> None:
    """Before anything is put that it should have protected; giving it back is no error then."""
    lock = take(repo)
    lock.ensure_held()
    os.unlink(paths(shop)[0])
    with pytest.raises(Locked, match=r"our own lock \w{8} was removed.*Somebody unlocked the repository"):
        lock.ensure_held()
    lock.release()


def test_a_lock_that_was_stale_for_a_while_is_not_refreshed(
    shop: Shop, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept: a fresh lock would hide that the repository was unprotected meanwhile."""
    lock = take(repo)
    age(paths(shop)[0], STALE)
    monkeypatch.setattr(lock, "_written", time.monotonic() - REFRESH)
    with pytest.raises(Locked, match=r"our own lock \w{8} counts no more \(180\d s without a refresh\)"):
        lock.maintain()
    assert len(paths(shop)) == 1


@pytest.mark.parametrize("how", ["slept", "removed"])
def test_a_reader_takes_a_lapsed_lock_anew(
    shop: Shop, repo: Repository, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It verifies whatever it reads, so it goes on, and is protected from then on: one lock, that others see."""
    lock = take(repo, "one/holdfast/restore-1")
    (old,) = paths(shop)
    if how == "slept":
        age(old, STALE + 1)
    else:
        os.unlink(old)
    take(repo, "two/holdfast/prune", exclusive=True).release()
    lock.maintain(reader=True)
    assert (paths(shop), held(lock)) == ([old] if how == "slept" else [], False), "nothing before it is due"
    monkeypatch.setattr(lock, "_written", time.monotonic() - REFRESH)
    lock.maintain(reader=True)
    assert (len(paths(shop)), paths(shop) == [old], held(lock)) == (1, False, True)
    with pytest.raises(Locked, match=r"is locked: shared lock .* of one/holdfast/restore-1"):
        take(repo, "two/holdfast/prune", exclusive=True)
    lock.release()
    assert paths(shop) == []


@pytest.mark.parametrize(("version", "code"), [("0.14", 1), ("0.18", 11)])
def test_stock_restic_respects_a_lock_taken_anew(
    shop: Shop, repo: Repository, monkeypatch: pytest.MonkeyPatch, version: str, code: int
) -> None:
    """A lapsed lock is one that `unlock` removes; what a reader writes in its place it keeps, and won't prune over."""
    clock = type(repo.store).clock
    with monkeypatch.context() as earlier:
        earlier.setattr(type(repo.store), "clock", lambda store: clock(store) - STALE - 60)
        lapsed, lock = take(repo, "one/holdfast/restore-1"), take(repo, "two/holdfast/restore-2")
    monkeypatch.setattr(lock, "_written", time.monotonic() - REFRESH)
    lock.maintain(reader=True)
    shop.restic(version, "unlock")
    assert (held(lapsed), held(lock), len(paths(shop))) == (False, True, 1)
    shop.restic(version, "prune", ok=(code,))
    lock.release()
    shop.restic(version, "prune")


def test_the_fields_of_a_lock(shop: Shop, repo: Repository) -> None:
    """The host's name has slashes, so that no restic takes the process id for one of its own host's."""
    take(repo, "host/holdfast/run")
    (name,) = shop.names("locks")
    fields = orjson.loads(repo.load("locks", name))
    assert list(fields) == ["time", "exclusive", "hostname", "username", "pid"]
    assert (fields["exclusive"], fields["hostname"], fields["pid"]) == (False, "host/holdfast/run", os.getpid())
    (info,) = read_locks(repo.store, repo.load, now=repo.store.clock())
    assert (info.id, info.exclusive, info.hostname) == (name, False, "host/holdfast/run")


@pytest.mark.parametrize(("version", "code"), [("0.14", 1), ("0.18", 11)])
def test_stock_restic_respects_it(shop: Shop, repo: Repository, version: str, code: int) -> None:
    """Over a shared lock it won't prune, nor do anything over an exclusive one; `unlock` keeps both."""
    for exclusive in (False, True):
        lock = take(repo, exclusive=exclusive)
        shop.restic(version, "prune", ok=(code,))
        shop.restic(version, "unlock")
        assert held(lock)
        lock.release()
    shop.restic(version, "prune")
