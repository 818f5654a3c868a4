"""Many schedules on all cores: `python -m tests.support.simulation --schedules 100000`. What goes wrong is named."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import structlog

from tests.support.simulation.play import Played, play


def main() -> int:
    """0: nothing went wrong."""
    parser = argparse.ArgumentParser(prog="simulate")
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began, moves, wrong = time.monotonic(), 0, 0
    with ProcessPoolExecutor() as processes:
        seeds = range(options.first, options.first + options.schedules)
        for number, played in enumerate(processes.map(play, seeds, chunksize=50), 1):
            moves += played.moves - 1
            wrong += bool(played.wrong)
            _tell(played)
            if number % 5000 == 0:
                sys.stdout.write(f"{number:,} schedules, {number / (time.monotonic() - began):.0f}/s\n")
    rate = options.schedules / (time.monotonic() - began)
    sys.stdout.write(f"{options.schedules:,} schedules, {moves:,} changes, {wrong} wrong, {rate:.0f} schedules/s\n")
    return 1 if wrong else 0


def _tell(played: Played) -> None:
    if played.wrong:
        sys.stdout.write(f"seed {played.seed}: {played.wrong}\n")


if __name__ == "__main__":
    sys.exit(main())
