"""Bit rot: a hundred flips over all that one site has. Each is found, and each is healed from a site that differs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.healings import Pair, befall, content, flip_at_random, go_apart, keys_of, two_sites
from tests.support.prunes import contents
from tests.support.zygote import Zygote

SEED, FLIPS = 6, 100
KINDS = ("data", "index", "snapshots", "keys")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two sites that have the same snapshots, and packs of their own."""
    with Zygote() as zygote:
        yield go_apart(two_sites(str(tmp_path_factory.mktemp("apart")), zygote))


def test_a_hundred_flips(pair: Pair, tmp_path: Path) -> None:
    """Packs, index files, snapshots, keys, config: afterwards stock restic finds no error, and all files are there."""
    files = contents(pair.here)
    pair = pair.copy(str(tmp_path))
    draw = random.Random(SEED)
    objects = [*keys_of(pair.here, *KINDS), "config"]
    was = {key: content(pair.here, key) for key in objects}
    draw.shuffle(objects)
    for number in range(FLIPS):
        befall(pair.here, objects[number % len(objects)], flip_at_random(draw))
    flipped = {key for key in objects if content(pair.here, key) != was[key]}
    assert {key.partition("/")[0] for key in flipped} == {*KINDS, "config"}
    report = pair.heal()
    assert (report["exit_code"], report["errors"], report["lost"]) == (0, 0, [])
    assert flipped <= set(report["healed"])
    pair.here.check()
    assert contents(pair.here) == files
    again = pair.heal()
    assert (again["found"], again["healed"]) == (0, [])
