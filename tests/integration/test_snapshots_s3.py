"""All snapshots of a repository in a bucket of a real MinIO, by several connections."""

from __future__ import annotations

from pathlib import Path

from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, encode_snapshot
from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET
from tests.support.proxy import FaultProxy
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer

COUNT = 1100  # more than one page of a listing


def test_a_bucket_s_snapshots_are_read_once(tmp_path: Path, minio_server: MinioServer) -> None:
    """Over a line that breaks all of them come, the next time none is fetched, and a forgotten one is gone."""
    bucket = make_bucket(minio_server)
    made = Repository.create(
        open_bucket(minio_server, bucket).below(f"repos/{REPOSITORY}"),
        repository_id=REPOSITORY,
        fleet_secret=SECRET,
        recovery_password=RECOVERY,
    )
    names = sorted(
        made.save("snapshots", encode_snapshot(Snapshot(10**18 + number, bytes(range(32)), [b"/srv"])))
        for number in range(COUNT)
    )
    with FaultProxy(("127.0.0.1", minio_server.port)) as proxy:
        store = open_bucket(minio_server, bucket, port=proxy.port).below(f"repos/{REPOSITORY}")
        assert store.connections == 4
        opened = Repository.open(store, MACHINE).cached(str(tmp_path), "fra")
        proxy.lose_answers(3)
        assert sorted(one.id for one in opened.snapshots()) == names
        assert proxy.broken == 3
        store.close()
    # Were it fetched again, it would be damaged: the listing shows the same size.
    spoilt = f"snapshots/{names[1]}"
    made.store.put(spoilt, bytes(made.store.stat(spoilt).size))
    made.store.delete(f"snapshots/{names[0]}")
    again = Repository.open(made.store, MACHINE).cached(str(tmp_path), "fra")
    assert sorted(one.id for one in again.snapshots()) == names[1:]
