"""Holdfast against stock restic, on the same work: `make bench`, or `make bench ARGS="--quick --only small-full"`.

Each round runs every case with both tools, in turning order (A B, then B A); ratios are taken within a round and their
median is reported, so that a machine that grows slow for a while spoils a pair and not the comparison. The warm worker
follows each pair, on the local directory with a warm cache alone. A whole run ends with what is counted, not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import changes
import contenders
import corpus
import measure
import parity
import report
import sites
from rounds import MANY, ROOM, STEPS, WORKER_AT, Bench, Round

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from corpus import DataSet
    from sites import Place

CASES = [f"{name}-{step}" for name, steps in STEPS.items() for step in steps]
PLACES = ("local-warm", "local-cold", "minio")
ROUNDS = {"local-warm": 3, "local-cold": 1, "minio": 1}
SECONDS = {"small": 90, "text": 40, "random": 45}
"""What one round of a pair takes, about, on two cores; only for the estimate."""
WORKER = 0.55
"""How much of that the warm worker takes besides."""
QUICK = 0.2
"""How much of it a tenth of the data takes."""
COUNTED = 30
"""Seconds that counting takes."""


def main(arguments: list[str]) -> int:
    """Run what was asked for; return the exit code."""
    options = _parse(arguments)
    binaries = {tool: found for tool in options.tools if (found := _binary(tool))}
    if "restic" in options.tools and "restic" not in binaries:
        print("There is no restic to run against: deploy/tools/fetch.py gets one, or name it with RESTIC=PATH.")
        return 1
    measure.become_subreaper()
    names = dict.fromkeys(case.partition("-")[0] for case in options.only)
    data = {name: corpus.prepare(name, quick=options.quick, say=_say) for name in names}
    base = options.work or corpus.cache_root()
    os.makedirs(base, exist_ok=True)
    facts = _facts(options, binaries, data, base)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="run-", dir=base) as work:
        bench = Bench(binaries, work, _say)
        try:
            if options.parity != "only":
                _measure(bench, options, data)
            if options.parity != "no":
                facts["parity"] = _parity(bench)
        except (measure.CommandFailed, TimeoutError) as error:
            print(f"\nFAILED: {error}")
            return 1
        finally:
            if bench.runs:
                facts["minutes"] = round((time.monotonic() - began) / 60, 1)
                print("\n" + report.table(report.lines(bench.runs)))
                report.write(options.json, bench.runs, facts)
                _say(f"{facts['minutes']} minutes; written to {options.json}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rounds",
        type=_rounds,
        default=ROUNDS,
        help=f"how often, everywhere or by place ({','.join(f'{where}={n}' for where, n in ROUNDS.items())})",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and one round: a look, no figure")
    parser.add_argument("--only", type=_some_of(CASES), default=CASES, help=f"some of {','.join(CASES)}")
    parser.add_argument("--where", type=_some_of(PLACES), default=list(PLACES), help=f"some of {','.join(PLACES)}")
    tools = list(contenders.KINDS)
    parser.add_argument("--tools", type=_some_of(tools), default=tools, help=f"some of {','.join(tools)}")
    parser.add_argument(
        "--parity",
        choices=("only", "too", "no"),
        help="count fsyncs, locks and xattr reads by strace (too, if all cases are measured)",
    )
    parser.add_argument("--work", help="directory for repositories and restores (the cache's)")
    parser.add_argument("--json", default=os.path.join(corpus.HERE, "results", time.strftime("%Y%m%d-%H%M%S.json")))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = dict.fromkeys(PLACES, 1)
    if options.parity is None:
        options.parity = "too" if (options.only, options.where) == (CASES, list(PLACES)) else "no"
    if options.parity == "only":
        options.only = []
    return options


def _rounds(text: str) -> dict[str, int]:
    """Parse a number for all places, or `place=number` with commas; a place that is not named keeps its own."""
    if text.isdigit():
        return dict.fromkeys(PLACES, int(text))
    found = dict(ROUNDS)
    for part in text.split(","):
        where, _, number = part.partition("=")
        if where not in PLACES or not number.isdigit():
            raise argparse.ArgumentTypeError(f"{part}: expected a number, or one of {', '.join(PLACES)} with =NUMBER")
        found[where] = int(number)
    return found


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names; what it returns stands in the order of `known`."""

    def parse(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := set(wanted) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return [name for name in known if name in wanted]

    return parse


def _binary(tool: str) -> str | None:
    """Return the path of a tool that runs here; None, and a line about it, where it does not."""
    found = contenders.find(tool)
    if found and contenders.version(found):
        return found
    _say(f"{tool} does not run here: left out")
    return None


def _facts(
    options: argparse.Namespace, binaries: dict[str, str], data: dict[str, DataSet], base: str
) -> dict[str, object]:
    """Print and return what the figures rest on: the machine, the versions, the data, and how long it will take."""
    machine = report.machine(base)
    versions = {tool: contenders.version(binary) for tool, binary in binaries.items()}
    print(report.describe(machine))
    print("\n".join([*dict.fromkeys(versions.values()), *(one.describe() for one in data.values())]))
    if data:
        _say(_estimate(options, binaries, data))
    _warn(options, binaries, data, base)
    return {
        "machine": machine,
        "versions": versions,
        "data": {name: one.facts() for name, one in data.items()},
        "rounds": options.rounds,
        "quick": options.quick,
    }


def _estimate(options: argparse.Namespace, binaries: dict[str, str], data: dict[str, DataSet]) -> str:
    """Say how often everything is run, and how long that will take."""
    pair = sum(SECONDS[name] for name in data) * len(set(binaries) - {report.WORKER}) / 2
    beside = sum(SECONDS[name] for name in data) * WORKER if report.WORKER in binaries else 0
    seconds = sum(options.rounds[where] * (pair + (beside if where == WORKER_AT else 0)) for where in options.where)
    minutes = (seconds * (QUICK if options.quick else 1) + (COUNTED if options.parity == "too" else 0)) / 60
    rounds = ", ".join(f"{where} {options.rounds[where]}" for where in options.where)
    return f"rounds: {rounds}; about {max(1, round(minutes))} minutes"


def _warn(options: argparse.Namespace, binaries: dict[str, str], data: dict[str, DataSet], base: str) -> None:
    """Say what will spoil the figures: other work on the machine, or a disk too small to keep restored trees."""
    if (load := os.getloadavg()[0]) > report.QUIET:
        _say(f"the machine has other work: a load of {load:.1f} in the last minute; the figures will be worse for it")
    trees = sum(options.rounds[where] for where in options.where) * len(set(binaries) - {report.WORKER})
    trees += options.rounds[WORKER_AT] if report.WORKER in binaries and WORKER_AT in options.where else 0
    need = trees * sum(one.size for one in data.values() if one.files >= MANY) + ROOM
    if (free := shutil.disk_usage(base).free) < need:
        _say(f"{free / 1e9:.0f} GB are free, and {need / 1e9:.0f} GB would be needed to keep what is restored")


def _measure(bench: Bench, options: argparse.Namespace, data: dict[str, DataSet]) -> None:
    """Measure at all places, in all rounds, all data sets."""
    for where in options.where:
        with _place(where, bench) as place:
            if place is None:
                continue
            for number in range(options.rounds[where]):
                for name, one in data.items():
                    changes.put_back(one.path)
                    steps = [step for step in STEPS[name] if f"{name}-{step}" in options.only]
                    Round(bench, where, place, number, one, steps).run()


@contextlib.contextmanager
def _place(where: str, bench: Bench) -> Iterator[Place | None]:
    """Give the place of that name, started if it needs that; None, and why, where it can't be had."""
    if where == "local-cold" and not os.access("/proc/sys/vm/drop_caches", os.W_OK):
        _say("local-cold left out: only root may empty the page cache")
        yield None
    elif where != "minio":
        yield sites.Directory(os.path.join(bench.work, "repositories"))
    elif binary := contenders.tools().get("minio"):
        with sites.minio(binary, bench.work) as bucket:
            yield bucket
    else:
        _say("minio left out: deploy/tools/fetch.py minio gets it")
        yield None


def _parity(bench: Bench) -> list[parity.Counted]:
    """Count system calls of each command on a local directory, over a tenth of the small files."""
    if not shutil.which("strace"):
        _say("fsyncs, locks and xattr reads are not counted: strace is not installed")
        return []
    data = corpus.prepare("small", quick=True, say=_say)
    place = sites.Directory(os.path.join(bench.work, "repositories"))
    tools = [tool for tool in bench.binaries if tool != report.WORKER]
    counts: list[parity.Counted] = []
    with bench.ring(place, data, tools) as ring:
        for step in ("full", "unchanged", "restore"):
            for tool, one in ring.items():
                target = os.path.join(bench.work, "counted", tool)
                command = one.restore(target) if step == "restore" else one.backup(full=step == "full")
                counts.append({"step": step, "tool": tool, **parity.count(one, command, work=bench.work)})
    print("\n" + parity.table(counts))
    return counts


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
