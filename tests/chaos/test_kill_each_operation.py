"""SIGKILL at each store operation of a backup in turn: before it, half-way, after it.

What must hold after each (DESIGN.md, truth 3 and "The way of a backup"): `restic check --read-data` passes,
the next attempt of the same run completes with one snapshot of the right tree, and what it uploads again is
at most the packs that were in flight.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest

from tests.support.attempts import HELPERS, QUICK, Bench, digest, make_source
from tests.support.killing_store import READS, WRITES, operations
from tests.support.zygote import Zygote

LANES = 2  # kill points at a time
RUN = "run-of-the-killed"
# Durable at the site, and not in the journal yet when everything died: per helper one whose upload just ended
# and one that the helper had not told of; likewise the coordinator's trees.
IN_FLIGHT = 2 * (HELPERS + 1)


class Point(NamedTuple):
    """A moment: the `at`-th operation that begins with `prefix`, and "before", "half" or "after" it."""

    kind: str
    prefix: str
    at: int
    when: str


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source that no test of this module changes."""
    return make_source(str(tmp_path_factory.mktemp("source")))


@pytest.fixture(scope="module")
def lanes() -> Iterator[Callable[[Callable[[Zygote, Any], None], Sequence[Any]], None]]:
    """Work through points on several zygotes at once; all failures are told together."""
    with Zygote() as one, Zygote() as two:
        free: SimpleQueue[Zygote] = SimpleQueue()
        for zygote in (one, two):
            free.put(zygote)

        def run(work: Callable[[Zygote, Any], None], points: Sequence[Any]) -> None:
            failures = []

            def one_point(point: Any) -> None:
                zygote = free.get()
                try:
                    work(zygote, point)
                except BaseException as error:  # noqa: BLE001 - told below, with its point
                    failures.append(f"{point}: {error!r}"[:3000])
                finally:
                    free.put(zygote)

            with ThreadPoolExecutor(LANES) as pool:
                list(pool.map(one_point, points))
            assert failures == [], "\n\n".join(failures)

        yield run


@contextmanager
def _scratch() -> Iterator[str]:
    """A directory that goes away: a hundred repositories are not kept."""
    directory = tempfile.mkdtemp(prefix="holdfast-kill-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _points(writes: Sequence[str], reads: Sequence[str], *, every: bool) -> list[Point]:
    """Every write, and a sixth of the reads.

    Unless all is asked half-way stands for before, which leaves the same objects; and packs, of which there are
    many, are killed half-way and after in turn, or while they are staged and written now and then.
    Two helpers work side by side, so the order differs from attempt to attempt: counted is within a folder.
    """
    points: list[Point] = []
    for prefix, count in Counter(operation.partition("/")[0] for operation in writes).items():
        ways = ["before", "after"] if prefix.startswith(("delete", "stage")) else ["half", "after"]
        staging = prefix.startswith(("stage", "write"))
        for at in range(1, count + 1, 7 if staging and not every else 1):
            in_turn = [ways[at % 2]] if staging or prefix == "put data" else ways
            chosen = sorted({"before", *ways}) if every else in_turn
            points += [Point(WRITES, prefix, at, way) for way in chosen]
    step = 1 if every else 6
    points += [Point(READS, "", number, "before") for number in range(1, len(reads) + 1, step)]
    return points


class Series:
    """A backup that is killed at one point after the other, always from the same start."""

    def __init__(self, start: Bench, source: str, **spec: Any) -> None:
        self.start = start
        self.source = source
        self.spec = spec
        self.died_at: Counter[str] = Counter()
        self.again: list[int] = []  # packs uploaded again, by point
        self._lock = threading.Lock()

    def undisturbed(self, zygote: Zygote) -> tuple[list[str], list[str]]:
        """The operations of a backup that nobody kills; notes its tree, checks its content."""
        with _scratch() as directory:
            bench = self._bench(directory)
            trap = bench.trap()
            ended = zygote.run("backup", bench.spec(RUN, **self.spec), trap=trap, set_=QUICK)
            assert (ended.error, ended.strays, ended.left) == ("", 0, 0)
            (snapshot,) = bench.snapshots(RUN)
            self.tree = bench.source_tree(snapshot)
            self.before = len(bench.names("snapshots")) - 1
            bench.check()
            assert digest(bench.restore(ended.result["snapshot"])) == digest(self.source)
            return operations(trap.record, WRITES), operations(trap.record, READS)

    def _bench(self, directory: str) -> Bench:
        bench = self.start.copy(os.path.join(directory, "bench"))
        bench.source = self.source
        return bench

    def kill_at(self, zygote: Zygote, point: Point) -> None:
        """One attempt that is killed at the point, and one that completes."""
        with _scratch() as directory:
            bench = self._bench(directory)
            trap = bench.trap(**point._asdict())
            ended = zygote.run("backup", bench.spec(RUN, **self.spec), trap=trap, set_=QUICK)
            assert ended.left == 0
            if not ended.killed:
                assert ended.error == ""  # there was no such operation: attempts differ by a pack or two
                return
            died_at = [line for line in operations(trap.record, point.kind) if line.startswith(point.prefix)]
            with self._lock:
                self.died_at[f"{point.when} {died_at[point.at - 1].partition('/')[0]}"] += 1
            if bench.exists:
                bench.check(version="0.14" if point.at % 8 == 0 else "0.18")
            self._again(zygote, bench)

    def _again(self, zygote: Zygote, bench: Bench) -> None:
        put = bench.names("snapshots") if bench.exists else set()
        durable = bench.names("data")
        known = (bench.journaled() | bench.indexed()) & durable if bench.exists else set()
        ended = zygote.run("backup", bench.spec(RUN, **self.spec), set_=QUICK)
        assert (ended.error, ended.strays, ended.left) == ("", 0, 0)
        bench.check()
        (snapshot,) = bench.snapshots(RUN)
        assert (snapshot.id, bench.source_tree(snapshot)) == (ended.result["snapshot"], self.tree)
        assert len(bench.names("snapshots")) == self.before + 1
        assert put <= bench.names("snapshots")
        assert len(bench.names("locks")) <= 1  # the dead attempt's, which is shared and runs out
        assert bench.journaled() == set()
        new = bench.blobs(bench.names("data") - durable)
        assert sorted(new.keys() & bench.blobs(known).keys()) == []
        lost = durable - known
        again = [pack for pack in lost if bench.blobs([pack]).keys() & new.keys()]
        assert len(again) <= IN_FLIGHT
        with self._lock:
            self.again.append(len(again))

    def report(self, name: str) -> None:
        """Print where it died, for who reads the log."""
        print(f"{name}: {sum(self.died_at.values())} kills: {dict(sorted(self.died_at.items()))}")  # noqa: T201
        print(f"packs uploaded again, and how often: {dict(sorted(Counter(self.again).items()))}")  # noqa: T201


def test_a_first_backup_killed_at_each_operation(
    source: str, tmp_path: object, lanes: Any, pytestconfig: pytest.Config
) -> None:
    """From nothing: the repository is made, filled and committed, whatever operation was the last."""
    series = Series(Bench(os.path.join(str(tmp_path), "start"), source), source)
    with Zygote() as zygote:
        writes, reads = series.undisturbed(zygote)
    lanes(series.kill_at, _points(writes, reads, every=pytestconfig.getoption("--kill-points") == "all"))
    series.report("first backup")
    for folder in ("put keys", "put locks", "write data", "put data", "put index", "put snapshots"):
        assert series.died_at[f"half {folder}"], folder
        assert series.died_at[f"after {folder}"], folder
    for folder in ("put_if_absent config", "put_if_absent holdfast"):
        assert (series.died_at[f"half {folder}"], series.died_at[f"after {folder}"]) == (1, 1)
    assert (series.died_at["before delete locks"], series.died_at["after delete locks"]) == (1, 1)


@pytest.fixture(scope="module")
def committed(source: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A repository that holds a first backup of another source's content: some of it is the source's, too."""
    bench = Bench(str(tmp_path_factory.mktemp("committed")), source)
    with Zygote() as zygote:
        ended = zygote.run("backup", bench.spec("first"), set_=QUICK)
    assert ended.error == ""
    return bench


def test_an_incremental_backup_killed_at_each_operation(
    source: str, committed: Bench, tmp_path_factory: pytest.TempPathFactory, lanes: Any, pytestconfig: pytest.Config
) -> None:
    """Over a parent and its cached trees; changed, new, removed and touched files among unchanged ones."""
    for number in range(0, 240, 6):
        path = os.path.join(source, f"d{number % 12}", f"e{number % 5}", f"f{number}")
        with open(path, "ab") as file:
            file.write(os.urandom(9000))
    os.utime(os.path.join(source, "middle"))
    shutil.rmtree(os.path.join(source, "d1"))
    make_source(os.path.join(source, "new"), files=60, big=5 << 20, seed=8)
    series = Series(committed, source, kind="incremental")
    with Zygote() as zygote:
        writes, reads = series.undisturbed(zygote)
    lanes(series.kill_at, _points(writes, reads, every=pytestconfig.getoption("--kill-points") == "all"))
    series.report("incremental backup")
    for folder in ("put locks", "write data", "put data", "put index", "put snapshots", "put_if_absent holdfast"):
        assert series.died_at[f"half {folder}"], folder
        assert series.died_at[f"after {folder}"], folder


def test_a_run_that_is_killed_again_and_again_gets_there(source: str, tmp_path: object) -> None:
    """Each attempt dies at its eighth put; each leaves a repository that passes; none does twice what was noted."""
    bench = Bench(str(tmp_path), source)
    attempts = 0
    with Zygote() as zygote:
        while True:
            attempts += 1
            ended = zygote.run("backup", bench.spec(RUN), trap=bench.trap(at=8, when="half", prefix="put"), set_=QUICK)
            bench.check()
            if not ended.killed:
                break
            assert attempts < 20
    assert ended.error == ""
    assert attempts > 2
    assert len(bench.snapshots(RUN)) == 1
    assert digest(bench.restore(ended.result["snapshot"], version="0.14")) == digest(source)


def test_with_journal_and_ledger_lost_the_index_is_what_is_taken_up(source: str, tmp_path: object) -> None:
    """An index file is written at every 512 MiB (here: 1 MiB) or minute, so no more than that is uploaded again."""
    from workers.backup.engine import known

    assert (known.FLUSH_BYTES, known.FLUSH_SECONDS) == (512 << 20, 60.0)
    flush = 1 << 20
    settings = {**QUICK, "workers.backup.engine.known:FLUSH_BYTES": flush, "workers.backup.engine.coordinator:TICK": 0}
    bench = Bench(str(tmp_path), source)
    with Zygote() as zygote:
        ended = zygote.run("backup", bench.spec(RUN), trap=bench.trap(at=3, prefix="put index/"), set_=settings)
        assert ended.killed
        shutil.rmtree(os.path.join(bench.cache, "journal"))
        durable, indexed = bench.names("data"), bench.indexed()
        ended = zygote.run("backup", bench.spec(RUN), set_=settings)
    assert ended.error == ""
    bench.check()
    assert len(bench.names("index")) >= 3
    new = bench.blobs(bench.names("data") - durable)
    assert new.keys() & bench.blobs(indexed).keys() == set()
    again = sum(blob.length for key, blob in bench.blobs(durable - indexed).items() if key in new)
    biggest = max(os.path.getsize(os.path.join(bench.path, "data", pack[:2], pack)) for pack in durable)
    assert 0 < again <= flush + IN_FLIGHT * biggest


def test_the_ledgers_journal_serves_another_host(source: str, tmp_path: object) -> None:
    """The next attempt runs where no local journal is; what the ledger noted by `packed` events is enough."""
    bench = Bench(str(tmp_path), source)
    with Zygote() as zygote:
        trap = bench.trap(at=1, prefix="put index/")
        assert zygote.run("backup", bench.spec(RUN), trap=trap, set_=QUICK).killed
        noted = sorted(bench.journaled())
        shutil.rmtree(bench.cache)
        durable = bench.names("data")
        ended = zygote.run("backup", bench.spec(RUN, journal=noted), set_=QUICK)
    assert (ended.error, ended.result["packs_resumed"]) == ("", len(noted))
    assert noted == sorted(durable)
    assert bench.blobs(bench.names("data") - durable).keys() & bench.blobs(durable).keys() == set()
    bench.check()


def test_a_journal_that_lies_does_no_harm(source: str, tmp_path: object) -> None:
    """Packs that never were, that were pruned, or that are cut short: their blobs are stored, the rest taken up."""
    bench = Bench(str(tmp_path), source)
    with Zygote() as zygote:
        trap = bench.trap(at=1, prefix="put index/")
        assert zygote.run("backup", bench.spec(RUN), trap=trap, set_=QUICK).killed
        gone, cut, *rest = sorted(bench.journaled())
        os.unlink(os.path.join(bench.path, "data", gone[:2], gone))
        path = os.path.join(bench.path, "data", cut[:2], cut)
        os.truncate(path, os.path.getsize(path) // 2)
        ended = zygote.run("backup", bench.spec(RUN, journal=["ab" * 32]), set_=QUICK)
    assert (ended.error, ended.result["packs_resumed"]) == ("", len(rest))
    os.unlink(path)  # no index lists it
    bench.check()
    assert digest(bench.restore(ended.result["snapshot"])) == digest(source)
