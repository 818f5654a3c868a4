"""Write a run's figures into the README and docs/benchmarks.md: `python benchmarks/publish.py RESULT.json`.

No figure there is typed by hand. What stands between the markers is made from `benchmarks/published.json`, which holds
the last run that was published; a test compares the pages with it. A page keeps what stands outside its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import parity
import report
from report import BASE, OURS, WORKER, Line, Spread

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PUBLISHED = os.path.join(HERE, "published.json")
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

STEPS = {
    "full": "full",
    "unchanged": "nothing changed",
    "changed": "1 % changed",
    "restore": "restore",
}
BIG = {"text": "that compresses", "random": "that does not compress"}
PLACES = {
    "local-warm": "Local directory, warm cache",
    "local-cold": "Local directory, cold cache",
    "minio": "MinIO on the same machine, warm cache",
}


@dataclass(frozen=True)
class Figures:
    """A run as it is published."""

    facts: dict[str, Any]
    lines: list[Line]

    @classmethod
    def of(cls, result: dict[str, Any]) -> Figures:
        """Sum up what `run.py` wrote; the lines are made anew from the single runs."""
        return cls(result["facts"], report.lines([report.Run(**run) for run in result["runs"]]))

    @classmethod
    def load(cls, path: str) -> Figures:
        """Read a JSON file. Raises OSError, ValueError."""
        with open(path, encoding="utf-8") as file:
            return cls.of(json.load(file))

    def at(self, where: str) -> list[Line]:
        """Return the lines of a place."""
        return [line for line in self.lines if line.where == where]

    def name(self, case: str) -> str:
        """Return a case in words."""
        data, _, step = case.partition("-")
        facts = self.facts["data"][data]
        if data in BIG:
            return f"{facts['size'] / 2**30:.2g} GiB {BIG[data]}: {STEPS[step]}"
        return f"{facts['files']:,} small files, {facts['size'] / 1e6:.0f} MB: {STEPS[step]}"


def readme(figures: Figures) -> str:
    """Make the README's part: the local directory with a warm cache, what was missed, and what the figures rest on."""
    lines = figures.at("local-warm")
    rows = [
        ["case", "restic", "Holdfast", "ratio of time", "aim", "of CPU", "of memory", "of bytes stored", "warm worker"]
    ]
    for line in lines:
        ratio, worker = line.ratios[OURS], line.costs.get(WORKER)
        rows.append(
            [
                figures.name(line.case),
                _seconds(line.costs[BASE]["wall"]),
                _seconds(line.costs[OURS]["wall"]),
                f"**{ratio['wall'].median:.2f}**{_span(ratio['wall'], 2)}",
                _aim(line),
                f"{ratio['cpu'].median:.2f}",
                _over(ratio["pss"].median, 1, 2),
                _stored(line),
                _seconds(worker["wall"]) if worker else "-",
            ]
        )
    return "\n\n".join(
        [
            (
                f"On {_machine(figures)}, local directory, warm cache, against {_restic(figures)}: "
                f"{_rounds(lines)}{_busy(figures)}. Ratios below 1 mean that Holdfast took less. Cold cache, MinIO and "
                "the spread of each figure are in [docs/benchmarks.md](docs/benchmarks.md)."
            ),
            _table(rows),
            (
                "restic and Holdfast are commands, Holdfast's with `--direct`. The warm worker is `holdfast up`, "
                "started before and rung for by a command that waits for the end; it stands beside, without an aim."
            ),
            *_judgement(figures, lines),
            *_unequal(figures),
        ]
    )


def page(figures: Figures) -> str:
    """Make the part of docs/benchmarks.md: machine, data, a table for each place, and what was counted."""
    facts = figures.facts
    parts = [
        (
            f"Run of {facts['machine']['time'][:10]} on {_machine(figures)}, Python {facts['machine']['python']}, "
            f"{_restic(figures)}; load when it began {facts['machine']['load_at_start']:.1f}; "
            f"{facts['minutes']:.0f} minutes in all."
        ),
        _table(
            [
                ["data", "files", "MB", "duplicates", "zstd-3 ratio"],
                *(
                    [
                        name,
                        f"{data['files']:,}",
                        f"{data['size'] / 1e6:.1f}",
                        f"{data['duplicate'] / data['size']:.1%}",
                        f"{(data['size'] - data['duplicate']) / data['zstd3']:.2f}",
                    ]
                    for name, data in facts["data"].items()
                ),
            ]
        ),
    ]
    for where, title in PLACES.items():
        if lines := figures.at(where):
            parts += [f"### {title}", f"{_rounds(lines).capitalize()}.", _costs(figures, lines)]
            parts += _judgement(figures, lines)
    if lines := [line for line in figures.lines if WORKER in line.ratios]:
        parts += [
            "### The warm worker beside it",
            (
                "`holdfast up` was started before the measured steps; a command rings for the run and waits for its "
                "end. CPU time and memory are those of the command and of all of `up`: worker, scheduler and Valkey, "
                "which take most of that memory idle too. On the local directory with a warm cache alone, to keep the "
                "bench short; after each pair, and not up while that ran. The ratio is to restic's run of the round."
            ),
            _worker(figures, lines),
        ]
    if counts := facts.get("parity"):
        head = ["step", "tool", *parity.ROWS]
        parts += [
            "### Counted, not timed",
            (
                "System calls over a tenth of the small files, by `strace`: what is made durable, locked and asked "
                "for is to be no less than with restic."
            ),
            _table([head, *([str(found[name]) for name in head] for found in counts)]),
            *(_unequal(figures) or ["Nothing is less."]),
        ]
    return "\n\n".join(parts)


PAGES: dict[str, Callable[[Figures], str]] = {"README.md": readme, os.path.join("docs", "benchmarks.md"): page}


def replace(text: str, block: str) -> str:
    """Put a block between the markers of a page. Raises ValueError where they don't stand there once, in order."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in tail:
        raise ValueError(f"the page needs {BEGIN} and {END}, once each")
    return f"{head}{BEGIN}\n{block}\n{END}{tail}"


def between(text: str) -> str:
    """Return what stands between the markers of a page."""
    return text.partition(BEGIN)[2].partition(END)[0].strip("\n")


def stale() -> list[str]:
    """Return the pages that don't say what was published; none where nothing was."""
    if not os.path.exists(PUBLISHED):
        return []
    figures = Figures.load(PUBLISHED)
    found = []
    for name, make in PAGES.items():
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            if between(file.read()) != make(figures):
                found.append(name)
    return found


def refusal(result: dict[str, Any]) -> str:
    """Say why a result is not to be published, or nothing."""
    if result["facts"]["quick"]:
        return "it was --quick: a tenth of the data says nothing about the whole"
    found = Figures.of(result)
    if not found.at("local-warm"):
        return "it has no figures for a local directory with a warm cache"
    if alone := [line for line in found.lines if OURS not in line.ratios]:
        return f"{alone[0].where} {alone[0].case} was not measured in pairs"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Publish what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("result", help="what run.py wrote")
    options = parser.parse_args(arguments)
    with open(options.result, encoding="utf-8") as file:
        result = json.load(file)
    if why := refusal(result):
        print(f"{options.result} is not published: {why}")
        return 1
    result.pop("summary", None)  # the runs say it all
    with open(PUBLISHED, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    figures = Figures.load(PUBLISHED)
    for name, make in PAGES.items():
        path = os.path.join(ROOT, name)
        with open(path, encoding="utf-8") as file:
            text = replace(file.read(), make(figures))
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        print(f"written: {name}")
    return 0


def _costs(figures: Figures, lines: Sequence[Line]) -> str:
    """Make the table of a place."""
    rows = [
        ["case", "restic", "Holdfast", "ratio of time", "aim", "CPU", "ratio", "memory", "ratio", "stored", "ratio"]
    ]
    for line in lines:
        theirs, ours, ratio = line.costs[BASE], line.costs[OURS], line.ratios[OURS]
        rows.append(
            [
                figures.name(line.case),
                _seconds(theirs["wall"]) + _span(theirs["wall"], 2),
                _seconds(ours["wall"]) + _span(ours["wall"], 2),
                f"**{ratio['wall'].median:.2f}**{_span(ratio['wall'], 2)}",
                _aim(line),
                f"{theirs['cpu'].median:.1f} / {ours['cpu'].median:.1f} s",
                f"{ratio['cpu'].median:.2f}{_span(ratio['cpu'], 2)}",
                f"{theirs['pss'].median / 1e6:.0f} / {ours['pss'].median / 1e6:.0f} MB",
                _over(ratio["pss"].median, 1, 2) + _span(ratio["pss"], 2),
                f"{theirs['stored'].median / 1e6:.1f} / {ours['stored'].median / 1e6:.1f} MB",
                _stored(line),
            ]
        )
    return _table(rows)


def _worker(figures: Figures, lines: Sequence[Line]) -> str:
    """Make the table of the worker."""
    rows = [["case", "command `--direct`", "through the worker", "ratio of time to restic", "CPU", "memory"]]
    for line in lines:
        cost = line.costs[WORKER]
        rows.append(
            [
                figures.name(line.case),
                _seconds(line.costs[OURS]["wall"]),
                _seconds(cost["wall"]) + _span(cost["wall"], 2),
                f"{line.ratios[WORKER]['wall'].median:.2f}{_span(line.ratios[WORKER]['wall'], 2)}",
                f"{cost['cpu'].median:.1f} s",
                f"{cost['pss'].median / 1e6:.0f} MB",
            ]
        )
    return _table(rows)


def _judgement(figures: Figures, lines: Sequence[Line]) -> list[str]:
    """Say which rules and aims are not kept; of aims nothing where there are none."""
    said = []
    aimed = [line for line in lines if line.aim_met is not None]
    missed = [
        f"{figures.name(line.case)} ({line.ratios[OURS]['wall'].median:.2f}, aim {line.aim})"
        for line in aimed
        if not line.aim_met
    ]
    if aimed:
        said.append(
            f"Aims missed: {'; '.join(missed)}." if missed else f"All {len(aimed)} aims for the ratio of time are met."
        )
    slower = [line for line in lines if line.aim is None and line.ratios[OURS]["wall"].median > 1]
    if slower:
        said.append(f"Slower than restic: {_named(figures, slower, 'wall')}.")
    above = [line for line in lines if not line.memory_met]
    said.append(
        f"More memory than restic: {_named(figures, above, 'pss')}."
        if above
        else "Memory is above restic's in no case."
    )
    void = [line for line in lines if not line.counts]
    if void:
        said.append(f"These do not count, more than {report.LIMIT} x is stored: {_named(figures, void, 'stored')}.")
    return [" ".join(said)]


def _unequal(figures: Figures) -> list[str]:
    """Say where less was asked of the kernel than restic asks: these figures are not like for like."""
    less = parity.fewer(figures.facts.get("parity", []))
    return [f"Less than with restic, by count over a tenth of the small files: {'; '.join(less)}."] if less else []


def _named(figures: Figures, lines: Sequence[Line], what: str) -> str:
    return "; ".join(f"{figures.name(line.case)} ({line.ratios[OURS][what].median:.2f})" for line in lines)


def _machine(figures: Figures) -> str:
    return report.describe(figures.facts["machine"])


def _restic(figures: Figures) -> str:
    return " ".join(str(figures.facts["versions"][BASE]).split()[:2])


def _rounds(lines: Sequence[Line]) -> str:
    number = min(line.rounds for line in lines)
    if number == 1:
        return "a single pair of runs, which is a guide and no more"
    return f"medians of {number} pairs of runs in turning order (lowest to highest)"


def _busy(figures: Figures) -> str:
    """Say so where the machine was not quiet."""
    load = figures.facts["machine"]["load_at_start"]
    return f", on a machine that had other work (a load of {load:.1f})" if load > report.QUIET else ""


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.2f} s"


def _span(spread: Spread, digits: int) -> str:
    """Return lowest and highest in brackets; nothing where they read the same, as with a single round."""
    low, high = f"{spread.low:.{digits}f}", f"{spread.high:.{digits}f}"
    return f" ({low}-{high})" if low != high else ""


def _aim(line: Line) -> str:
    if line.aim_met is None:
        return "-"
    return f"{line.aim} {'met' if line.aim_met else 'missed'}"


def _over(value: float, limit: float, digits: int) -> str:
    """Return a ratio, marked where it is above its limit."""
    return f"{value:.{digits}f}{' (above)' if value > limit else ''}"


def _stored(line: Line) -> str:
    """Return the ratio of stored bytes in its worst round, which is what the rule asks for."""
    return _over(line.ratios[OURS]["stored"].high, report.LIMIT, 3)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
