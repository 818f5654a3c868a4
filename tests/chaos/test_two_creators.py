"""Two that create one repository at once, killed at each step, leave one that both restics open with both passwords."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.attempts import MACHINE, RECOVERY, REPOSITORY, SECRET, Bench
from tests.support.killing_store import READS, WRITES, operations
from tests.support.zygote import Ended, Zygote

Zygotes = tuple[Zygote, Zygote]


@pytest.fixture(scope="module")
def zygotes() -> Iterator[Zygotes]:
    """Two creators."""
    with Zygote() as one, Zygote() as two:
        yield one, two


_TRIES = 20  # until both have seen an empty site


def _arguments(bench: Bench, *, at: float = 0.0) -> dict[str, Any]:
    return {
        "site": {"id": "a", "url": bench.site},
        "repository": REPOSITORY,
        "fleet_secret": SECRET.hex(),
        "recovery_password": RECOVERY,
        "at": at,
    }


def _race(bench: Bench, zygotes: Zygotes, *traps: dict[str, Any]) -> list[Ended]:
    start = time.time() + 0.02
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(
                lambda pair: pair[0].run("create", _arguments(bench, at=start), trap=bench.trap(**pair[1])),
                zip(zygotes, traps, strict=True),
            )
        )


def _hold_to_one(bench: Bench, zygote: Zygote) -> None:
    """Whatever was left: a third creator comes to its end, and what is there is one sound repository."""
    ended = zygote.run("create", _arguments(bench))
    assert ended.error == ""
    for version in ("0.14", "0.18"):
        for password in (MACHINE, RECOVERY):
            # Without --no-lock: no creator leaves a lock, and stock restic may write its own.
            bench.restic("snapshots", version=version, password=password)
    assert len(bench.names("keys")) <= 6  # stock restic tries about 20
    bench.check()


def _points() -> list[dict[str, Any]]:
    with Zygote() as zygote, tempfile.TemporaryDirectory() as directory:
        bench = Bench(directory, "")
        trap = bench.trap()
        assert zygote.run("create", _arguments(bench), trap=trap).error == ""
        writes, reads = operations(trap.record, WRITES), operations(trap.record, READS)
    assert [line.partition("/")[0] for line in writes] == ["put keys", "put keys", "put_if_absent config"]
    points = [{"at": at, "when": when} for at in range(1, len(writes) + 1) for when in ("half", "after")]
    return points + [{"at": at, "kind": READS} for at in range(1, len(reads) + 1)]


def test_two_creators_killed_at_each_step(zygotes: Zygotes, tmp_path: object, pytestconfig: pytest.Config) -> None:
    """One is killed at each step in turn, the other at another step; now and then one of them gets through."""
    points = _points()
    every = pytestconfig.getoption("--kill-points") == "all"
    killed = []
    for number, first in enumerate(points):
        others = points if every else [points[(number * 5 + 3) % len(points)]]
        for second in others:
            bench = Bench(os.path.join(str(tmp_path), "bench"), "")
            ended = _race(bench, zygotes, first, second)
            killed += [one.killed for one in ended]
            assert [one.error for one in ended] == ["", ""]
            _hold_to_one(bench, zygotes[0])
            shutil.rmtree(bench.directory)
    print(f"{sum(killed)} of {len(killed)} creators were killed")  # noqa: T201
    assert sum(killed) > len(killed) // 2


def test_one_is_killed_at_each_step_while_the_other_gets_through(zygotes: Zygotes, tmp_path: object) -> None:
    """Both have seen an empty site: the one that lives ends with the same repository as if it had been alone."""
    ids = set()
    for point in _points()[:6]:
        for _ in range(_TRIES):
            bench = Bench(os.path.join(str(tmp_path), "bench"), "")
            killed, alive = _race(bench, zygotes, point, {})
            assert (killed.error, alive.error) == ("", "")
            if killed.killed:
                break
            shutil.rmtree(bench.directory)  # the other was done before this one looked
        assert killed.killed, point
        ids.add(alive.result["restic_id"])
        _hold_to_one(bench, zygotes[0])
        shutil.rmtree(bench.directory)
    assert len(ids) == 1
