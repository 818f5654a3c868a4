#!/usr/bin/env python3
"""Holdfast in two minutes: ordinary days, and a disaster.

Real files are backed up, changed, lost, brought back, and read by stock restic. Then the primary site is lost, another
takes its place, Redis is lost with all that it knew, and all come back.

SITE=dir (the default) or SITE=minio says where the backups go. Nothing is left behind but demo-report.html, and what
explains a failure.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from daily import OrdinaryDays
from disaster import Disaster
from grounds import PROJECT, DemoFailed
from report import page
from stage import Stage

_WIDTH = 96
_KINDS = {"dir": "directories", "minio": "real MinIO servers"}


def show(index: int, step: Callable[[], str]) -> tuple[str, float]:
    """Do a step; say, and return, what it proved and how long it took."""
    started = time.monotonic()
    line = step()
    seconds = time.monotonic() - started
    print(f"{index:>2} {line:<{_WIDTH}} {seconds:5.1f} s", flush=True)
    return line, seconds


def main() -> int:
    """Run the demo; the exit code."""
    kind = os.environ.get("SITE", "dir")
    if kind not in _KINDS:
        print(f"SITE is dir or minio, not {kind!r}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    print(f"setting the stage: real files, two sites and a witness: {_KINDS[kind]}", flush=True)
    stage = Stage(kind)
    try:
        days, disaster = OrdinaryDays(stage, stage.up()), Disaster(stage)
        steps = (
            days.scheduled_full,
            days.scheduled_incremental,
            days.deleted_file_back,
            days.earlier_version_back,
            days.killed_and_resumed,
            days.verified,
            days.stock_restic,
            disaster.replicated,
            disaster.primary_lost,
            disaster.goes_on,
            disaster.control_plane_lost,
            disaster.site_back,
            disaster.failed_back,
            disaster.both_whole,
        )
        shown = [show(index, step) for index, step in enumerate(steps, 1)]
        left = stage.close()
        if left:
            raise DemoFailed(f"processes are left running: {left}")
    except BaseException as error:
        stage.close()
        why = str(error) if isinstance(error, DemoFailed) else repr(error)
        print(f"FAILED: {why}\nlogs and data are kept in {stage.root}", file=sys.stderr)
        if isinstance(error, DemoFailed | KeyboardInterrupt):
            return 130 if isinstance(error, KeyboardInterrupt) else 1
        raise
    stage.remove()
    report = os.path.join(PROJECT, "demo-report.html")
    with open(report, "w") as file:
        file.write(page(shown, disaster.measures, _KINDS[kind]))
    print(f"   {'nothing is left running; the report: ' + os.path.relpath(report):<{_WIDTH}} ", end="")
    print(f"{time.monotonic() - started:5.1f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
