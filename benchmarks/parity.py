"""What the tools ask of the kernel, counted by strace: a figure counts only with equal fsyncs, locks and xattr reads.

Counts, not times: strace slows a program many times over, so this stands apart from the measured runs and uses a tenth
of the small corpus.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contenders import Contender

SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range", "sync")
LISTS = ("listxattr", "llistxattr", "flistxattr")
GETS = ("getxattr", "lgetxattr", "fgetxattr")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")
OPENS = ("openat", "openat2", "open")
CALL = re.compile(r"^\d+ +(?:<\.\.\. )?([a-z_0-9]+)[( ]")
ROWS = ("files put", "syncs", "locks put", "locks removed", "xattr lists", "xattr reads", "opens")
DUE = ("syncs", "locks put", "locks removed", "xattr lists", "xattr reads")
"""Of these no tool may do less than restic."""
Counted = dict[str, str | int]
"""A step, a tool, and its counts by ROWS."""


def count(contender: Contender, command: Sequence[str], *, work: str) -> dict[str, int]:
    """Run one command under strace and return its counts by ROWS.

    Raises subprocess.CalledProcessError where it fails, FileNotFoundError where there is no strace.
    """
    log = os.path.join(work, "strace.log")
    calls = ",".join((*SYNCS, *LISTS, *GETS, *NAMES, *OPENS))
    trace = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "--seccomp-bpf",
        "-s",
        "4096",
        "-o",
        log,
        "-e",
        f"trace={calls}",
        "-e",
        "signal=none",
    ]
    subprocess.run([*trace, *command], check=True, env=contender.env(), cwd=work, stdout=subprocess.DEVNULL)
    found: collections.Counter[str] = collections.Counter(dict.fromkeys(ROWS, 0))
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = CALL.match(line)
            if match and "resumed>" not in line:  # a call that was interrupted in the log stands there twice
                found.update(_kinds(match[1], line))
    os.unlink(log)
    return dict(found)


def _kinds(call: str, line: str) -> list[str]:
    """Return the rows that one line of the log counts for."""
    kinds = []
    if call in SYNCS:
        kinds.append("syncs")
    elif call in LISTS:
        kinds.append("xattr lists")
    elif call in GETS:
        kinds.append("xattr reads")
    elif call in OPENS:
        kinds.append("opens")
    elif call in NAMES and "ENOENT" not in line:
        lock = "/locks/" in line or "/locks>" in line
        if call.startswith("unlink"):
            kinds += ["locks removed"] if lock else []
        elif "/repositories/" in line:
            kinds += ["files put", "locks put"] if lock else ["files put"]
    return kinds


def table(counts: Sequence[Counted]) -> str:
    """Format counts, one row a step and tool, and what is fewer than restic's."""
    head = f"{'step':12} {'tool':9}" + "".join(f"{row:>15}" for row in ROWS)
    lines = [head, "-" * len(head)]
    lines += [f"{found['step']:12} {found['tool']:9}" + "".join(f"{found[row]:15}" for row in ROWS) for found in counts]
    return "\n".join([*lines, *fewer(counts)])


def fewer(counts: Sequence[Counted]) -> list[str]:
    """Say where a tool does less than restic of what counts: its figures of that step are not like for like."""
    theirs = {found["step"]: found for found in counts if found["tool"] == "restic"}
    return [
        f"{found['tool']} {found['step']}: {found[row]} {row}, restic {base[row]}"
        for found in counts
        if (base := theirs.get(found["step"])) and found is not base
        for row in DUE
        if int(found[row]) < int(base[row])
    ]
