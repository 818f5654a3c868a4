"""From the single runs to lines of medians and ratios, each with what it may claim: table, and JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

BASE = "restic"
OURS = "holdfast"
WORKER = "worker"

LIMIT = 1.02
"""A figure counts only where stored bytes are at most this many times the opponent's."""

AIMS = {
    "small-full": 0.5,
    "small-unchanged": 0.35,
    "small-restore": 0.5,
    "text-full": 0.65,
    "random-full": 0.65,
    "text-restore": 0.8,
    "random-restore": 0.8,
    "text-unchanged": 0.7,
    "random-unchanged": 0.7,
}
"""Aims for the ratio of wall time, for a local directory with a warm cache."""

QUIET = 0.5
"""The load of a machine, over the minute before a run, up to which it counts as having nothing else to do."""

MEASURES = ("wall", "cpu", "pss", "stored")


@dataclass(frozen=True)
class Run:
    """One measured command. Times in seconds, sizes in bytes."""

    where: str
    case: str
    round: int
    position: int
    """0 for the tool that went first in its pair."""
    tool: str
    wall: float
    user: float
    system: float
    server_cpu: float
    pss: int
    samples: int
    sampler_cpu: float
    stored: int
    """Size of the whole repository afterwards."""
    left_behind: int

    @property
    def cpu(self) -> float:
        """User and system time together."""
        return self.user + self.system


@dataclass(frozen=True)
class Spread:
    """Several values of one thing: the median, and the span."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Line:
    """One case at one place."""

    where: str
    case: str
    rounds: int
    costs: dict[str, dict[str, Spread]]
    """By tool, then by one of MEASURES."""
    ratios: dict[str, dict[str, Spread]]
    """Against restic, round by round; by tool, then by one of MEASURES."""

    @property
    def aim(self) -> float | None:
        """What the ratio of wall time is to be, where there is an aim."""
        return AIMS.get(self.case) if self.where == "local-warm" else None

    @property
    def counts(self) -> bool:
        """Whether no more is stored than the rule allows, in any round; true where nothing was compared."""
        return OURS not in self.ratios or self.ratios[OURS]["stored"].high <= LIMIT

    @property
    def aim_met(self) -> bool | None:
        """Whether the median reaches the aim and counts; None where there is no aim or no pair."""
        if self.aim is None or OURS not in self.ratios:
            return None
        return self.counts and self.ratios[OURS]["wall"].median <= self.aim

    @property
    def memory_met(self) -> bool:
        """Whether the median of memory is not above restic's; true where nothing was compared."""
        return OURS not in self.ratios or self.ratios[OURS]["pss"].median <= 1


def lines(runs: Sequence[Run]) -> list[Line]:
    """Sum up runs, a line for each place and case, in the order in which they were first run."""
    found = []
    for where, case in dict.fromkeys((run.where, run.case) for run in runs):
        of: dict[str, list[Run]] = {}
        for run in runs:
            if (run.where, run.case) == (where, case):
                of.setdefault(run.tool, []).append(run)
        costs = {
            tool: {what: Spread.of([getattr(run, what) for run in some]) for what in MEASURES}
            for tool, some in of.items()
        }
        ratios = {
            tool: pairs for tool, some in of.items() if tool != BASE and (pairs := _ratios(some, of.get(BASE, [])))
        }
        found.append(Line(where, case, len({run.round for run in next(iter(of.values()))}), costs, ratios))
    return found


def _ratios(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Spread]:
    """Compare runs round by round; empty where there is no pair or something was not measured."""
    of = {run.round: run for run in theirs}
    pairs = [(run, of[run.round]) for run in ours if run.round in of]
    if not pairs or not all(getattr(base, what) for _, base in pairs for what in MEASURES):
        return {}
    return {what: Spread.of([getattr(run, what) / getattr(base, what) for run, base in pairs]) for what in MEASURES}


def table(found: Sequence[Line]) -> str:
    """Format lines for a terminal: medians, and of the ratio of wall time its span."""
    head = f"{'where':11}{'case':17}{'n':>2}{'restic s':>10}{'cpu s':>8}{'PSS MB':>8}{'stored MB':>11}"
    head += f"{'direct s':>10}{'cpu s':>8}{'PSS MB':>8}{'wall ratio':>19}{'aim':>6}{'cpu':>6}{'memory':>8}{'stored':>8}"
    head += f"{'worker s':>10}{'ratio':>7}"
    text = [head, "-" * len(head)]
    for line in found:
        row = f"{line.where:11}{line.case:17}{line.rounds:2}"
        if theirs := line.costs.get(BASE):
            row += f"{theirs['wall'].median:10.2f}{theirs['cpu'].median:8.2f}{theirs['pss'].median / 1e6:8.0f}"
            row += f"{theirs['stored'].median / 1e6:11.1f}"
        else:
            row += " " * 37
        if ours := line.costs.get(OURS):
            row += f"{ours['wall'].median:10.2f}{ours['cpu'].median:8.2f}{ours['pss'].median / 1e6:8.0f}"
        else:
            row += " " * 26
        if ratio := line.ratios.get(OURS):
            wall = ratio["wall"]
            row += f"{f'{wall.median:.2f} ({wall.low:.2f}-{wall.high:.2f})':>19}{line.aim or '':>6}"
            row += f"{ratio['cpu'].median:6.2f}{ratio['pss'].median:8.2f}{ratio['stored'].median:8.3f}"
        else:
            row += " " * 47
        if worker := line.costs.get(WORKER):
            row += f"{worker['wall'].median:10.2f}"
            row += f"{line.ratios[WORKER]['wall'].median:7.2f}" if WORKER in line.ratios else ""
        text.append("  ".join([row.rstrip(), *marks(line)]))
    return "\n".join(text)


def marks(line: Line) -> list[str]:
    """Return what is to be said of a line by the rules."""
    said = []
    if not line.counts:
        said.append(f"DOES NOT COUNT: stores more than {LIMIT} x")
    if line.aim_met is not None:
        said.append("aim met" if line.aim_met else "AIM MISSED")
    if not line.memory_met:
        said.append("MEMORY ABOVE")
    return said


def write(path: str, runs: Sequence[Run], facts: dict[str, object]) -> None:
    """Write everything to a JSON file: facts (machine, versions, data, counts), each run, and lines."""
    summary = [
        {**asdict(line), "aim": line.aim, "aim_met": line.aim_met, "counts": line.counts, "memory_met": line.memory_met}
        for line in lines(runs)
    ]
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"facts": facts, "summary": summary, "runs": [asdict(run) for run in runs]}, file, indent=1)
        file.write("\n")


def machine(work: str) -> dict[str, object]:
    """Describe the machine: processor, cores, memory in bytes, file system of `work`, kernel, Python, load."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            words = [line.strip() for line in file if line.startswith(("model name", "flags"))]
        model = next((word.partition(":")[2].strip() for word in words if word.startswith("model name")), model)
        virtual = any(" hypervisor" in word for word in words)
    except OSError:
        virtual = False
    return {
        "cpu": model,
        "virtual": virtual,
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": _file_system(work),
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe(found: dict[str, object]) -> str:
    """Return one line about a machine."""
    return (
        f"{found['cpu']}{' (virtual machine)' if found['virtual'] else ''}, {found['cores']} cores, "
        f"{int(str(found['memory'])) / 2**30:.0f} GiB, {found['file_system']}, {found['kernel']}"
    )


def _file_system(path: str) -> str:
    """Return the type of the file system that holds a path."""
    number = os.stat(path).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            mount, _, rest = line.partition(" - ")
            if mount.split()[2] == wanted:
                return rest.split()[0]
    return "unknown file system"
