"""Forgetting: what goes, in which order, and what stops it. Killed in between: tests/chaos/test_forget_killed.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from shared.errors import UsageError
from shared.repository.committed import COMMITS, FORGOTTEN, SNAPSHOTS
from shared.repository.errors import Locked
from shared.repository.holds import SnapshotNeeded, add_hold, read_holds, remove_hold
from shared.repository.locks import STALE
from shared.retention import Rules
from shared.storage.api import MissingObject
from shared.topology import StaleEpoch
from tests.support.backups import PASSWORD, REPOSITORY, Shop, write
from tests.support.histories import add_day, run_of
from workers.backup.commit import State, find_commit
from workers.backup.spec import SiteSpec
from workers.maintenance import forget
from workers.maintenance.forget import run_forget
from workers.maintenance.forget_spec import ForgetReport, ForgetSpec

DAYS = range(1, 9)


class Scene:
    """A repository with a snapshot of each of eight days."""

    def __init__(self, base: str) -> None:
        self.shop = Shop(base)
        write(os.path.join(self.shop.source, "file"), b"content")
        self.shop.backup(run="f" * 32, source="other")
        (self.other,) = self.shop.open().snapshots()
        self.repo = self.shop.open()
        self.days = {day: add_day(self.repo, self.other, day) for day in DAYS}

    def forget(self, guard: Callable[[], None] = lambda: None, **more: object) -> ForgetReport:
        """Forget all but two days, or as told."""
        given = {"rules": Rules(daily=2), "passwords": [PASSWORD], "run": "forget-1", **more}
        site = SiteSpec("a", self.shop.site)
        spec = ForgetSpec(site, REPOSITORY, "web1", cache_dir=self.shop.cache, **given)  # type: ignore[arg-type]
        return run_forget(ForgetSpec.from_json(orjson.loads(orjson.dumps(spec.to_json()))), lambda _: None, guard)

    @property
    def left(self) -> list[int]:
        """The days whose snapshot is there."""
        return [day for day, name in self.days.items() if name in self.shop.names("snapshots")]

    def guard_at(self, call: int, act: Callable[[], object]) -> Callable[[], None]:
        """A guard that acts when it is called for the nth time: before the lock, tombstones (2), deletes (3)."""
        calls = iter(range(1, 100))

        def guard() -> None:
            if next(calls) == call:
                act()

        return guard


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A repository of its own."""
    return Scene(str(tmp_path))


def test_what_no_rule_keeps_is_gone_with_its_commit_and_leaves_a_tombstone(scene: Scene) -> None:
    """Another source's snapshot in the same repository is not looked at."""
    report = scene.forget()
    assert (report.kept, report.forgotten, scene.left) == (2, 6, [7, 8])
    assert sorted(report.snapshots) == sorted(scene.days[day] for day in range(1, 7))
    assert scene.other.id in scene.shop.names("snapshots")
    assert scene.shop.names("holdfast/commits") == {run_of(7), run_of(8), "f" * 32}
    assert scene.shop.names("holdfast/forgotten") == {scene.days[day] for day in range(1, 7)}
    told = orjson.loads(scene.repo.open_small(scene.repo.store.get(FORGOTTEN + scene.days[1])))
    assert told.pop("time").endswith("Z")
    assert told == {
        "snapshot": scene.days[1],
        "run": run_of(1),
        "source": "web1",
        "site": "a",
        "by": "forget-1",
    }
    assert scene.shop.names("locks") == set()
    scene.shop.check()


def test_with_nothing_to_forget_nothing_is_written(scene: Scene) -> None:
    """No lock is taken, so nobody waits: a second forget, and one whose rules keep all."""
    holder = scene.repo.lock(holder="a backup")
    holder.begin()
    assert scene.forget(rules=Rules(daily=20)).forgotten == 0
    holder.release()
    scene.forget()
    holder.begin()
    again = scene.forget()
    assert (again.kept, again.forgotten) == (2, 0)


def test_a_dry_run_says_what_would_go(scene: Scene) -> None:
    """And changes nothing, whoever holds a lock."""
    scene.repo.lock(holder="a backup").begin()
    report = scene.forget(dry_run=True)
    assert (report.kept, report.forgotten, scene.left) == (2, 6, list(DAYS))
    assert scene.shop.names("holdfast/forgotten") == set()


def test_it_waits_for_nobody_who_works_on_the_repository(scene: Scene) -> None:
    """A lock of any kind is in its way."""
    scene.repo.lock(holder="a backup").begin()
    with pytest.raises(Locked, match="a backup"):
        scene.forget()
    assert scene.left == list(DAYS)


def test_a_named_snapshot_goes_whatever_the_rules_say(scene: Scene) -> None:
    """By the beginning of its id; named again it is no error, as its tombstone is there."""
    assert scene.forget(rules=None, snapshots=[scene.days[8 - 1][:12]]).forgotten == 1
    assert scene.left == [1, 2, 3, 4, 5, 6, 8]
    assert scene.forget(rules=None, snapshots=[scene.days[7]]).forgotten == 0
    for wrong in ("abc", "0123456789abcdef"):
        with pytest.raises(UsageError, match="abc"):
            scene.forget(snapshots=[wrong])


def test_the_last_good_one_and_what_is_held_can_not_be_named(scene: Scene) -> None:
    """And nothing else that was named beside it goes."""
    add_hold(scene.repo, scene.days[2], "web1", "INC-77")
    for day, why in ((8, "it is the last good snapshot of its source"), (2, r"it is under a hold \(INC-77\)")):
        with pytest.raises(SnapshotNeeded, match=why):
            scene.forget(snapshots=[scene.days[1], scene.days[day]])
    assert scene.left == list(DAYS)


def test_holds_are_respected_until_they_end(scene: Scene) -> None:
    """One that has run out holds no more; one that can't be read does."""
    add_hold(scene.repo, scene.days[1], "web1", "INC-77")
    add_hold(scene.repo, scene.days[2], "web1", "until long ago", until=10**18)
    scene.repo.store.put(f"holdfast/holds/{scene.days[3]}", b"garbage")
    scene.forget()
    assert scene.left == [1, 3, 7, 8]
    assert read_holds(scene.repo)[scene.days[1]].why == "INC-77"
    remove_hold(scene.repo, scene.days[1])
    scene.forget()
    assert scene.left == [3, 7, 8]


def test_what_is_held_in_the_last_moment_stays(scene: Scene) -> None:
    """After the plan, before the tombstones: they are taken back."""
    act = scene.guard_at(2, lambda: add_hold(scene.repo, scene.days[4], "web1", "just now"))
    assert scene.forget(act).forgotten == 5
    assert scene.left == [4, 7, 8]
    assert scene.days[4] not in scene.shop.names("holdfast/forgotten")


def test_a_hold_that_comes_too_late_is_told_so(scene: Scene) -> None:
    """Where the tombstone stands, it is not acknowledged; one that was there before may be renewed at any time."""
    add_hold(scene.repo, scene.days[5], "web1", "before")
    said = []

    def late() -> None:
        with pytest.raises(MissingObject) as raised:
            add_hold(scene.repo, scene.days[4], "web1", "too late")
        said.append(str(raised.value))
        add_hold(scene.repo, scene.days[5], "web1", "renewed")

    scene.forget(scene.guard_at(3, late))
    assert [text.partition(":")[0] for text in said] == [f"snapshot {scene.days[4][:8]} can't be held"]
    assert (scene.left, scene.shop.names("holdfast/holds")) == ([5, 7, 8], {scene.days[5]})


@pytest.mark.parametrize("call", [1, 2, 3])
def test_under_another_epoch_nothing_is_deleted(scene: Scene, call: int) -> None:
    """It is looked at before the lock, before tombstones, and before deletes; the next forget does the work."""

    def stale() -> None:
        raise StaleEpoch("the epoch was 0, and is 1 now")

    with pytest.raises(StaleEpoch):
        scene.forget(scene.guard_at(call, stale))
    assert (scene.left, len(scene.shop.names("holdfast/commits"))) == (list(DAYS), 9)
    assert scene.shop.names("locks") == set()
    assert scene.forget().forgotten == 6
    assert (scene.left, len(scene.shop.names("holdfast/forgotten"))) == ([7, 8], 6)


def test_frozen_past_its_locks_age_it_deletes_nothing_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes up between two deletes, of one batch: the lock that counts no more is looked at before the next."""
    awake = [1000.0]
    monkeypatch.setattr(forget, "_boot_clock", lambda: awake[0])
    deletes = []

    def sleep() -> None:
        awake[0] += STALE
        for name in scene.shop.names("locks"):
            path = os.path.join(scene.shop.repository, "locks", name)
            old = os.stat(path).st_mtime - STALE
            os.utime(path, (old, old))

    real = forget._Forget._look_again

    def look_again(self: forget._Forget) -> None:
        if scene.left != list(DAYS) and not deletes:
            deletes.append(scene.left)
            sleep()
        real(self)

    monkeypatch.setattr(forget._Forget, "_look_again", look_again)
    with pytest.raises(Locked, match="counts no more"):
        scene.forget()
    assert [scene.left] == deletes
    assert len(scene.left) == 7


def test_unlocked_by_somebody_it_deletes_nothing_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is removed after the last look: the next one, at the latest 10 s later, sees it."""
    monkeypatch.setattr(forget, "LOOK", -1.0)

    def unlock() -> None:
        for name in scene.shop.names("locks"):
            os.unlink(os.path.join(scene.shop.repository, "locks", name))

    with pytest.raises(Locked, match="was removed"):
        scene.forget(scene.guard_at(3, unlock))
    assert scene.left == list(DAYS)


def test_a_tombstone_of_a_snapshot_that_stays_is_taken_back(scene: Scene) -> None:
    """A forget was broken off after its tombstones, and the rules keep more since: copies are owed again."""
    scene.repo.store.put(FORGOTTEN + scene.days[3], b"")
    scene.forget(rules=Rules(daily=20))
    assert (scene.left, scene.shop.names("holdfast/forgotten")) == (list(DAYS), set())


def test_of_a_snapshot_that_was_rewritten_the_run_is_superseded_too(scene: Scene) -> None:
    """Stock `tag` makes another snapshot of the same run: the commit, of the one before, is not to bring that back."""
    scene.shop.restic("0.18", "tag", "--add", "audit", scene.days[1])
    (new,) = scene.shop.names("snapshots") - set(scene.days.values()) - {scene.other.id}
    store = scene.repo.store
    commit = store.get(COMMITS + run_of(1))
    scene.forget()
    assert run_of(1) not in scene.shop.names("holdfast/commits")
    assert {new, scene.days[1]} <= scene.shop.names("holdfast/forgotten")
    store.put(COMMITS + run_of(1), commit)  # as if it had been killed before its last step
    assert find_commit(scene.repo, run_of(1)).state is State.FORGOTTEN
    assert scene.forget().finished == 1
    assert run_of(1) not in scene.shop.names("holdfast/commits")


def test_of_two_snapshots_of_a_run_the_committed_one_keeps_its_commit(scene: Scene) -> None:
    """Stock `rewrite` left both; the rewritten one is forgotten alone."""
    scene.shop.restic("0.18", "rewrite", "--exclude", "file", scene.days[3])
    (new,) = scene.shop.names("snapshots") - set(scene.days.values()) - {scene.other.id}
    assert scene.forget(rules=None, snapshots=[new]).snapshots == [new]
    assert (scene.left, find_commit(scene.repo, run_of(3)).state) == (list(DAYS), State.DONE)


def test_one_that_can_not_be_read_is_left_alone_and_told(scene: Scene) -> None:
    """The others are forgotten all the same."""
    path = os.path.join(scene.shop.repository, SNAPSHOTS, scene.days[1])
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"garbage")
    report = scene.forget()
    assert (report.forgotten, scene.left) == (5, [1, 7, 8])
    assert [note.partition(":")[0] for note in report.notes] == ["left alone"]
