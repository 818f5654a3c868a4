"""Restore tests from a real MinIO."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from shared.repository.repository import Repository
from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET
from tests.support.backups import write
from tests.support.stores import credentials_of, limited_credentials, make_bucket, open_bucket
from tests.support.tools import MinioServer
from workers.backup.run import run_backup
from workers.backup.spec import BackupSpec, Selection, SiteSpec
from workers.maintenance.restore_test import run_restore_test
from workers.maintenance.restore_test_spec import RestoreTestReport, RestoreTestSpec
from workers.maintenance.scratch import FOLDER

COUNT, SIZE = 30, 20_000


class Place:
    """A bucket with a snapshot of a few files."""

    def __init__(self, server: MinioServer, base: Path) -> None:
        self.server = server
        self.base = base
        self.bucket = make_bucket(server)
        self.store = open_bucket(server, self.bucket).below(f"repos/{REPOSITORY}")
        Repository.create(self.store, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)
        for number in range(COUNT):
            write(f"{base}/source/d{number % 3}/f{number}", random.Random(number).randbytes(SIZE))
        spec = BackupSpec(self.site(), REPOSITORY, "web1", "a" * 32, Selection([f"{base}/source"]))
        spec.passwords, spec.helpers, spec.cache_dir = [MACHINE], 2, f"{base}/cache"
        self.snapshot = run_backup(spec, lambda _: None).snapshot

    def site(self, **more: Any) -> SiteSpec:
        """The site, for root unless other credentials are given."""
        given = more.get("credentials") or credentials_of(self.server)
        url = f"s3:{self.server.url}/{self.bucket}"
        return SiteSpec("fra", url, given.access_key, given.secret_key, given.session_token or "", connections=4)

    def test(self, **more: Any) -> RestoreTestReport:
        """Run one; nothing may be left of it."""
        fields = {"site": self.site(), "cache_dir": f"{self.base}/cache", "passwords": [MACHINE], "helpers": 2, **more}
        spec = RestoreTestSpec(repository=REPOSITORY, source="web1", run="b" * 32, **fields)
        report = run_restore_test(spec, lambda _: None)
        assert os.listdir(f"{spec.cache_dir}/{FOLDER}") == []
        return report


@pytest.fixture
def place(minio_server: MinioServer, tmp_path: Path) -> Place:
    """See `Place`."""
    return Place(minio_server, tmp_path)


def test_a_sample_and_all_of_it(place: Place) -> None:
    """With an empty cache as with a filled one."""
    for more in ({"cache_dir": f"{place.base}/new"}, {}):
        report = place.test(files=5, **more)
        assert (report.exit_code, report.site, report.snapshot) == (0, "fra", place.snapshot)
        assert (report.files, report.verified, report.bytes) == (5, 5, 5 * SIZE)
    report = place.test(whole=True)
    assert (report.exit_code, report.files, report.bytes) == (0, COUNT, COUNT * SIZE)
    assert list(place.store.list("locks/")) == []


def test_who_may_only_read_can_test(place: Place) -> None:
    """The rights to list and to get are enough; that there is no lock is noted, once."""
    reading = (["s3:GetObject"], f"{place.bucket}/*"), (["s3:ListBucket"], place.bucket)
    report = place.test(site=place.site(credentials=limited_credentials(place.server, *reading)), files=2)
    assert (report.exit_code, report.files) == (0, 2)
    (note,) = report.notes
    assert note.startswith("no lock, as the site can't be written to: ")


def test_a_pack_that_is_gone_is_named(place: Place) -> None:
    """With the files that it had."""
    pack = max(place.store.list("data/"), key=lambda one: one.size).key
    place.store.delete(pack)
    report = place.test(whole=True)
    assert (report.exit_code, report.damaged_packs) == (24, [pack.rpartition("/")[2]])
    assert (report.errors, report.files) == (COUNT, 0)
