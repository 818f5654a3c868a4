"""`holdfast/status` as backups, forgets, replications and stock restic leave it, on a directory and a real MinIO."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.evidence import evidence_in
from shared.repository.repository import Repository
from shared.repository.status import STATUS, Known, read_known
from shared.retention import Rules
from tests.support.attempts import QUICK, Bench, make_source
from tests.support.backups import PASSWORD, RECOVERY, REPOSITORY, SECRET, Shop, write
from tests.support.ledgers import until
from tests.support.replicas import other, replicate
from tests.support.stores import credentials_of, limited_credentials, make_bucket, open_bucket
from tests.support.tools import MinioServer
from tests.support.zygote import Zygote
from workers.backup.run import run_backup
from workers.backup.spec import BackupSpec, Selection, SiteSpec
from workers.maintenance.forget import run_forget
from workers.maintenance.forget_spec import ForgetSpec

RUN = "ab" * 16


def look(repo: Repository) -> Known:
    """What a look finds; it must be what the snapshots themselves say."""
    known = read_known(repo)
    assert known is not None
    assert evidence_in(known.facts) == evidence_in(repo.snapshots(fresh=True))
    return known


@pytest.fixture(scope="module")
def zygotes() -> Iterator[tuple[Zygote, Zygote]]:
    """Two engines can run at once."""
    with Zygote() as one, Zygote() as two:
        yield one, two


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty site and a small source of its own."""
    return Bench(str(tmp_path / "bench"), make_source(str(tmp_path / "source"), big=1000))


def test_each_commit_and_each_forget_writes_it(tmp_path: Path) -> None:
    """What stock restic adds, tags or forgets is noticed by the next look, and told of by the next commit."""
    shop = Shop(str(tmp_path))
    write(os.path.join(shop.source, "file"), b"content")
    for number, slot in enumerate(("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z")):
        assert shop.backup(slot=slot).notes == []
        known = look(shop.open())
        assert (known.current, known.snapshots) == (True, number + 1)
        assert evidence_in(known.facts)["web1"].last == slot
    newest = max(shop.open().snapshots(), key=lambda one: one.time).id
    shop.restic("0.18", "forget", newest)
    known = look(shop.open())
    assert (known.current, evidence_in(known.facts)["web1"].last) == (False, "2026-03-02T00:00:00Z")
    shop.restic_backup("0.18")
    assert not look(shop.open()).current
    shop.backup()
    assert look(shop.open()).current
    spec = ForgetSpec(SiteSpec("a", shop.site), REPOSITORY, "web1", passwords=[PASSWORD], run="f", rules=Rules(last=1))
    spec.cache_dir = shop.cache
    assert run_forget(spec, lambda _: None, lambda: None).forgotten == 2
    known = look(shop.open())
    assert (known.current, known.snapshots) == (True, 2)
    shop.check()


def test_killed_between_snapshot_and_status_the_next_attempt_writes_it(
    bench: Bench, zygotes: tuple[Zygote, Zygote]
) -> None:
    """Until then the snapshot is found all the same: a first one, and one after others."""
    for number, run in enumerate((RUN, "cd" * 16)):
        trap = bench.trap(at=1, prefix=f"put {STATUS}")
        assert zygotes[0].run("backup", bench.spec(run), trap=trap, set_=QUICK).killed
        assert len(bench.names("snapshots")) == number + 1
        known = read_known(bench.open())
        if number:
            assert known is not None
            assert (known.current, known.snapshots, len(known.facts)) == (False, 2, 2)
        else:
            assert known is None
        ended = zygotes[0].run("backup", bench.spec(run), set_=QUICK)
        assert ended.result["existed"]
        assert look(bench.open()).current
    bench.check()


def test_of_two_that_commit_at_once_the_later_one_stays(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """Two sources of one repository. Whatever it lacks is read, and the next commit tells of all."""
    zygotes[0].run("backup", bench.spec("00" * 16), set_=QUICK)
    specs = [bench.spec(name * 16, source=f"s{name}") for name in ("01", "02")]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda zygote, spec: zygote.run("backup", spec, set_=QUICK), zygotes, specs))
    assert [one.error for one in ended] == ["", ""]
    assert sorted(evidence_in(look(bench.open()).facts)) == ["s01", "s02", "web1"]
    zygotes[0].run("backup", bench.spec("03" * 16), set_=QUICK)
    assert look(bench.open()).current
    bench.check()


def test_one_that_was_held_up_puts_an_old_one(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """It was frozen before its status, while others committed and forgot: what it says then hides and adds nothing."""
    trap = bench.trap(at=1, prefix=f"put {STATUS}", when="pause")
    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(zygotes[0].run, "backup", bench.spec("01" * 16), trap=trap, set_=QUICK)
        until(lambda: trap.paused or frozen.done())
        (first,) = bench.names("snapshots")
        later = zygotes[1].run("backup", bench.spec("02" * 16), set_=QUICK).result["snapshot"]
        os.unlink(os.path.join(bench.path, "snapshots", first))
        trap.go_on()
        assert frozen.result().error == ""
    known = look(bench.open())
    assert (known.current, [one.id for one in known.facts]) == (False, [later])


def test_a_replication_writes_it_at_the_other_site(bench: Bench, zygotes: tuple[Zygote, Zygote]) -> None:
    """It tells of what is there."""
    for number in (1, 2):
        zygotes[0].run("backup", bench.spec(f"{number:02}" * 16), set_=QUICK)
        target = other(bench)
        assert replicate(bench, target).snapshots == 1
        known = look(target.open())
        assert (known.current, known.snapshots) == (True, number)
    target.check()


def test_a_commit_at_minio_writes_it(minio_server: MinioServer, tmp_path: Path) -> None:
    """Who may not write it, as an agent that an older release enrolled, backs up all the same, and says so."""
    bucket = make_bucket(minio_server)
    root = open_bucket(minio_server, bucket).below(f"repos/{REPOSITORY}")
    Repository.create(root, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)
    write(str(tmp_path / "source/file"), b"content")
    top = f"{bucket}/repos/{REPOSITORY}"
    puts = [
        (["s3:PutObject"], f"{top}/{part}/*") for part in ("data", "index", "snapshots", "locks", "holdfast/commits")
    ]
    limited = limited_credentials(
        minio_server, (["s3:ListBucket"], bucket), (["s3:GetObject"], f"{top}/*"),
        *puts, (["s3:DeleteObject"], f"{top}/locks/*"),
    )  # fmt: skip
    for keys, notes in ((credentials_of(minio_server), 0), (limited, 1)):
        site = SiteSpec("a", f"s3:{minio_server.url}/{bucket}", keys.access_key, keys.secret_key)
        site.session_token = keys.session_token or ""
        spec = BackupSpec(site, REPOSITORY, "web1", os.urandom(16).hex(), Selection([str(tmp_path / "source")]))
        spec.passwords, spec.helpers, spec.cache_dir = [PASSWORD], 2, str(tmp_path / "cache")
        result = run_backup(spec, lambda _: None)
        assert (result.snapshot != "", len(result.notes)) == (True, notes), result.notes
        known = look(Repository.open(root, PASSWORD))
        assert (known.current, known.snapshots) == (not notes, 1 + notes)
    assert "holdfast/status was not written" in result.notes[0]
