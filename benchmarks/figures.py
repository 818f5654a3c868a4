"""What benchmarks say: figures with their aims, as tables, and in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "docs", "benchmarks.md")


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. `aim` is what the value should be below (or above, where it begins with >); empty for none."""

    what: str
    value: float
    unit: str
    aim: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the aim holds."""
        if not self.aim:
            return True
        bound = float(self.aim.lstrip("<> "))
        return self.value > bound if self.aim.startswith(">") else self.value < bound


def table(figures: Sequence[Figure]) -> str:
    """The figures as Markdown."""
    lines = ["| what | figure | aim | |", "|---|---|---|---|"]
    for one in figures:
        digits = 0 if one.value >= 100 else 1 if one.value >= 10 else 2
        aim = f"{one.aim} {one.unit}".strip() + ("" if one.met else " **missed**") if one.aim else ""
        lines.append(f"| {one.what} | {one.value:,.{digits}f} {one.unit} | {aim} | {one.note} |")
    return "\n".join(lines)


def publish(figures: Sequence[Figure], load: str, begin: str, end: str) -> None:
    """Write figures into docs/benchmarks.md, between two marks of it."""
    with open(PAGE) as file:
        head, _, rest = file.read().partition(begin)
    with open(PAGE, "w") as file:
        file.write(f"{head}{begin}\nMeasured with {load}.\n\n{table(figures)}\n{end}{rest.partition(end)[2]}")


def run_parts(name: str, about: str, parts: Mapping[str, Callable[[], Iterable[Figure]]]) -> int:
    """The command line of a benchmark in parts: measure, print, publish where asked; 1 where an aim was missed."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; all by default")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - parts.keys()):
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(parts)}")
    met = True
    for part in options.parts or parts:
        figures = []
        for figure in parts[part]():
            figures.append(figure)
            print(table([figure]).splitlines()[-1], flush=True)
        load = f"load {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}"
        print(load)
        if options.publish:
            publish(figures, load, f"<!-- {part}:begin -->", f"<!-- {part}:end -->")
        met = met and all(figure.met for figure in figures)
    return 0 if met else 1
