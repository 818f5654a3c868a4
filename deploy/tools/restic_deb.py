"""Stock restic in two versions, from Debian's packages (see `debian`).

Elsewhere the restic on PATH serves for every version that is not newer than itself.
"""

from __future__ import annotations

import os
import re
import shutil

import debian
from toolcache import Unavailable, publish, run, say, scratch, tool_path

SUITES = {"0.14": "bookworm", "0.18": "trixie"}

_PINS = {
    ("0.14.0-1+b5", "amd64"): "9d7e8c210736f3f15ed7cf425ab56aa5259b07d8422b958494bfd4359b5024d1",
    ("0.14.0-1+b5", "arm64"): "d0fb9c3b51aef8e58fbb185f2455d038424ba9e301c219d00e46f2a6a1effcfd",
    ("0.18.0-1+b4", "amd64"): "4888fb20b272a28b84ac39171b7d7f0d9a58c2aeae51ec28e54684648d66e12c",
    ("0.18.0-1+b4", "arm64"): "3877c6ef8efe052e80a6417b0ac0a672e644fd8bf5ef14e8b803ab6744e43be2",
}


def path(version: str) -> str | None:
    """Return a restic that serves for `version` ("0.14"), from the cache or else from PATH, or None."""
    program = tool_path(f"restic-{version}", "restic")
    if os.access(program, os.X_OK):
        return program
    return _on_path(version)


def install(version: str) -> None:
    """Fetch and publish this version of restic (about 18 MB, most of it Debian's package list).

    Raises Unavailable.
    """
    say(f"restic: fetching {version} from Debian {SUITES[version]}")
    with scratch() as work:
        debian.unpack("restic", version, SUITES[version], _PINS, work)
        program = os.path.join(work, "usr", "bin", "restic")
        _check_runs(program, version)
        publish(program, f"restic-{version}")


def _on_path(version: str) -> str | None:
    program = shutil.which("restic")
    if program is None:
        return None
    try:
        found = re.match(r"restic (\d+)\.(\d+)", run([program, "version"]))
    except Unavailable:
        return None
    wanted = tuple(map(int, version.split(".")))
    return program if found and (int(found[1]), int(found[2])) >= wanted else None


def _check_runs(program: str, version: str) -> None:
    said = run([program, "version"])
    if not said.startswith(f"restic {version}."):
        raise Unavailable(f"the unpacked restic is not {version}: it says {said.strip()!r}")
