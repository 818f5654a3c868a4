"""Limits kept by real engines: what the kernel says of them, and how long bytes take that they share a line for.

A lower bound of time is asserted and no upper one: a busy machine is slow, and no limit makes it fast.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.ledger.model import RunKind
from shared.storage import MissingObject, open_store
from shared.storage.bucket import Bucket
from shared.storage.rates import CREDIT, Rates
from shared.storage.throttled import Throttle
from tests.support.fleets import alive
from tests.support.ledgers import until
from tests.support.limited import Counted, LimitedFleet, family, finish, manners, start
from tests.support.processes import in_processes
from tests.support.stores import credentials_of, make_bucket
from tests.support.tools import MinioServer
from workers import limits
from workers.helpers import CoordinatorGone

MB = 1_000_000
BACKUP = RunKind.FULL
IDLE, LAST_OF_BEST_EFFORT = 3 << 13, 2 << 13 | 7  # as ioprio_get(2) gives them


@pytest.fixture(params=["directory", "minio"])
def server(request: pytest.FixtureRequest) -> MinioServer | None:
    """Each kind of site."""
    found: MinioServer | None = request.getfixturevalue("minio_server") if request.param == "minio" else None
    return found


# -- bandwidth --------------------------------------------------------------------------------------


def test_two_engines_at_once_share_a_line(tmp_path: Path, server: MinioServer | None) -> None:
    """Up and down: both together take at least as long as all of it takes at the rate, and all of it arrives."""
    limited = LimitedFleet(tmp_path, 6 * MB, server)
    fleet = limited.with_limits("{upload: 3 MB, download: 4 MB}")
    made, took = finish([start(fleet, BACKUP, name) for name in ("one", "two")])
    stored = sum(int(str(result["bytes_stored"])) for result in made)
    assert stored >= 12 * MB
    assert took >= stored / (3 * MB) - CREDIT
    targets = {name: tmp_path / f"restored-{name}" for name in ("one", "two")}
    engines = [start(fleet, RunKind.RESTORE, name, target=str(target)) for name, target in targets.items()]
    _, took = finish(engines)
    assert took >= 12 * MB / (4 * MB) - CREDIT
    for name, target in targets.items():
        for file in (tmp_path / name).iterdir():
            assert (target / str(file).lstrip("/")).read_bytes() == file.read_bytes()
    assert sorted(os.listdir(limited.buckets)) == ["download", "upload"]


def test_a_verification_reads_at_the_rate(tmp_path: Path, server: MinioServer | None) -> None:
    """All data of a repository, pack by pack."""
    limited = LimitedFleet(tmp_path, 6 * MB, server)
    finish([start(limited.with_limits(), BACKUP, "one")])
    (report,), took = finish([start(limited.with_limits("{download: 2 MB}"), RunKind.VERIFY, "one", share=100)])
    assert (report["errors"], took >= 6 / 2 - CREDIT) == (0, True)


def test_a_bucket_that_is_deleted_and_spoilt_all_the_time_ends_no_run(tmp_path: Path) -> None:
    """Two backups under way: each is done, and whole."""
    limited = LimitedFleet(tmp_path, 3 * MB)
    fleet = limited.with_limits("{upload: 3 MB}")
    bucket = limited.buckets / "upload"
    harmed: list[str] = []

    def harm() -> None:
        if not bucket.exists():
            return
        if len(harmed) % 2:
            bucket.unlink()
        else:
            bucket.write_bytes(os.urandom(100))
        harmed.append(bucket.name)

    finish([start(fleet, BACKUP, name) for name in ("one", "two")], harm)
    assert len(harmed) > 2
    for report in finish([start(limited.with_limits(), RunKind.VERIFY, name, share=100) for name in ("one", "two")])[0]:
        assert (report["errors"], report["packs_read"]) == (0, report["packs"])


def test_an_engine_that_is_killed_holds_up_no_other(tmp_path: Path) -> None:
    """SIGKILL to one of two in mid-wait: the other one ends well, and the file is whole."""
    limited = LimitedFleet(tmp_path, 4 * MB)
    fleet = limited.with_limits("{upload: 2 MB}")
    doomed, other = start(fleet, BACKUP, "one"), start(fleet, BACKUP, "two")
    until((limited.buckets / "upload").exists)
    doomed.kill()
    finish([other])
    doomed.close()
    given, due = Bucket(str(limited.buckets / "upload"), Rates(2 * MB)).take(1)
    assert (given, due < time.clock_gettime(time.CLOCK_BOOTTIME) + 5) == (1, True)


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the file's lock, and does not give it up."""
    text = f"import fcntl, time; f = open({str(path)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", text])
    try:
        until(lambda: not _free(path), what="the lock")
        yield process
    finally:
        process.kill()
        process.wait()


def _free(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_holder_that_is_killed_leaves_the_line_as_it_was(tmp_path: Path) -> None:
    """With the lock in hand: the kernel takes it back, and what others had taken still counts."""
    path = tmp_path / "upload"
    mine, others = (Bucket(str(path), Rates(MB), clock=lambda: 1000.0) for _ in range(2))
    while mine.take(MB)[1] < 1002:
        pass
    with holder(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert others.take(1)[1] > 1002


def test_a_holder_that_is_frozen_stops_nobody(tmp_path: Path) -> None:
    """The others keep to the rate by themselves meanwhile, and share again when it is gone."""
    path = tmp_path / "upload"
    clock = [1000.0]
    mine, others = (Bucket(str(path), Rates(MB), clock=lambda: clock[0]) for _ in range(2))
    assert mine.take(1000) == (1000, 1000.001 - CREDIT)
    with holder(path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert [others.take(1000)[1] for _ in range(2)] == [1000.001 - CREDIT, 1000.002 - CREDIT]
    clock[0] += 60
    others.take(1000)
    assert mine.take(1000)[1] == pytest.approx(clock[0] + 0.002 - CREDIT)


def test_many_processes_lose_no_stretch_and_give_none_twice(tmp_path: Path) -> None:
    """Six at once take a thousand bytes two hundred times each: the line is taken for just so long."""
    path = str(tmp_path / "upload")

    def take(_: int) -> None:
        bucket = Bucket(path, Rates(MB), clock=lambda: 1000.0)
        for _ in range(200):
            assert bucket.take(1000)[0] == 1000

    in_processes(6, take)
    assert Bucket(path, Rates(MB), clock=lambda: 1000.0).take(1000)[1] == pytest.approx(1000 - CREDIT + 1.201)


@pytest.mark.parametrize("kind", [BACKUP, RunKind.RESTORE, RunKind.VERIFY])
def test_a_run_that_waits_for_its_line_ends_when_it_is_told_to(
    tmp_path: Path, server: MinioServer | None, kind: RunKind
) -> None:
    """SIGTERM with minutes to wait: it says that it was interrupted, and leaves neither process nor lock."""
    limited = LimitedFleet(tmp_path, 8 * MB, server)
    finish([start(limited.with_limits(), BACKUP, "one")])
    fleet = limited.with_limits("{upload: 50 KB, download: 50 KB}")
    options = {RunKind.RESTORE: {"target": str(tmp_path / "restored")}, RunKind.VERIFY: {"share": 100}}.get(kind, {})
    engine = start(fleet, kind, "two" if kind is BACKUP else "one", **options)
    try:
        line = limited.buckets / ("upload" if kind is BACKUP else "download")
        until(line.exists)
        until(lambda: engine.events(0.1) and len(family(engine.pid)) > 1)
        everybody = family(engine.pid)
        engine.terminate()
        (last,), _ = finish([engine], done=False)
    finally:
        engine.close()
    assert (last["event"], last["exit_code"]) == ("error", 130)
    assert [pid for pid in everybody if alive(pid)] == []
    for name in ("one", "two"):
        store = limited.with_limits().open_site("a")
        assert list(store.list(f"repos/{name}/locks/")) == []
        store.close()


def test_s3_pays_for_what_goes_over_its_connections(minio_server: MinioServer) -> None:
    """Each body, and each answer that has one, a listing's too; what is read is whole."""
    up, down = Counted(), Counted()
    store = open_store(
        f"s3:{minio_server.url}/{make_bucket(minio_server)}",
        credentials=credentials_of(minio_server),
        throttle=Throttle(up, down),
    )
    data = os.urandom(300_000)
    store.put("a", data)
    staged = store.stage("data/")
    staged.write(data[:1000])
    assert sum(up.paid) == len(data)  # it waits in the spool
    staged.publish("data/b", sha256=hashlib.sha256(data[:1000]).hexdigest())
    staged.discard()
    assert sum(up.paid) == len(data) + 1000
    assert (store.get("a"), store.get_range("a", 5, 70_000)) == (data, data[5:70_005])
    assert sum(down.paid) == len(data) + 70_000
    assert max(down.paid) <= 64 * 1024
    assert [one.key for one in store.list("")] == ["a", "data/b"]
    with pytest.raises(MissingObject):
        store.get("c")
    store.close()


def test_a_request_that_is_given_up_spoils_no_other(minio_server: MinioServer) -> None:
    """Who waits is told to end in the midst of a body, or of an answer: the next request has another connection."""
    fails = [False]

    class Failing(Counted):
        def pay(self, count: int) -> None:
            if fails[0] and len(self.paid) > 2:
                raise CoordinatorGone
            super().pay(count)

    up, down = Failing(), Failing()
    url, credentials = f"s3:{minio_server.url}/{make_bucket(minio_server)}", credentials_of(minio_server)
    store = open_store(url, credentials=credentials, connections=1, throttle=Throttle(up, down))
    data = os.urandom(2_000_000)
    store.put("a", data)
    assert store.get("a") == data
    for act in (lambda: store.put("b", data), lambda: store.get("a")):
        fails[0] = True
        with pytest.raises(CoordinatorGone):
            act()
        fails[0] = False
        assert store.get("a") == data
    assert [one.key for one in store.list("")] == ["a"]
    store.close()


# -- cores, niceness, IO ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BACKUP, RunKind.RESTORE, RunKind.VERIFY])
@pytest.mark.parametrize(("io", "priority"), [("idle", IDLE), ("low", LAST_OF_BEST_EFFORT)])
def test_an_engine_and_its_helpers_are_as_the_limits_say(tmp_path: Path, kind: RunKind, io: str, priority: int) -> None:
    """Each process of it, and each thread: one core, nice, and last at the disk."""
    limited = LimitedFleet(tmp_path, 2 * MB)
    finish([start(limited.with_limits(), BACKUP, "one")])
    kept = f"{{cores: 1, nice: 7, io: {io}, upload: 100 KB, download: 100 KB}}"
    options = {RunKind.RESTORE: {"target": str(tmp_path / "restored")}, RunKind.VERIFY: {"share": 100}}.get(kind, {})
    engine = start(limited.with_limits(kept), kind, "two" if kind is BACKUP else "one", **options)
    try:
        until(limited.buckets.exists)
        until(lambda: len(family(engine.pid)) == 2, what="one helper, since there is one core")
        found = [manners(pid) for pid in family(engine.pid)]
    finally:
        engine.kill()
        engine.close()
    core = frozenset({max(os.sched_getaffinity(0))})
    assert found == [{(7, priority, core)}] * 2


def test_what_is_nicer_already_stays_so(tmp_path: Path) -> None:
    """An engine of a service that is nice by itself; without limits it is as it was started."""
    code = (
        "import os, sys; os.nice(9); from workers.limits import EngineLimits, obey; "
        "print(obey(EngineLimits(nice=5)), obey(EngineLimits()), os.getpriority(os.PRIO_PROCESS, 0), "
        "len(os.sched_getaffinity(0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]", "9", str(len(os.sched_getaffinity(0)))]


def test_what_the_kernel_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose kernel knows no IO priorities: a note for a person, and no failure."""
    monkeypatch.setitem(limits._IOPRIO_SET, os.uname().machine, 100_000)
    refused = "limits.io can't be kept on this machine: Function not implemented"
    assert limits.obey(limits.EngineLimits(io="idle")) == [refused]
