"""SIGKILL at each store operation of a replication in turn: before it, half-way, after it.

What must hold after each: stock restic finds no error at either site, and the next replication brings over what is left
of it, with no object twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.attempts import QUICK, Bench
from tests.support.killing_store import READS, WRITES, operations
from tests.support.prunes import back_up, contents
from tests.support.replicas import other, replicate_json
from tests.support.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where they run."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Bench:
    """Two days of a source."""
    base = str(tmp_path_factory.mktemp("start"))
    bench = Bench(os.path.join(base, "bench"), os.path.join(base, "source"))
    for day in (1, 2):
        back_up(bench, zygote, day)
    return bench


@contextmanager
def scratch(start: Bench) -> Iterator[tuple[Bench, Bench]]:
    """A copy of the start, and an empty site, that go away."""
    directory = tempfile.mkdtemp(prefix="holdfast-kill-")
    try:
        bench = start.copy(os.path.join(directory, "bench"))
        yield bench, other(bench)
    finally:
        shutil.rmtree(directory)


def ways(operation: str) -> tuple[str, ...]:
    """The moments of an operation: a delete, and what is put if absent, has no middle that a store could show."""
    return ("before", "after") if operation.startswith(("delete", "put_if_absent")) else ("half", "after")


def test_a_replication_killed_at_each_operation(start: Bench, zygote: Zygote, pytestconfig: pytest.Config) -> None:
    """From the first key file to the lock that is given back; a site is whole, or has no repository yet."""
    every = pytestconfig.getoption("--kill-points") == "all"
    files = contents(start)
    with scratch(start) as (bench, target):
        trap = bench.trap(slow=0)
        ended = zygote.run("replicate", replicate_json(bench, target), trap=trap, set_=QUICK)
        assert (ended.error, ended.result["snapshots"]) == ("", 2)
        writes, reads = operations(trap.record, WRITES), operations(trap.record, READS)
        whole = {kind: target.names(kind) for kind in ("data", "snapshots", "keys")}
    points = [(WRITES, at, when) for at, name in enumerate(writes, 1) for when in ways(name)]
    points += [(READS, at, "before") for at in range(1, len(reads) + 1, 1 if every else 12)]
    killed: Counter[str] = Counter()
    for number, (kind, at, when) in enumerate(points):
        with scratch(start) as (bench, target):
            trap = bench.trap(slow=0, kind=kind, at=at, when=when)
            ended = zygote.run("replicate", replicate_json(bench, target), trap=trap, set_=QUICK)
            assert (ended.killed, ended.left) == (True, 0), (kind, at, when, ended.error)
            killed[f"{when} {operations(trap.record, kind)[at - 1].split('/')[0]}"] += 1
            if target.exists and number % 6 == 0:
                target.check()
            ended = zygote.run("replicate", replicate_json(bench, target), set_=QUICK)
            assert (ended.error, ended.strays) == ("", 0), (kind, at, when)
            assert {name: target.names(name) for name in whole} == whole
            assert target.indexed() == whole["data"]
            if number % 6 == 3:
                target.check(version="0.14" if number % 12 == 3 else "0.18")
            if number % 24 == 0:
                shutil.rmtree(os.path.join(target.path, "locks"))
                assert contents(target) == files, (kind, at, when)
    print(f"{sum(killed.values())} kills: {dict(sorted(killed.items()))}")  # noqa: T201
    assert {place.partition(" ")[2] for place in killed} >= {"put keys", "put data", "put index", "put snapshots"}


def test_packs_that_a_killed_one_has_brought_are_not_copied_again(start: Bench, zygote: Zygote) -> None:
    """They lie there, and are listed now."""
    with scratch(start) as (bench, target):
        trap = bench.trap(slow=0, at=1, prefix="put index")
        assert zygote.run("replicate", replicate_json(bench, target), trap=trap, set_=QUICK).killed
        there = len(target.names("data"))
        trap = bench.trap(slow=0)
        ended = zygote.run("replicate", replicate_json(bench, target), trap=trap, set_=QUICK)
        assert (ended.error, ended.result["packs_there"]) == ("", there)
        put = [line for line in operations(trap.record, WRITES) if line.startswith("put data")]
        assert (len(put), len(target.names("data"))) == (ended.result["packs"], there + ended.result["packs"])
