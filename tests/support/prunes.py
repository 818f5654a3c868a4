"""Repositories that are worth a prune, and what must hold of them."""

from __future__ import annotations

import os
import random
import shutil
from typing import Any

from tests.support.attempts import MACHINE, QUICK, Bench, digest
from tests.support.zygote import Zygote
from workers.backup.spec import SiteSpec
from workers.maintenance.prune_spec import PruneSpec

PACK_SIZE = 24 << 10  # bytes: so that a few hundred kilobytes are a dozen packs


def prune_spec(bench: Bench, **more: Any) -> dict[str, Any]:
    """A prune that spares nothing, and waits for nobody."""
    spec = PruneSpec(
        SiteSpec("a", bench.site),
        bench.repository,
        "d" * 32,
        [MACHINE],
        max_unused=0,
        pack_size=PACK_SIZE,
        spare=0,
        pause=0,
        patience=0,
        helpers=2,
        cache_dir=bench.cache,
    )
    return {**spec.to_json(), **more}


def change_source(source: str, day: int) -> None:
    """Each day a third of some files changes, some go, some come, one directory stays as it was."""
    draw = random.Random(day)
    for number in range(24):
        path = os.path.join(source, f"d{number % 4}", f"f{number}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if number % 3 == day % 3 or day == 1:
            with open(path, "wb") as file:
                file.write(draw.randbytes(draw.randrange(500, 9000)) + b"text " * 300)
    os.makedirs(os.path.join(source, "kept"), exist_ok=True)
    with open(os.path.join(source, f"of day {day}"), "wb") as file:
        file.write(draw.randbytes(5000))
    old = os.path.join(source, f"of day {day - 2}")
    if os.path.exists(old):
        os.unlink(old)


def back_up(bench: Bench, zygote: Zygote, day: int) -> str:
    """The snapshot of a day, made as of the source's own state; its id."""
    change_source(bench.source, day)
    kind = "full" if day == 1 else "incremental"
    ended = zygote.run("backup", bench.spec(f"{day:032}", kind=kind, pack_size=PACK_SIZE), set_=QUICK)
    assert ended.error == ""
    name: str = ended.result["snapshot"]
    return name


def forget(bench: Bench, snapshot: str) -> None:
    """As stock restic does it."""
    os.unlink(os.path.join(bench.path, "snapshots", snapshot))


def contents(bench: Bench) -> dict[str, dict[str, str]]:
    """What stock restic restores from each snapshot: its files and their hashes."""
    found = {}
    for name in sorted(bench.names("snapshots")):
        target = bench.restore(name)
        found[name] = digest(target)
        shutil.rmtree(target)
    return found


def assert_clean(bench: Bench) -> None:
    """Each pack is indexed and nothing is noted any more."""
    assert bench.names("data") == bench.indexed()
    assert bench.names("holdfast/doomed") == set()
