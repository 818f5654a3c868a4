"""A prune in a versioned bucket of a real MinIO, where what is deleted is only hidden unless its versions go."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from shared.repository.repository import Repository
from shared.storage.credentials import CredentialsSpec
from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET, run_restic
from tests.support.backups import write
from tests.support.stores import limited_credentials, make_bucket, open_bucket, versions_in
from tests.support.tools import MinioServer
from workers.backup.run import run_backup
from workers.backup.spec import BackupSpec, Selection, SiteSpec
from workers.maintenance.prune import run_prune
from workers.maintenance.prune_spec import PruneReport, PruneSpec

PACK_SIZE = 64 << 10  # bytes


class Place:
    """A repository in a versioned bucket, of which a third is needed no more."""

    def __init__(self, server: MinioServer, base: Path) -> None:
        self.server = server
        self.base = base
        self.bucket = make_bucket(server, versioned=True)
        self.store = open_bucket(server, self.bucket).below(f"repos/{REPOSITORY}")
        Repository.create(self.store, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)
        for number in range(60):
            write(str(base / f"source/f{number}"), random.Random(number).randbytes(5000))
        first = self.backup()
        for number in range(0, 60, 3):
            os.unlink(base / f"source/f{number}")
        self.backup()
        self.store.purge(f"snapshots/{first}")

    def site(self, credentials: CredentialsSpec | None = None) -> SiteSpec:
        """The site, for these credentials or root's."""
        given = credentials or CredentialsSpec(self.server.access_key, self.server.secret_key)
        url = f"s3:{self.server.url}/{self.bucket}"
        return SiteSpec("fra", url, given.access_key, given.secret_key, given.session_token or "", connections=4)

    def backup(self) -> str:
        """Of the source; the snapshot."""
        selection = Selection([str(self.base / "source")])
        spec = BackupSpec(self.site(), REPOSITORY, "web1", os.urandom(16).hex(), selection)
        spec.passwords, spec.helpers, spec.pack_size, spec.cache_dir = [MACHINE], 2, PACK_SIZE, str(self.base / "cache")
        return run_backup(spec, lambda _: None).snapshot

    def prune(self, credentials: CredentialsSpec | None = None, **more: Any) -> PruneReport:
        """Prune it."""
        more = {"max_unused": 0, "pack_size": PACK_SIZE, "spare": -60, "pause": 0, "patience": 0, "helpers": 2, **more}
        spec = PruneSpec(
            self.site(credentials), REPOSITORY, "d" * 32, [MACHINE], cache_dir=str(self.base / "c"), **more
        )
        return run_prune(spec, lambda _: None, lambda: None)

    def hidden(self) -> int:
        """The bytes of packs that the bucket keeps, those that are hidden too."""
        packs = [size for key, size, _ in versions_in(self.server, self.bucket) if "/data/" in key]
        return sum(packs)

    def check(self) -> None:
        """By stock restic."""
        keys = {"AWS_ACCESS_KEY_ID": self.server.access_key, "AWS_SECRET_ACCESS_KEY": self.server.secret_key}
        url = f"s3:{self.server.url}/{self.bucket}/repos/{REPOSITORY}"
        assert "no errors were found" in run_restic(url, "check", "--read-data", environment=keys)


@pytest.fixture
def place(minio_server: MinioServer, tmp_path: Path) -> Place:
    """See `Place`."""
    return Place(minio_server, tmp_path)


def test_space_comes_back_in_a_versioned_bucket(place: Place) -> None:
    """Packs, index files and notes that were deleted leave no version behind."""
    before = place.hidden()
    first = place.prune()
    assert first.packs_doomed > 0
    place.check()
    assert place.prune(grace=-60).bytes_deleted == first.bytes_doomed
    place.check()
    assert place.hidden() < 0.75 * before
    assert place.hidden() == sum(one.size for one in place.store.list("data/"))
    left = {key.split("/")[2] for key, _, marker in versions_in(place.server, place.bucket) if marker}
    assert left <= {"locks"}
    versions = [key for key, _, _ in versions_in(place.server, place.bucket) if key.endswith("holdfast/status")]
    assert len(versions) == 1  # each commit has replaced it


def test_without_the_right_to_versions_it_says_so(place: Place) -> None:
    """They stay below a delete marker, and take room; the prune goes on."""
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    bucket = (["s3:ListBucket", "s3:GetBucketVersioning"], place.bucket)
    limited = limited_credentials(place.server, (actions, f"{place.bucket}/*"), bucket)
    before = place.hidden()
    place.prune(limited)
    report = place.prune(limited, grace=-60)
    assert report.packs_deleted > 0
    (note,) = report.notes
    assert note.startswith("older versions stay, and take room: site fra: denied")
    assert place.hidden() >= before
    place.check()


def test_the_rights_that_a_prune_needs(place: Place) -> None:
    """Those of docs/sites.md are enough: they delete below data/, index/, holdfast/ and locks/ alone, versions too."""
    below = f"{place.bucket}/repos"
    limited = limited_credentials(
        place.server,
        (["s3:ListBucket", "s3:GetBucketVersioning", "s3:ListBucketVersions"], place.bucket),
        (["s3:GetObject"], f"{place.bucket}/*"),
        (["s3:PutObject", "s3:DeleteObjectVersion"], f"{below}/*"),
        *((["s3:DeleteObject"], f"{below}/*/{kind}/*") for kind in ("locks", "holdfast", "data", "index")),
    )
    before = place.hidden()
    assert place.prune(limited).packs_doomed > 0
    report = place.prune(limited, grace=-60)
    assert (report.packs_deleted > 0, report.notes) == (True, [])
    assert place.hidden() < 0.75 * before
    place.check()
