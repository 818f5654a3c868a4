"""SIGKILL at each store operation of a prune in turn: before it, half-way, after it.

What must hold after each: `restic check --read-data` passes, and a prune cleans up, be it stock restic's or ours.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.attempts import QUICK, Bench
from tests.support.killing_store import READS, WRITES, operations
from tests.support.prunes import assert_clean, back_up, change_source, contents, forget, prune_spec
from tests.support.zygote import Zygote

Point = tuple[str, int, str]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where prunes run."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Bench:
    """Work of each kind: packs to be repacked, unused, not indexed; doomed ones that are due, indexed again, gone."""
    base = str(tmp_path_factory.mktemp("start"))
    bench = Bench(os.path.join(base, "bench"), os.path.join(base, "source"))
    first, second = back_up(bench, zygote, 1), back_up(bench, zygote, 2)
    back_up(bench, zygote, 3)
    forget(bench, first)
    assert zygote.run("prune", prune_spec(bench), set_=QUICK).error == ""
    doomed = sorted(bench.names("holdfast/doomed"))
    assert len(doomed) > 3
    kept, gone = doomed[:2]
    os.unlink(pack(bench, gone))
    os.rename(pack(bench, kept), os.path.join(base, kept))
    bench.restic("repair", "index")  # the others are listed again
    os.rename(os.path.join(base, kept), pack(bench, kept))
    forget(bench, second)
    back_up(bench, zygote, 4)
    change_source(bench.source, 5)
    trap = bench.trap(at=1, prefix="put index")
    assert zygote.run("backup", bench.spec("e" * 32, source="other"), trap=trap, set_=QUICK).killed
    shutil.rmtree(os.path.join(bench.path, "locks"))  # as the reaper does
    shutil.rmtree(os.path.join(bench.cache, "journal"))
    return bench


def pack(bench: Bench, name: str) -> str:
    """Where a pack lies."""
    return os.path.join(bench.path, "data", name[:2], name)


@contextmanager
def scratch(start: Bench) -> Iterator[Bench]:
    """A copy of the start that goes away."""
    directory = tempfile.mkdtemp(prefix="holdfast-kill-")
    try:
        yield start.copy(os.path.join(directory, "bench"))
    finally:
        shutil.rmtree(directory)


def ways(operation: str) -> tuple[str, ...]:
    """The moments of an operation: a delete has no middle, and half of what is put or staged is nobody's."""
    if operation.startswith(("delete", "stage")):
        return ("before", "after")
    return ("half",) if operation.startswith("write") else ("half", "after")


def again(bench: Bench, zygote: Zygote, *, stock: str = "") -> None:
    """Clean up after a kill, perhaps by a stock restic first."""
    shutil.rmtree(os.path.join(bench.path, "locks"), ignore_errors=True)
    if stock:
        bench.restic("prune", "--max-unused", "0", version=stock)
        assert "additional files" not in bench.restic("check", version=stock)
    for _ in range(2):
        ended = zygote.run("prune", prune_spec(bench, grace=0), set_=QUICK)
        assert (ended.error, ended.strays, ended.left, ended.result["done"]) == ("", 0, 0, True)
    bench.check()
    assert_clean(bench)


def test_a_prune_killed_at_each_operation(start: Bench, zygote: Zygote, pytestconfig: pytest.Config) -> None:
    """From the first read to the lock that is given back; the snapshots' files are what they were."""
    every = pytestconfig.getoption("--kill-points") == "all"
    files = contents(start)
    with scratch(start) as bench:
        trap = bench.trap(slow=0)
        ended = zygote.run("prune", prune_spec(bench, grace=0), trap=trap, set_=QUICK)
        assert (ended.error, ended.result["done"], ended.result["notes"]) == ("", True, [])
        writes, reads = operations(trap.record, WRITES), operations(trap.record, READS)
        bench.check()
        assert contents(bench) == files
        again(bench, zygote)
    points: list[Point] = []
    for at, name in enumerate(writes, 1):
        # What an operation leaves is what the next one finds: one of its moments, in turn, unless all is asked.
        points += [(WRITES, at, when) for when in (ways(name) if every else ways(name)[at % 2 :][:1] or ways(name)[:1])]
    points += [(READS, at, "before") for at in range(1, len(reads) + 1, 1 if every else 12)]
    killed: Counter[str] = Counter()
    for number, (kind, at, when) in enumerate(points):
        with scratch(start) as bench:
            trap = bench.trap(slow=0, kind=kind, at=at, when=when)
            ended = zygote.run("prune", prune_spec(bench, grace=0), trap=trap, set_=QUICK)
            assert (ended.killed, ended.left) == (True, 0), (kind, at, when, ended.error)
            killed[f"{when} {operations(trap.record, kind)[at - 1].rpartition('/')[0].partition('/data')[0]}"] += 1
            bench.check(version="0.14" if number % 3 == 0 else "0.18")
            again(bench, zygote, stock=("", "0.18", "", "0.14")[number % 4])
            if number % 8 == 0:
                assert contents(bench) == files, (kind, at, when)
    print(f"{sum(killed.values())} kills: {dict(sorted(killed.items()))}")  # noqa: T201
    places = {place.split("/")[0].split(" ", 1)[1] for place in killed if "delete" in place or "put" in place}
    assert {"put data", "put index", "put holdfast", "delete index", "delete data", "delete holdfast"} <= places


@pytest.mark.parametrize(
    "stock", [("0.14", "rebuild-index"), ("0.18", "repair index"), ("0.14", "prune"), ("0.18", "prune")]
)
def test_stock_restic_between_the_two_steps(start: Bench, zygote: Zygote, stock: tuple[str, str]) -> None:
    """Doomed packs are indexed again, or gone at once: the second step takes either for what it is."""
    version, command = stock
    with scratch(start) as bench:
        files = contents(bench)
        ended = zygote.run("prune", prune_spec(bench), set_=QUICK)
        assert (ended.error, ended.result["packs_deleted"]) == ("", 0)
        doomed = bench.names("holdfast/doomed") & bench.names("data")
        assert doomed
        bench.restic(*command.split(), version=version)
        there = bench.names("data") & doomed
        assert (there, bool(there & bench.indexed())) == ((set(), False) if command == "prune" else (doomed, True))
        bench.check(version=version)
        ended = zygote.run("prune", prune_spec(bench, grace=0), set_=QUICK)
        assert (ended.error, ended.result["packs_deleted"]) == ("", len(there))
        bench.check(version=version)
        assert_clean(bench)
        assert contents(bench) == files


def test_a_backup_killed_before_a_prune_is_resumed_after_it(start: Bench, zygote: Zygote) -> None:
    """Its packs, which the journal names, are doomed by then: it stores again what they held, and is whole."""
    with scratch(start) as bench:
        change_source(bench.source, 6)
        trap = bench.trap(at=1, prefix="put index")
        run: dict[str, Any] = bench.spec("f" * 32, source="other", kind="full")
        assert zygote.run("backup", run, trap=trap, set_=QUICK).killed
        journaled = bench.journaled()
        shutil.rmtree(os.path.join(bench.path, "locks"))
        assert zygote.run("prune", prune_spec(bench), set_=QUICK).error == ""
        assert journaled <= bench.names("holdfast/doomed")
        ended = zygote.run("backup", run, set_=QUICK)
        assert (ended.error, ended.result["packs_resumed"]) == ("", 0)
        assert zygote.run("prune", prune_spec(bench, grace=0), set_=QUICK).error == ""
        assert journaled & bench.names("data") == set()
        bench.check()
        assert contents(bench)[ended.result["snapshot"]]
