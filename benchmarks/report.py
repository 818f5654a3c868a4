"""From the single runs to the table of ratios and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True)
class Ratio:
    """Pairwise ratios, ours to theirs: the median, and the span."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:5.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(ours: list[Run], theirs: list[Run], what: str) -> Ratio | None:
    """Compare the runs of one case round by round; None where there is no pair or nothing to divide by."""
    of = {run.round: _value(run, what) for run in theirs}
    pairs = [_value(run, what) / of[run.round] for run in ours if of.get(run.round)]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs)) if pairs else None


def table(runs: list[Run], tools: list[str]) -> str:
    """Format one line a case, with ratios where two tools ran."""
    base, other = tools[0], tools[1] if len(tools) > 1 else ""
    head = f"{'where':11}{'case':17}{base + ' s':>11}{'cpu s':>8}{'PSS MB':>8}{'stored MB':>11}"
    if other:
        head += f"{other + ' s':>12}{'cpu s':>8}{'PSS MB':>8}"
        head += f"{'wall ratio':>20}{'aim':>6}{'cpu':>7}{'memory':>8}{'stored':>8}"
    lines = [head, "-" * len(head)]
    for where, case in dict.fromkeys((run.where, run.case) for run in runs):
        chosen = [run for run in runs if (run.where, run.case) == (where, case)]
        theirs, ours = ([run for run in chosen if run.tool == tool] for tool in (base, other))
        line = f"{where:11}{case:17}"
        if theirs:
            line += f"{_median(theirs, 'wall'):11.2f}{_median(theirs, 'cpu'):8.2f}{_median(theirs, 'pss') / 1e6:8.0f}"
            line += f"{_median(theirs, 'stored') / 1e6:11.1f}"
        else:
            line += " " * 38
        if ours:
            line += f"{_median(ours, 'wall'):12.2f}{_median(ours, 'cpu'):8.2f}{_median(ours, 'pss') / 1e6:8.0f}"
        if ours and theirs:
            line += _ratios(where, case, ours, theirs)
        lines.append(line)
    return "\n".join(lines)


def write(path: str, runs: list[Run], facts: dict[str, object]) -> None:
    """Write everything to a JSON file: facts (machine, versions, data), each run, and the ratios."""
    tools = list(dict.fromkeys(run.tool for run in runs))
    summary = []
    for where, case in dict.fromkeys((run.where, run.case) for run in runs):
        chosen = [run for run in runs if (run.where, run.case) == (where, case)]
        of = {tool: [run for run in chosen if run.tool == tool] for tool in tools}
        entry: dict[str, object] = {"where": where, "case": case}
        for what in ("wall", "cpu", "pss", "stored"):
            entry[what] = {tool: _median(of[tool], what) for tool in tools if of[tool]}
            for tool in tools:
                found = ratio(of[tool], of["restic"], what) if tool != "restic" and of.get("restic") else None
                if found:
                    entry[f"{what}_ratio_{tool}"] = asdict(found)
        summary.append(entry)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"facts": facts, "summary": summary, "runs": [asdict(run) for run in runs]}, file, indent=1)
        file.write("\n")


def machine() -> dict[str, object]:
    """Describe the machine: processor, cores, memory in bytes, kernel, Python, load."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe(found: dict[str, object]) -> str:
    """Return one line about a machine."""
    return f"{found['cpu']}, {found['cores']} cores, {int(str(found['memory'])) >> 30} GiB, {found['kernel']}"


def _ratios(where: str, case: str, ours: list[Run], theirs: list[Run]) -> str:
    """Format the right-hand part of a line."""
    wall, cpu, pss, stored = (ratio(ours, theirs, what) for what in ("wall", "cpu", "pss", "stored"))
    aim = AIMS.get(case) if where == "local-warm" else None
    line = f"{wall!s:>20}{f'{aim:.2f}' if aim else '':>6}{cpu.median if cpu else 0:7.2f}{pss.median if pss else 0:8.2f}"
    if stored:
        line += f"{stored.median:8.3f}"
    if stored and stored.high > LIMIT:
        line += f"  DOES NOT COUNT: stores more than {LIMIT} x"
    if pss and pss.median > 1:
        line += "  memory above"
    return line


def _value(run: Run, what: str) -> float:
    return run.user + run.system if what == "cpu" else float(getattr(run, what))


def _median(runs: list[Run], what: str) -> float:
    return statistics.median(_value(run, what) for run in runs)
