"""A forget in a bucket of a real MinIO, by several connections, over a line that loses answers."""

from __future__ import annotations

from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.retention import Rules
from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET
from tests.support.histories import add_day, run_of
from tests.support.proxy import FaultProxy
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer
from workers.backup.spec import SiteSpec
from workers.maintenance.forget import run_forget
from workers.maintenance.forget_spec import ForgetSpec


def test_forgetting_in_a_bucket(minio_server: MinioServer) -> None:
    """What answers were lost is asked for again; all that is to go is gone once, with a tombstone each."""
    bucket = make_bucket(minio_server)
    repo = Repository.create(
        open_bucket(minio_server, bucket).below(f"repos/{REPOSITORY}"),
        repository_id=REPOSITORY,
        fleet_secret=SECRET,
        recovery_password=RECOVERY,
    )
    like = Snapshot(time=1, tree=bytes(range(32)), paths=[b"/srv"])
    days = {day: add_day(repo, like, day) for day in range(1, 21)}
    with FaultProxy(("127.0.0.1", minio_server.port)) as proxy:
        url = f"s3:http://127.0.0.1:{proxy.port}/{bucket}"
        site = SiteSpec("fra", url, minio_server.access_key, minio_server.secret_key, connections=6)
        proxy.lose_answers(4)
        spec = ForgetSpec(site, REPOSITORY, "web1", "c" * 32, [MACHINE], Rules(daily=3))
        report = run_forget(spec, lambda _: None, lambda: None)
        assert proxy.broken == 4
    assert (report.kept, report.forgotten) == (3, 17)
    listed = {kind: {one.key.rpartition("/")[2] for one in repo.store.list(kind)} for kind in KINDS}
    assert listed == {
        "snapshots/": {days[day] for day in (18, 19, 20)},
        "holdfast/commits/": {run_of(day) for day in (18, 19, 20)},
        "holdfast/forgotten/": {days[day] for day in range(1, 18)},
        "locks/": set(),
    }


KINDS = ("snapshots/", "holdfast/commits/", "holdfast/forgotten/", "locks/")
