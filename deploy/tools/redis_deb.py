"""Redis from Debian's packages (see `debian`), as the wheel's Valkey has no TLS; elsewhere the one on PATH."""

from __future__ import annotations

import glob
import os
import shutil

import debian
from toolcache import publish_all, run, say, scratch, tool_path

SUITE, EPOCH, VERSION = "bookworm", "5:", "7.0"
_DIRECTORY = f"redis-{VERSION}"
_LIBRARIES = ("liblzf1", "libjemalloc2")  # that a bare machine lacks
_WRAPPER = """#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here exec "$here/redis.bin" "$@"
"""


def path() -> str | None:
    """Return the server, from the cache or else from PATH, or None."""
    cached = tool_path(_DIRECTORY, "redis-server")
    return cached if os.access(cached, os.X_OK) else shutil.which("redis-server")


def install() -> None:
    """Fetch and publish it. About 2 MB. Raises Unavailable."""
    say(f"redis: fetching from Debian {SUITE}")
    with scratch() as work:
        debian.unpack("redis-tools", f"{EPOCH}{VERSION}", SUITE, {}, work, also=_LIBRARIES)
        moved = os.path.join(work, "moved")
        os.mkdir(moved)
        server = os.path.join(moved, "redis-server")
        with open(server, "w", encoding="utf-8") as file:
            file.write(_WRAPPER)
        os.chmod(server, 0o700)
        # The server and the check of its files are one program, that goes by its name.
        shutil.copy(os.path.join(work, "usr", "bin", "redis-check-rdb"), os.path.join(moved, "redis.bin"))
        for library in glob.glob(os.path.join(work, "usr/lib/*-linux-gnu*/lib*.so.?")):
            shutil.copy(library, moved)
        run([server, "--version"])
        publish_all([os.path.join(moved, name) for name in sorted(os.listdir(moved))], _DIRECTORY)
