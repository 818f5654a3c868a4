"""Stock age and ssss from Debian's packages (see `debian`): what opens a recovery kit without Holdfast.

Elsewhere those on PATH, where both are.
"""

from __future__ import annotations

import os
import shutil

import debian
from toolcache import publish_all, run, say, scratch, tool_path

SUITE, VERSION = "bookworm", "1.1"
_DIRECTORY = f"age-{VERSION}"
_PROGRAMS = ("age", "ssss-combine")
_PINS = {("1.1.1-1+b3", "amd64"): "574664c44f1c69ec9cb8f6f25ae3eaba647c923f62b65cca5086c899c1c26e09"}


def path() -> str | None:
    """Return age, from the cache or else from PATH, or None; ssss-combine lies beside it, or on PATH."""
    cached = tool_path(_DIRECTORY, "age")
    if os.access(cached, os.X_OK):
        return cached
    return shutil.which("age") if shutil.which("ssss-combine") else None


def install() -> None:
    """Fetch and publish both. About 2 MB. Raises Unavailable."""
    say(f"age: fetching from Debian {SUITE}")
    with scratch() as work:
        debian.unpack("age", VERSION, SUITE, _PINS, work, also=("ssss",))
        programs = [os.path.join(work, "usr", "bin", name) for name in _PROGRAMS]
        run([programs[0], "--version"])
        run([programs[1], "-h"])
        publish_all(programs, _DIRECTORY)
