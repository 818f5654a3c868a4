"""Tombstones that have served go, and no other. Killed in between: tests/chaos/test_forget_killed.py."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from shared.config.fleet import Fleet
from shared.repository.committed import COMMITS, FORGOTTEN, SNAPSHOTS
from shared.repository.gojson import time_string
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.retention import Rules
from tests.support.attempts import MACHINE, RECOVERY, SECRET
from tests.support.backups import PASSWORD, REPOSITORY, Shop, write
from tests.support.histories import add_day, run_of
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer
from workers import upkeep_specs
from workers.backup.commit import State, find_commit
from workers.backup.spec import SiteSpec
from workers.maintenance.forget import run_forget
from workers.maintenance.forget_spec import TOMBSTONES, ForgetReport, ForgetSpec

DAY = 86400.0


class Scene:
    """A repository of three days at site a, the first two of which were forgotten; and another site, b."""

    def __init__(self, base: str) -> None:
        self.shop = Shop(os.path.join(base, "a"))
        write(os.path.join(self.shop.source, "file"), b"content")
        self.shop.backup(run="f" * 32, source="other")
        self.repo = self.shop.open()
        (like,) = self.repo.snapshots()
        self.days = {day: add_day(self.repo, like, day) for day in (1, 2, 3)}
        self.other = os.path.join(base, "b")
        shutil.copytree(self.shop.site, self.other)  # b has all of them
        self.forget()

    def forget(self, **more: object) -> ForgetReport:
        """Forget all but the last day at a."""
        given = {"rules": Rules(daily=1), "passwords": [PASSWORD], "run": "forget-1", **more}
        given.setdefault("others", [SiteSpec("b", self.other)])
        spec = ForgetSpec(SiteSpec("a", self.shop.site), REPOSITORY, "web1", cache_dir=self.shop.cache, **given)  # type: ignore[arg-type]
        return run_forget(
            ForgetSpec.from_json(orjson.loads(orjson.dumps(spec.to_json()))), lambda _: None, lambda: None
        )

    def age(self, day: int, seconds: float = TOMBSTONES) -> None:
        """Let a tombstone be so much older."""
        told = orjson.loads(self.repo.open_small(self.repo.store.get(FORGOTTEN + self.days[day])))
        at = time.time() - seconds - 1
        self.repo.store.put(
            FORGOTTEN + self.days[day], self.repo.seal_small(orjson.dumps({**told, "time": time_string(int(at * 1e9))}))
        )
        self.touch(self.days[day], at)

    def touch(self, name: str, at: float) -> None:
        """Let its object have been written then."""
        os.utime(os.path.join(self.shop.repository, "holdfast/forgotten", name), (at, at))

    def forget_at_b(self, *days: int) -> None:
        """They are gone there, too."""
        for day in days:
            os.unlink(os.path.join(self.other, "repos", REPOSITORY, "snapshots", self.days[day]))

    @property
    def tombstones(self) -> list[int]:
        """The days that have one at a."""
        return [day for day, name in self.days.items() if name in self.shop.names("holdfast/forgotten")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A repository of its own."""
    return Scene(str(tmp_path))


def test_one_goes_when_it_is_old_and_no_site_has_the_snapshot(scene: Scene) -> None:
    """Each alone is not enough."""
    scene.age(1)
    assert (scene.forget().cleared, scene.tombstones) == (0, [1, 2])  # b has it
    scene.forget_at_b(1, 2)
    assert (scene.forget(dry_run=True).cleared, scene.tombstones) == (1, [1, 2])
    report = scene.forget()
    assert (report.cleared, report.forgotten, report.kept) == (1, 0, 1)
    assert scene.tombstones == [2]  # which is young
    assert scene.shop.names("locks") == set()
    scene.shop.check()


def test_a_day_early_it_stays(scene: Scene) -> None:
    """By what it says itself, and by when its object was written: a copy of one is as young as the copy."""
    scene.forget_at_b(1, 2)
    scene.age(1, TOMBSTONES - DAY)
    scene.age(2)
    scene.touch(scene.days[2], time.time())
    assert (scene.forget().cleared, scene.tombstones) == (0, [1, 2])


@pytest.mark.parametrize("how", ["gone", "unmounted", "no credentials", "denied"])
def test_while_a_site_can_not_be_asked_all_stay(scene: Scene, how: str, minio_server: MinioServer) -> None:
    """It may have the snapshot, and would be owed nothing if nobody knew that it was forgotten."""
    scene.forget_at_b(1, 2)
    scene.age(1)
    others: list[SiteSpec] | None = [SiteSpec("b", scene.other)]
    if how == "gone":
        os.rename(scene.other, f"{scene.other}.away")
    elif how == "unmounted":
        shutil.rmtree(scene.other)
        os.mkdir(scene.other)
    elif how == "denied":
        bucket = make_bucket(minio_server)
        others = [SiteSpec("b", f"s3:{minio_server.url}/{bucket}", "nobody", "not the secret")]
    else:
        others = None
    report = scene.forget(others=others)
    assert (report.cleared, scene.tombstones) == (0, [1, 2])
    assert any("site b can't be asked" in note for note in report.notes) == (how != "no credentials")


def test_a_machine_that_lacks_a_sites_credentials_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets all the same; its tombstones wait for one that has them."""
    (tmp_path / "secret").write_text("0123456789abcdef" * 2)
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "secret: {file: secret}\nrecovery_password: {file: secret}\n"
        "sites: {a: {url: a}, b: {url: 's3:https://b.example/x', credentials: {env: BEE}},\n"
        "  w: {url: w, witness: true}}\n"
        "policies: {all: {primary: a, full: 1d, retention: {keep_last: 1}}}\nsources: {web1: {paths: /srv}}\n"
    )
    assert upkeep_specs.forget_spec(Fleet.load(str(path)), "web1", {}, run="x").others is None
    monkeypatch.setenv("BEE_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("BEE_SECRET_ACCESS_KEY", "s")
    others = upkeep_specs.forget_spec(Fleet.load(str(path)), "web1", {}, run="x").others
    assert [one.id for one in others or ()] == ["b"]


def test_one_that_a_commit_needs_stays(scene: Scene) -> None:
    """Without it the run would be taken for one that was not finished, and the snapshot put again."""
    scene.forget_at_b(1, 2)
    scene.age(1)
    sealed = Path(scene.other, "repos", REPOSITORY, "holdfast/commits", run_of(1)).read_bytes()
    scene.repo.store.put(COMMITS + run_of(1), sealed)
    assert find_commit(scene.repo, run_of(1)).state is State.FORGOTTEN
    report = scene.forget()  # the commit first, then the tombstone
    assert (report.finished, report.cleared, scene.tombstones) == (1, 1, [2])
    assert find_commit(scene.repo, run_of(1)).state is State.NONE


def test_a_commit_whose_run_lives_on_keeps_it(scene: Scene) -> None:
    """Stock restic has rewritten the snapshot: the run's commit stands, and is of the one that was forgotten."""
    scene.shop.restic("0.18", "tag", "--add", "audit", scene.days[3])
    scene.repo.store.put(FORGOTTEN + scene.days[3], scene.repo.seal_small(orjson.dumps({"run": run_of(3)})))
    told = {"run": run_of(3), "time": time_string(int((time.time() - 2 * TOMBSTONES) * 1e9))}
    scene.repo.store.put(FORGOTTEN + scene.days[3], scene.repo.seal_small(orjson.dumps(told)))
    scene.touch(scene.days[3], time.time() - 2 * TOMBSTONES)
    scene.forget_at_b(1, 2, 3)
    assert scene.forget().cleared == 0
    assert scene.tombstones == [1, 2, 3]


def test_those_of_keys_go_alike_and_what_can_not_be_read_stays(scene: Scene) -> None:
    """A key file's tombstone is plain JSON; its key must be at no site."""
    old = time.time() - 2 * TOMBSTONES
    held = os.listdir(os.path.join(scene.other, "repos", REPOSITORY, "keys"))[0]
    for name, raw in (
        ("a" * 64, orjson.dumps({"key": "a" * 64, "time": time_string(int(old * 1e9))})),
        (held, orjson.dumps({"key": held, "time": time_string(int(old * 1e9))})),
        ("b" * 64, b"garbage"),
        ("c" * 64, b""),
        ("d" * 64, b'{"time": "garbage"}'),
        ("e" * 64, b"{}"),
        ("no-id", b"{}"),
    ):
        scene.repo.store.put(FORGOTTEN + name, raw)
        scene.touch(name, old)
    assert scene.forget().cleared == 1
    left = scene.shop.names("holdfast/forgotten")
    assert left == {scene.days[1], scene.days[2], held, *(letter * 64 for letter in "bcde"), "no-id"}


def test_with_one_that_may_not_go_nobody_is_held_up(scene: Scene) -> None:
    """A lock is taken only where something goes."""
    scene.age(1)
    scene.repo.lock(holder="a backup").begin()
    assert scene.forget().cleared == 0


def test_tombstones_in_buckets(minio_server: MinioServer) -> None:
    """Two sites of a real MinIO: as long as the other one has the snapshot it stays."""
    places = []
    for name in ("fra", "ams"):
        bucket = make_bucket(minio_server)
        store = open_bucket(minio_server, bucket).below(f"repos/{REPOSITORY}")
        repo = Repository.create(store, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)
        url, keys = f"s3:{minio_server.url}/{bucket}", (minio_server.access_key, minio_server.secret_key)
        places.append(SimpleNamespace(repo=repo, site=SiteSpec(name, url, *keys, connections=4)))
    fra, ams = places
    like = Snapshot(time=1, tree=bytes(range(32)), paths=[b"/srv"])
    days = {day: add_day(fra.repo, like, day) for day in range(1, 9)}
    ams.repo.store.put(SNAPSHOTS + days[2], fra.repo.store.get(SNAPSHOTS + days[2]))

    def forget() -> ForgetReport:
        spec = ForgetSpec(fra.site, REPOSITORY, "web1", "c" * 32, [MACHINE], Rules(daily=3))
        spec.others, spec.tombstones = [ams.site], -9.0  # times there are whole seconds, and can't be set back
        return run_forget(spec, lambda _: None, lambda: None)

    assert (forget().forgotten, forget().cleared) == (5, 4)
    assert [one.key.rpartition("/")[2] for one in fra.repo.store.list(FORGOTTEN)] == [days[2]]
    ams.repo.store.delete(SNAPSHOTS + days[2])
    assert forget().cleared == 1
    assert list(fra.repo.store.list(FORGOTTEN)) == []
