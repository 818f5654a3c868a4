"""What several sites cost: `make bench-sites`, or `python -m benchmarks.several [PART ...]`.

replication  two MinIO servers, against rclone and `restic copy` (`benchmarks.replication`)
rebuild      an emptied ledger from two sites 20 ms away (`benchmarks.rebuild`); REPOSITORIES= says of how many

Each figure is printed with its aim, and stands in docs/benchmarks.md with `--publish`.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

from benchmarks import rebuild, replication
from benchmarks.jobs import publish, table

PARTS = {"replication": replication.measure, "rebuild": rebuild.measure}


def main() -> int:
    """Measure, print, and publish where asked; 1 where an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.several", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - PARTS.keys()):
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    met = True
    for part in options.parts or PARTS:
        figures = []
        for figure in PARTS[part]():
            figures.append(figure)
            print(table([figure]).splitlines()[-1], flush=True)
        load = f"load {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}"
        print(load)
        if options.publish:
            publish(figures, load, f"<!-- {part}:begin -->", f"<!-- {part}:end -->")
        met = met and all(figure.met for figure in figures)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
