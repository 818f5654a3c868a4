"""Holdfast against stock restic, on the same work: `make bench`, or `make bench ARGS="--quick --only small-full"`.

Each round runs every case with both tools, in turning order (A B, then B A); ratios are taken within a round and their
median is reported, so that a machine that grows slow for a while spoils a pair and not the comparison.
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
from rounds import STEPS, Bench, Round

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from corpus import DataSet
    from sites import Place

CASES = [f"{name}-{step}" for name, steps in STEPS.items() for step in steps]
PLACES = ("local-warm", "local-cold", "minio")
SECONDS = {"small": 75, "text": 40, "random": 40}
"""What one round with two tools takes, about, on two cores; only for the estimate."""
QUICK = 0.2
"""How much of that a tenth of the data takes."""


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
    facts = _facts(options, binaries, data)
    base = options.work or corpus.cache_root()
    os.makedirs(base, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=base) as work:
        bench = Bench(binaries, work, _say)
        try:
            if options.parity:
                _parity(bench, data["small"])
            else:
                _measure(bench, options, data)
        except measure.CommandFailed as error:
            print(f"\nFAILED: {error}")
            return 1
        finally:
            if bench.runs:
                print("\n" + report.table(bench.runs, list(binaries)))
                report.write(options.json, bench.runs, facts)
                _say(f"written to {options.json}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="pairs of each case (3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and one round: a look, no figure")
    parser.add_argument("--only", type=_some_of(CASES), default=CASES, help=f"some of {','.join(CASES)}")
    parser.add_argument("--where", type=_some_of(PLACES), default=list(PLACES), help=f"some of {','.join(PLACES)}")
    tools = list(contenders.KINDS)
    parser.add_argument("--tools", type=_some_of(tools), default=tools, help=f"some of {','.join(tools)}")
    parser.add_argument("--parity", action="store_true", help="count fsyncs, locks and xattr reads by strace instead")
    parser.add_argument("--work", help="directory for repositories and restores (the cache's)")
    parser.add_argument("--json", default=os.path.join(corpus.HERE, "results", time.strftime("%Y%m%d-%H%M%S.json")))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    if options.parity:
        options.only, options.quick = ["small-full"], True
    return options


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


def _facts(options: argparse.Namespace, binaries: dict[str, str], data: dict[str, DataSet]) -> dict[str, object]:
    """Print and return what the figures rest on: the machine, the versions, the data, and how long it will take."""
    machine = report.machine()
    versions = {tool: contenders.version(binary) for tool, binary in binaries.items()}
    print(report.describe(machine))
    print("\n".join([*versions.values(), *(one.describe() for one in data.values())]))
    if not options.parity:
        seconds = sum(SECONDS[name] for name in data) * options.rounds * len(options.where) * len(binaries) / 2
        minutes = max(1, round(seconds * (QUICK if options.quick else 1) / 60))
        _say(f"{options.rounds} rounds at {', '.join(options.where)}: about {minutes} minutes")
    return {
        "machine": machine,
        "versions": versions,
        "data": {name: one.facts() for name, one in data.items()},
        "rounds": options.rounds,
        "quick": options.quick,
    }


def _measure(bench: Bench, options: argparse.Namespace, data: dict[str, DataSet]) -> None:
    """Measure at all places, in all rounds, all data sets."""
    for where in options.where:
        with _place(where, bench) as place:
            if place is None:
                continue
            for number in range(options.rounds):
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


def _parity(bench: Bench, data: DataSet) -> None:
    """Count system calls of each tool on a local directory."""
    if not shutil.which("strace"):
        raise measure.CommandFailed("strace is not installed")
    counts: dict[tuple[str, str], dict[str, int]] = {}
    ring = bench.ring(sites.Directory(os.path.join(bench.work, "repositories")), data)
    for step in ("full", "unchanged", "restore"):
        for tool, one in ring.items():
            target = os.path.join(bench.work, "restored")
            command = one.restore(target) if step == "restore" else one.backup(full=step == "full")
            counts[step, tool] = parity.count(one, command, work=bench.work)
            shutil.rmtree(target, ignore_errors=True)
    print(parity.table(counts))


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
