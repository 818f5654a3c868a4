"""Time to give back the space of forgotten snapshots: Holdfast against stock restic, on copies of one repository.

    python benchmarks/prune.py [--files 40000] [--days 14] [--rounds 3] [--json FILE]

A source of files from 1 to 200 KB is backed up by Holdfast into a directory, and again after each day's changes (one
file in twenty is written anew).

daily    two snapshots have been forgotten and pruned, one more is forgotten, and a prune is timed; it also deletes what
         the one before has doomed
at_once  the older half is forgotten, and all its space is to come back, for which Holdfast prunes twice, since it
         deletes in a second step after a grace period (a second here): both count

Each tool works on a copy of its own, with a warm cache and its defaults, by which 5% may stay unused. restic opens the
repository by its machine password, too. `restic check` must pass after each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import contenders  # noqa: E402 -- found by the path above
import measure  # noqa: E402
import sites  # noqa: E402

from shared.config.fleet import Fleet  # noqa: E402
from shared.config.opening import open_repository  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE = 1.0  # seconds


@dataclass
class Ground:
    """One repository with its history, in a directory, and what opens it."""

    work: str
    holdfast: contenders.Holdfast
    binary: str
    restic: str
    password: str
    snapshots: list[str]  # oldest first

    @property
    def site(self) -> str:
        """Where the configuration says that it is: copies take turns there."""
        return os.path.join(self.work, "sites", "site")

    def fresh(self, forgotten: int) -> None:
        """Put a copy in place, without the oldest snapshots, and without anybody's cache."""
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.copytree(os.path.join(self.work, "original"), self.site, copy_function=os.link)
        for number in range(forgotten):
            self.forget(number)
        for cache in ("holdfast-cache", "restic-cache"):
            shutil.rmtree(os.path.join(self.work, cache), ignore_errors=True)

    def forget(self, number: int) -> None:
        """Take away a snapshot, as stock `restic forget` does."""
        os.unlink(os.path.join(self.site, "repos/bench/snapshots", self.snapshots[number]))

    def run(self, tool: str, *more: str) -> measure.Cost:
        """Let a tool prune what is in place."""
        if tool == "holdfast":
            config = os.path.join(self.work, "holdfast.yaml")
            command = [self.binary, "--config", config, "prune", "bench", "--direct", *more]
            return measure.run(command, env=self.holdfast.env(), cwd=str(ROOT))
        command = [self.restic, "-r", os.path.join(self.site, "repos/bench")]
        command += ["--cache-dir", os.path.join(self.work, "restic-cache"), *(more or ("prune",))]
        return measure.run(command, env={**self.holdfast.env(), "RESTIC_PASSWORD": self.password}, cwd=str(ROOT))


def write(folder: str, numbers: list[int], draw: random.Random) -> int:
    """Write these files anew; the bytes."""
    total = 0
    for number in numbers:
        size = int(1000 * 200 ** (draw.random() ** 2))
        path = os.path.join(folder, f"{number % 200:03}", f"{number:06}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(draw.randbytes(size // 2) + b"text " * (size // 10))
        total += size
    return total


def prepare(work: str, files: int, days: int) -> Ground:
    """Make the source and its history."""
    binary, restic = contenders.find("holdfast"), contenders.find("restic")
    assert binary
    assert restic
    print(contenders.version(restic), file=sys.stderr)
    data, draw = os.path.join(work, "data"), random.Random(1)
    size = write(data, list(range(files)), draw)
    tool = contenders.Holdfast(binary, sites.Directory(os.path.join(work, "sites")), "site", data, work)
    config = Path(work, "holdfast.yaml")
    config.write_text(json.dumps({**json.loads(config.read_text()), "prune": {"grace": f"{GRACE:.0f}s"}}))
    measure.run(tool.init(), env=tool.env(), cwd=work)
    for day in range(days):
        if day:
            size += write(data, draw.sample(range(files), files // 20), draw)
        time.sleep(2.1)  # so that the next backup may trust the times of what was written
        measure.run(tool.backup(full=not day), env=tool.env(), cwd=work)
    os.environ.update({name: value for name, value in tool.env().items() if name.startswith("BENCH_")})
    opened = open_repository(Fleet.load(str(config)), "bench", "bench")
    ordered = sorted(opened.repository.snapshots(), key=lambda one: one.time)
    ground = Ground(work, tool, binary, restic, opened.password, [one.id for one in ordered])
    shutil.copytree(ground.site, os.path.join(work, "original"), copy_function=os.link)
    packs = sum(len(names) for _, _, names in os.walk(os.path.join(work, "original/repos/bench/data")))
    print(f"{files} files, {size / 1e6:.0f} MB in {len(ordered)} snapshots, {packs} packs", file=sys.stderr)
    return ground


def daily(ground: Ground, tool: str) -> list[measure.Cost]:
    """A day like any other: one snapshot more is forgotten, what yesterday's prune has doomed may go by now."""
    ground.fresh(2)
    ground.run(tool)
    ground.forget(2)
    time.sleep(GRACE + 0.1)
    return [ground.run(tool)]


def at_once(ground: Ground, tool: str) -> list[measure.Cost]:
    """The older half is forgotten, and all of its space is to come back: Holdfast prunes twice for that."""
    ground.fresh(len(ground.snapshots) // 2)
    ground.run(tool, *(("--dry-run",) if tool == "holdfast" else ("prune", "--dry-run")))
    took = [ground.run(tool)]
    if tool == "holdfast":
        time.sleep(GRACE + 0.1)
        took.append(ground.run(tool))
    return took


def report(ground: Ground, case: Callable[[Ground, str], list[measure.Cost]], rounds: int) -> dict[str, object]:
    """Run all rounds of one case and print a line for each tool."""
    costs: dict[str, list[list[measure.Cost]]] = {"holdfast": [], "restic": []}
    left: dict[str, int] = {}
    for _ in range(rounds):
        for tool, kept in costs.items():
            kept.append(case(ground, tool))
            left[tool] = sites.Directory(ground.work).stored_bytes("sites")
            ground.run("restic", "check")
    found: dict[str, object] = {"case": case.__name__, "rounds": rounds, "left": left}
    for tool, kept in costs.items():
        walls = [sum(one.wall for one in took) for took in kept]
        cpu = statistics.median(sum(one.cpu for one in took) for took in kept)
        pss = max(one.pss for took in kept for one in took)
        wall = statistics.median(walls)
        print(
            f"{case.__name__:<8} {tool:<9} {wall:>7.2f} s  CPU {cpu:>6.2f} s  {pss >> 20:>4} MiB  "
            f"{left[tool] / 1e6:>7.1f} MB left"
        )
        found[tool] = {"wall": walls, "cpu": cpu, "pss": pss}
    sys.stdout.flush()
    return found


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40_000, help="how many the source has")
    parser.add_argument("--days", type=int, default=14, help="how many backups are made")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        ground = prepare(work, args.files, args.days)
        results = [report(ground, case, args.rounds) for case in (daily, at_once)]
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
