"""From one real MinIO to another, by many requests at once."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.repository.repository import Repository
from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET, digest, run_restic
from tests.support.backups import write
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer
from workers.backup.run import run_backup
from workers.backup.spec import BackupSpec, Selection, SiteSpec
from workers.replication.run import run_replicate
from workers.replication.spec import ReplicateReport, ReplicateSpec

PACK_SIZE = 64 << 10  # bytes


class Sites:
    """Two buckets, each of a server of its own; a source that is backed up into the first."""

    def __init__(self, first: MinioServer, second: MinioServer, base: Path) -> None:
        self.base = base
        self.servers = {"fra": first, "ams": second}
        self.buckets = {name: make_bucket(server) for name, server in self.servers.items()}
        store = open_bucket(first, self.buckets["fra"]).below(f"repos/{REPOSITORY}")
        Repository.create(store, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)

    def site(self, name: str) -> SiteSpec:
        """As an engine opens it."""
        server = self.servers[name]
        url = f"s3:{server.url}/{self.buckets[name]}"
        return SiteSpec(name, url, server.access_key, server.secret_key, connections=6)

    def backup(self) -> str:
        """Of the source; the snapshot."""
        selection = Selection([str(self.base / "source")])
        spec = BackupSpec(self.site("fra"), REPOSITORY, "web1", os.urandom(16).hex(), selection)
        spec.passwords, spec.helpers, spec.pack_size, spec.cache_dir = [MACHINE], 2, PACK_SIZE, str(self.base / "cache")
        return run_backup(spec, lambda _: None).snapshot

    def replicate(self) -> ReplicateReport:
        """From the first to the second."""
        spec = ReplicateSpec(self.site("ams"), self.site("fra"), REPOSITORY, "web1", "c" * 32, [MACHINE])
        spec.cache_dir = str(self.base / "c")
        return run_replicate(spec, lambda _: None)

    def restic(self, name: str, *arguments: str) -> str:
        """Stock restic at one of them."""
        server = self.servers[name]
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        return run_restic(f"s3:{server.url}/{self.buckets[name]}/repos/{REPOSITORY}", *arguments, environment=keys)


@pytest.fixture
def sites(minio_server: MinioServer, tmp_path: Path) -> Iterator[Sites]:
    """See `Sites`."""
    with MinioServer(str(tmp_path / "minio")) as second:
        yield Sites(minio_server, second, tmp_path)


def test_snapshots_arrive_at_another_server(sites: Sites) -> None:
    """Each restores there as at the first one; what comes later brings only what is new."""
    for number in range(60):
        write(str(sites.base / f"source/f{number}"), random.Random(number).randbytes(9000))
    snapshots = [sites.backup()]
    report = sites.replicate()
    assert (report.created, report.snapshots, report.packs > 5, report.errors) == (True, 1, True, 0)
    for round_ in (1, 2, 3):
        write(str(sites.base / f"source/f{round_}"), random.Random(-round_).randbytes(5000))
        snapshots.append(sites.backup())
    later = sites.replicate()
    assert (later.snapshots, later.packs < report.packs + 3, later.errors) == (3, True, 0)
    assert "no errors were found" in sites.restic("ams", "check", "--read-data", "--no-lock")
    for snapshot in snapshots:
        found = []
        for name in ("fra", "ams"):
            target = str(sites.base / f"{name}-{snapshot[:8]}")
            sites.restic(name, "restore", snapshot, "--target", target, "--no-lock")
            found.append(digest(target))
        assert found[0] == found[1] != {}
    assert sites.replicate().owed == 0
