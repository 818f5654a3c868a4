"""A backup in shards to a real MinIO, its shards at once: what each stored is told by the store's own clock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shared.repository.repository import Repository
from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET, run_restic
from tests.support.backups import write
from tests.support.processes import in_processes
from tests.support.shards import subtree
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer
from workers.backup.run import run_backup
from workers.backup.shards.run import run_shards
from workers.backup.spec import BackupSpec, Selection, ShardsSpec, SiteSpec

RUN = "c" * 32


def test_shards_at_once_make_one_snapshot(minio_server: MinioServer, tmp_path: Path) -> None:
    """Each in processes of its own, as on machines of their own; restic finds no fault, and the tree is that of one."""
    bucket = make_bucket(minio_server)
    store = open_bucket(minio_server, bucket).below(f"repos/{REPOSITORY}")
    repo = Repository.create(store, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)
    source = str(tmp_path / "source")
    for number in range(80):
        write(f"{source}/d{number % 9}/f{number}", os.urandom(1000 + 500 * number))

    def spec(run: str, machine: int) -> BackupSpec:
        site = SiteSpec("fra", f"s3:{minio_server.url}/{bucket}", minio_server.access_key, minio_server.secret_key)
        made = BackupSpec(site, REPOSITORY, "nas", run, Selection([source]), kind="full")
        made.passwords, made.helpers, made.cache_dir = [MACHINE], 1, str(tmp_path / f"cache{machine}")
        return made

    def step(run: str, machine: int, **shards: Any) -> dict[str, Any]:
        made = spec(run, machine)
        made.shards = ShardsSpec(RUN, 4, **shards)
        return run_shards(made, lambda _: None)

    plan = step(RUN, 0)["cut"]["plan"]
    done = in_processes(4, lambda n: step(f"{n:032x}", n, plan=plan, number=n))
    assert len({one["tree"] for one in done}) == 4
    result = step(RUN, 1, plan=plan, done=done)
    assert (result["files_new"], result["shards"], result["complete"]) == (80, 4, True)
    alone = run_backup(spec("d" * 32, 0), lambda _: None)
    assert subtree(repo, str(result["tree"]), source) == subtree(repo, alone.tree, source)
    assert list(store.list("locks/")) == []
    keys = {"AWS_ACCESS_KEY_ID": minio_server.access_key, "AWS_SECRET_ACCESS_KEY": minio_server.secret_key}
    url = f"s3:{minio_server.url}/{bucket}/repos/{REPOSITORY}"
    assert "no errors were found" in run_restic(url, "check", "--read-data", environment=keys)
