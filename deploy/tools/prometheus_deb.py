"""Prometheus, promtool, Alertmanager and amtool from Debian's packages (see `debian`); elsewhere those on PATH."""

from __future__ import annotations

import os
import shutil

import debian
from toolcache import Unavailable, publish_all, run, say, scratch, tool_path

SUITE = "bookworm"
PROMETHEUS, ALERTMANAGER = "2.42", "0.25"
PROGRAMS = {
    "prometheus": f"prometheus-{PROMETHEUS}",
    "promtool": f"prometheus-{PROMETHEUS}",
    "alertmanager": f"alertmanager-{ALERTMANAGER}-2",  # 2: amtool is with it
    "amtool": f"alertmanager-{ALERTMANAGER}-2",
}

_PROMETHEUS_PINS = {
    ("2.42.0+ds-5+deb12u1", "amd64"): "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55",
    ("2.42.0+ds-5+deb12u1", "arm64"): "ca131aa102390083398afbc80be9c8dd1dda78f9f92154fc00df8f7f1f4556e9",
}
_ALERTMANAGER_PINS = {
    ("0.25.0-1+b4", "amd64"): "4fb9aed15cfe8e0c32408e643ab32a1e41ee87d2cc26f18aeba928b1b0b98ae7",
    ("0.25.0-1+b4", "arm64"): "c8d60025df09a6525a4ce29d6a656d244e2626fa597ad22d6e4d466979e95937",
}

# Debian's Alertmanager reads its two templates from this directory and nowhere else.
_BUILT_IN = b"/usr/share/prometheus/alertmanager"
_INSTEAD = b"/proc/self/fd/9".ljust(len(_BUILT_IN), b"/")
_TEMPLATES = ("default.tmpl", "email.tmpl")
_WRAPPER = """#!/bin/sh
# The templates' directory is handed over as descriptor 9: see deploy/tools/prometheus_deb.py.
here=$(dirname "$0")
exec 9<"$here"
exec "$here/alertmanager.bin" "$@"
"""


def path(program: str) -> str | None:
    """Return one of the four, from the cache or else from PATH, or None."""
    cached = tool_path(PROGRAMS[program], program)
    if os.access(cached, os.X_OK):
        return cached
    return shutil.which(program) or (shutil.which("prometheus-alertmanager") if program == "alertmanager" else None)


def install(program: str) -> None:
    """Fetch and publish one of them, with the one it comes with. About 30 MB each. Raises Unavailable."""
    say(f"{program}: fetching from Debian {SUITE}")
    with scratch() as work:
        if program in {"alertmanager", "amtool"}:
            debian.unpack("prometheus-alertmanager", ALERTMANAGER, SUITE, _ALERTMANAGER_PINS, work)
            files = _moved_alertmanager(work)
        else:
            debian.unpack("prometheus", PROMETHEUS, SUITE, _PROMETHEUS_PINS, work)
            files = [os.path.join(work, "usr", "bin", name) for name in ("prometheus", "promtool")]
        run([files[0], "--version"])
        publish_all(files, PROGRAMS[program])


def _moved_alertmanager(work: str) -> list[str]:
    """Alertmanager that finds its templates beside itself: its built-in path is overwritten, length for length.

    What is overwritten has been compared with its pin; a rebuild of it would need the Go tool chain.
    """
    with open(os.path.join(work, "usr", "bin", "prometheus-alertmanager"), "rb") as file:
        content = file.read()
    if _BUILT_IN not in content:
        raise Unavailable(f"the unpacked alertmanager does not name {_BUILT_IN.decode()}: it is another build")
    moved = os.path.join(work, "moved")
    os.mkdir(moved)
    for name in _TEMPLATES:
        shutil.copy(os.path.join(work, "usr", "share", "prometheus", "alertmanager", name), moved)
    parts = {"alertmanager": _WRAPPER.encode(), "alertmanager.bin": content.replace(_BUILT_IN, _INSTEAD)}
    for name, part in parts.items():
        with open(os.path.join(moved, name), "wb") as file:
            file.write(part)
        os.chmod(os.path.join(moved, name), 0o700)
    shutil.copy(os.path.join(work, "usr", "bin", "amtool"), moved)
    return [os.path.join(moved, name) for name in (*parts, "amtool", *_TEMPLATES)]
