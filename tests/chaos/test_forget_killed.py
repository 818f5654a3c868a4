"""SIGKILL at each store operation of a forget in turn: before it, half-way, after it.

What must hold after each: `restic check --read-data` passes; whatever is gone has a tombstone, so that its run is
superseded and not done again; and the next forget ends as one that nobody killed.
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

from shared.repository.holds import add_hold
from shared.retention import Rules
from tests.support.attempts import MACHINE, QUICK, Bench, make_source
from tests.support.histories import add_day, run_of
from tests.support.killing_store import READS, WRITES, operations
from tests.support.zygote import Zygote
from workers.backup.commit import State, find_commit
from workers.backup.spec import SiteSpec
from workers.maintenance.forget_spec import ForgetSpec

DAYS = range(1, 7)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Six days of a source; one is held, one is incomplete; a commit is left by a forget that was killed before."""
    base = str(tmp_path_factory.mktemp("start"))
    bench = Bench(os.path.join(base, "bench"), make_source(os.path.join(base, "source"), files=6, big=1 << 20))
    with Zygote() as zygote:
        assert zygote.run("backup", bench.spec("f" * 32, source="other"), set_=QUICK).error == ""
    repo = bench.open()
    (like,) = repo.snapshots()
    names = {day: add_day(repo, like, day, unreadable=int(day == 4)) for day in DAYS}
    add_hold(repo, names[2], "web1", "INC-77")
    gone = add_day(repo, like, 9)
    repo.store.put(f"holdfast/forgotten/{gone}", b"")
    repo.store.delete(f"snapshots/{gone}")
    return bench


@contextmanager
def scratch(start: Bench) -> Iterator[Bench]:
    """A copy of the start that goes away."""
    directory = tempfile.mkdtemp(prefix="holdfast-kill-")
    try:
        yield start.copy(os.path.join(directory, "bench"))
    finally:
        shutil.rmtree(directory)


def spec(bench: Bench) -> dict[str, Any]:
    """Two days stay, and what is held."""
    return ForgetSpec(
        SiteSpec("a", bench.site), bench.repository, "web1", "c" * 32, [MACHINE], Rules(daily=2), cache_dir=bench.cache
    ).to_json()


def state(bench: Bench) -> dict[str, set[str]]:
    """What a forget changes."""
    return {kind: bench.names(kind) for kind in ("snapshots", "holdfast/commits", "holdfast/forgotten")}


def ways(operation: str) -> tuple[str, ...]:
    """The moments of an operation: a delete has no middle, and half of what is put is nobody's."""
    return ("before", "after") if operation.startswith("delete") else ("half", "after")


def hold_to_truth_4(bench: Bench, zygote: Zygote, start: Bench) -> None:
    """Nothing is gone without a tombstone, and no commit without its snapshot lacks one."""
    before, now = state(start), state(bench)
    assert before["snapshots"] - now["snapshots"] <= now["holdfast/forgotten"]
    repo = bench.open()
    for day in (*DAYS, 9):
        found = find_commit(repo, run_of(day))
        assert found.state is not State.OPEN
        if found.state is State.FORGOTTEN:
            ended = zygote.run("backup", bench.spec(run_of(day)), set_=QUICK)
            assert (ended.error, ended.result["superseded"], ended.result["snapshot"]) == ("", True, found.id)
            assert state(bench) == now


def test_a_forget_killed_at_each_operation(start: Bench, pytestconfig: pytest.Config) -> None:
    """From the first read to the lock that is given back."""
    every = pytestconfig.getoption("--kill-points") == "all"
    with Zygote() as zygote:
        with scratch(start) as bench:
            trap = bench.trap(slow=0)
            ended = zygote.run("forget", spec(bench), trap=trap, set_=QUICK)
            assert (ended.error, ended.result["forgotten"], ended.result["finished"]) == ("", 3, 1)
            writes, reads = operations(trap.record, WRITES), operations(trap.record, READS)
            wanted = state(bench)
            bench.check()
        points = [(WRITES, at, when) for at, name in enumerate(writes, 1) for when in ways(name)]
        points += [(READS, at, "before") for at in range(1, len(reads) + 1, 1 if every else 4)]
        killed: Counter[str] = Counter()
        for kind, at, when in points:
            with scratch(start) as bench:
                ended = zygote.run(
                    "forget", spec(bench), trap=bench.trap(slow=0, kind=kind, at=at, when=when), set_=QUICK
                )
                assert ended.killed
                name = (writes if kind == WRITES else reads)[at - 1]
                killed[f"{when} {name.rpartition('/')[0] or name}"] += 1
                bench.check()
                hold_to_truth_4(bench, zygote, start)
                shutil.rmtree(os.path.join(bench.path, "locks"))  # as the reaper does
                ended = zygote.run("forget", spec(bench), set_=QUICK)
                assert (ended.error, ended.strays, ended.left) == ("", 0, 0)
                assert state(bench) == wanted, (kind, at, when)
                bench.check()
    print(f"{sum(killed.values())} kills: {dict(sorted(killed.items()))}")  # noqa: T201
    for point, times in (
        ("half put_if_absent holdfast/forgotten", 3),
        ("after put_if_absent holdfast/forgotten", 3),
        ("after delete snapshots", 3),
        ("before delete holdfast/commits", 4),
        ("after delete holdfast/commits", 4),
    ):
        assert killed[point] == times, killed


def test_a_slot_that_was_forgotten_is_not_backed_up_again(start: Bench) -> None:
    """Killed before its last step, the run is superseded; done to its end, the slot is older than what is kept."""
    with Zygote() as zygote, scratch(start) as bench:
        trap = bench.trap(slow=0, at=2, prefix="delete holdfast/commits", when="before")
        assert zygote.run("forget", spec(bench), trap=trap, set_=QUICK).killed
        assert {find_commit(bench.open(), run_of(day)).state for day in (1, 3, 4)} <= {State.FORGOTTEN, State.NONE}
        hold_to_truth_4(bench, zygote, start)


def test_tombstones_that_have_served_go_last(start: Bench) -> None:
    """Killed at each write: a commit whose snapshot is gone never stands without its tombstone."""
    with Zygote() as zygote, scratch(start) as ready:
        repo = ready.open()
        (name,) = {one.id for one in repo.snapshots() if one.tag("run") == run_of(1)}
        sealed = repo.store.get(f"holdfast/commits/{run_of(1)}")
        assert zygote.run("forget", spec(ready), set_=QUICK).error == ""
        repo.store.put(f"holdfast/commits/{run_of(1)}", sealed)  # as one that was killed before its last step leaves it
        given = {**spec(ready), "others": [], "tombstones": 0.0}
        with scratch(ready) as bench:
            trap = bench.trap(slow=0)
            ended = zygote.run("forget", {**given, **where(bench)}, trap=trap, set_=QUICK)
            assert (ended.error, ended.result["finished"], ended.result["cleared"]) == ("", 1, 3)
            writes, wanted = operations(trap.record, WRITES), state(bench)
        assert wanted["holdfast/forgotten"] == state(ready)["holdfast/forgotten"] - killed_days(start)
        for at, operation in enumerate(writes, 1):
            for when in ways(operation):
                with scratch(ready) as bench:
                    trap = bench.trap(slow=0, kind=WRITES, at=at, when=when)
                    assert zygote.run("forget", {**given, **where(bench)}, trap=trap, set_=QUICK).killed
                    assert find_commit(bench.open(), run_of(1)).state in {State.FORGOTTEN, State.NONE}
                    assert name not in state(bench)["snapshots"]
                    shutil.rmtree(os.path.join(bench.path, "locks"))
                    assert zygote.run("forget", {**given, **where(bench)}, set_=QUICK).error == ""
                    assert state(bench) == wanted, (operation, when)
                    bench.check()


def where(bench: Bench) -> dict[str, Any]:
    """What of a spec says where the bench is."""
    return {key: value for key, value in spec(bench).items() if key in {"site", "cache_dir"}}


def killed_days(start: Bench) -> set[str]:
    """The snapshots that the forget forgets."""
    return {one.id for one in start.open().snapshots() if one.tag("run") in {run_of(day) for day in (1, 3, 4)}}
