"""SIGKILL at store operations of a healing, one of each kind or all of them: before, half-way, after.

What must hold after each: nothing that was whole is worse, and the next healing brings all back.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.repository.pack import BlobType
from tests.support.healings import Pair, befall, content, flip, go_apart, gone, keys_of, pack_key, place, two_sites
from tests.support.killing_store import READS, WRITES, operations
from tests.support.prunes import contents
from tests.support.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where they run."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, str]]:
    """What each snapshot restores to, filled by `start`."""
    return {}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, files: dict[str, dict[str, str]]) -> Pair:
    """Work of each kind: a pack that the other site has, some that it has not, one object of each other kind."""
    pair = go_apart(two_sites(str(tmp_path_factory.mktemp("start")), zygote))
    files |= contents(pair.here)
    here, there = pair.here, pair.there
    repo = here.open()
    packs = {pack.hex(): blobs for name in here.names("index") for pack, blobs in repo.load_index(name)}
    alone = [name for name in sorted(packs) if name not in there.names("data")]
    data = [name for name in alone if packs[name][0].type is BlobType.DATA]
    trees = [name for name in alone if packs[name][0].type is BlobType.TREE]
    befall(here, pack_key(data[0]), flip(40))
    befall(here, pack_key(trees[0]), gone)
    both = sorted(here.names("data") & there.names("data"))
    if both:
        befall(here, pack_key(both[0]), gone)
    befall(here, keys_of(here, "index")[0], flip(60))
    befall(here, keys_of(here, "snapshots")[0], flip(60))
    befall(here, keys_of(here, "keys")[0], flip(60))
    befall(here, "config", flip(20))
    return pair


@contextmanager
def scratch(start: Pair) -> Iterator[Pair]:
    """A copy of the start that goes away."""
    directory = tempfile.mkdtemp(prefix="holdfast-kill-")
    try:
        yield start.copy(directory)
    finally:
        shutil.rmtree(directory)


def ways(operation: str) -> tuple[str, ...]:
    """The moments of an operation that can be told apart."""
    return ("half", "after") if operation.startswith("put ") else ("before", "after")


def kind_of(operation: str) -> str:
    """What is done, to what."""
    return operation.partition("/")[0]


def whole_objects(pair: Pair) -> dict[str, bytes]:
    """Packs and snapshots that hash to their names, and what was put beside them is no worse than nothing."""
    keys = keys_of(pair.here, "data", "snapshots", "keys")
    return {key: content(pair.here, key) for key in keys}


def test_a_healing_killed_at_its_operations(
    start: Pair, files: dict[str, dict[str, str]], pytestconfig: pytest.Config
) -> None:
    """From the first key file to the lock that is given back."""
    every = pytestconfig.getoption("--kill-points") == "all"
    with scratch(start) as pair:
        trap = pair.here.trap(slow=0)
        ended = pair.try_to_heal(trap=trap)
        assert (ended.error, ended.result["exit_code"]) == ("", 0), ended.result
        writes, reads = operations(trap.record, WRITES), operations(trap.record, READS)
        healed = whole_objects(pair)
        pair.here.check()
        assert contents(pair.here) == files
    points: list[tuple[str, int, str]] = []
    for kind in dict.fromkeys(map(kind_of, writes)):
        if kind.endswith(" locks") and not every:
            continue
        at = [number for number, name in enumerate(writes, 1) if kind_of(name) == kind]
        moments = [(WRITES, number, when) for number in at for when in ways(kind)]
        points += moments if every else moments[len(moments) // 2 :][:1]
    points += [(READS, at, "before") for at in range(1, len(reads) + 1, 1 if every else len(reads))]
    before = whole_objects(start)
    killed: Counter[str] = Counter()
    for number, (kind, at, when) in enumerate(points):
        with scratch(start) as pair:
            trap = pair.here.trap(slow=0, kind=kind, at=at, when=when)
            ended = pair.try_to_heal(trap=trap)
            assert (ended.killed, ended.left) == (True, 0), (kind, at, when, ended.error)
            killed[f"{when} {kind_of(operations(trap.record, kind)[at - 1])}"] += 1
            now = whole_objects(pair)
            assert all(now[key] in (was, healed.get(key)) for key, was in before.items()), (kind, at, when)
            shutil.rmtree(place(pair.here, "locks"), ignore_errors=True)
            ended = pair.try_to_heal()
            assert (ended.error, ended.strays, ended.result["exit_code"]) == ("", 0, 0), (kind, at, when)
            if number % 5 == 0 or every:
                pair.here.check(version="0.14" if number % 10 == 0 else "0.18")
            if number == len(points) - 1:
                assert contents(pair.here) == files
    print(f"{sum(killed.values())} kills: {dict(sorted(killed.items()))}")  # noqa: T201
    places = {place.partition(" ")[2] for place in killed}
    assert {"put keys", "put data", "put index", "put snapshots", "delete index", "compare_and_swap config"} <= places
