#!/usr/bin/env python3
"""Fetch what tests, demo and benchmarks need besides wheels.

MinIO, stock restic twice, Prometheus with Alertmanager, libfaketime, PostgreSQL, Redis, age.

    fetch.py                       everything that tests need
    fetch.py minio restic-0.18     these only
    fetch.py --print               name=path of what is there; fetches nothing

The tools go to $HOLDFAST_TOOLS, or else to holdfast/tools in the user's cache directory; nothing
is installed into the system and no root is needed. What is there already is left alone. Where a tool
can't be had, it says what to install: a warning for a person, a failure (exit code 1) under CI.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import age_deb
import faketime_deb
import minio_source
import postgresql_deb
import prometheus_deb
import rclone_deb
import redis_deb
import restic_deb
from toolcache import Unavailable, cache_dir, locked, say

_RESTICS = tuple(f"restic-{version}" for version in restic_deb.SUITES)
_TOOLS = ("minio", *_RESTICS, *prometheus_deb.PROGRAMS, "faketime", "postgresql", "redis", "age")
_FOR_BENCHMARKS = ("rclone",)  # fetched where they are asked for
_HINTS = {
    "minio": "install Go 1.24 or newer, put it on PATH, and run this again",
    **{name: f"install restic {name.removeprefix('restic-')} or newer and put it on PATH" for name in _RESTICS},
    **{name: f"install {name} and put it on PATH" for name in prometheus_deb.PROGRAMS},
    "faketime": "install libfaketime (on Debian: apt-get install libfaketime)",
    "postgresql": "install the server of PostgreSQL 15 or newer (on Debian: apt-get install postgresql)",
    "age": "install age and ssss (on Debian: apt-get install age ssss)",
    "redis": "install Redis 7 or newer (on Debian: apt-get install redis-server)",
    "rclone": "install rclone and put it on PATH",
}


def main(arguments: Sequence[str]) -> int:
    """Fetch or print; return the exit code."""
    options = _parse(arguments)
    names = [name for wanted in options.tools or _TOOLS for name in (_RESTICS if wanted == "restic" else (wanted,))]
    if options.print:
        for name in names:
            found = _path(name)
            if found is not None:
                print(f"{name}={found}")
        return 0
    missing = [name for name in names if _path(name) is None]
    if missing:
        _install(missing)
        missing = [name for name in missing if _path(name) is None]
    if len(missing) < len(names):
        say(f"tools: {', '.join(name for name in names if name not in missing)} ready in {cache_dir()}")
    for name in missing:
        say(f"tools: {name} is MISSING: {_HINTS[name]}")
    return 1 if missing and (options.strict or os.environ.get("CI", "").lower() not in {"", "0", "false"}) else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "tools", nargs="*", metavar="tool", help=f"{', '.join((*_TOOLS, *_FOR_BENCHMARKS))}, or restic for both"
    )
    parser.add_argument("--print", action="store_true", help="print name=path of what is there, and fetch nothing")
    parser.add_argument("--strict", action="store_true", help="fail if a tool can't be had, as under CI=true")
    options = parser.parse_args(arguments)
    there = (*_TOOLS, *_FOR_BENCHMARKS)
    unknown = set(options.tools) - {*there, "restic"}
    if unknown:
        parser.error(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    return options


def _path(name: str) -> str | None:
    if name == "minio":
        return minio_source.path()
    if name in prometheus_deb.PROGRAMS:
        return prometheus_deb.path(name)
    if name == "faketime":
        return faketime_deb.path()
    if name == "postgresql":
        return postgresql_deb.path()
    if name == "redis":
        return redis_deb.path()
    if name == "rclone":
        return rclone_deb.path()
    if name == "age":
        return age_deb.path()
    return restic_deb.path(name.removeprefix("restic-"))


def _install(names: Sequence[str]) -> None:
    """Install what is still missing once the lock is held; what fails is reported, and the rest goes on."""
    with locked():
        missing = [name for name in names if _path(name) is None]
        for name in missing:
            if _path(name) is not None:
                continue  # it came with another
            try:
                if name == "minio":
                    minio_source.install()
                elif name in prometheus_deb.PROGRAMS:
                    prometheus_deb.install(name)
                elif name == "faketime":
                    faketime_deb.install()
                elif name == "postgresql":
                    postgresql_deb.install()
                elif name == "redis":
                    redis_deb.install()
                elif name == "rclone":
                    rclone_deb.install()
                elif name == "age":
                    age_deb.install()
                else:
                    restic_deb.install(name.removeprefix("restic-"))
            except Unavailable as error:
                say(f"{name}: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
