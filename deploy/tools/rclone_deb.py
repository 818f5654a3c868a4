"""rclone from Debian's package (see `debian`), for the benchmark of replication. Elsewhere the one on PATH."""

from __future__ import annotations

import os
import shutil

import debian
from toolcache import Unavailable, publish, run, say, scratch, tool_path

SUITE, VERSION = "bookworm", "1.60"

_PINS = {("1.60.1+dfsg-2+b5", "amd64"): "703722dcab0c487322690fe68c7f8d6787e54e1ecd1297800d1382687ddbd81a"}


def path() -> str | None:
    """Return rclone, from the cache or else from PATH, or None."""
    program = tool_path("rclone-1.60", "rclone")
    return program if os.access(program, os.X_OK) else shutil.which("rclone")


def install() -> None:
    """Fetch and publish it (about 24 MB, a third of it Debian's package list). Raises Unavailable."""
    say(f"rclone: fetching from Debian {SUITE}")
    with scratch() as work:
        debian.unpack("rclone", VERSION, SUITE, _PINS, work)
        program = os.path.join(work, "usr", "bin", "rclone")
        said = run([program, "version"])
        if not said.startswith("rclone v1.60"):
            raise Unavailable(f"the unpacked rclone is not 1.60: it says {said.splitlines()[:1]!r}")
        publish(program, "rclone-1.60")
