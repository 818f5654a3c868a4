"""libfaketime from Debian's package (see `debian`): a program started with it lives at another time of day.

Elsewhere the one that the system has, where distributions put it.
"""

from __future__ import annotations

import glob
import os

import debian
from toolcache import Unavailable, publish, run, say, scratch, tool_path

SUITE, VERSION = "bookworm", "0.9.10-2"
LIBRARY = "libfaketime.so.1"

_PINS = {
    ("0.9.10-2.1", "amd64"): "b09481e7690680966005330c3f907bba4b5eefc35e1faaea4783cc55655d1150",
    ("0.9.10-2.1", "arm64"): "2e09e24e85c77bdc555a04b4a6dd4523092066135d08ef233396e8f984a3daf2",
}
_INSTALLED = ("/usr/lib/*/faketime", "/usr/lib*/faketime", "/usr/local/lib/faketime", "/opt/homebrew/lib/faketime")


def path() -> str | None:
    """Return the library, for LD_PRELOAD, from the cache or else from the system, or None."""
    cached = tool_path("faketime-0.9", LIBRARY)
    if os.path.exists(cached):
        return cached
    return next((found for folder in _INSTALLED for found in glob.glob(os.path.join(folder, LIBRARY))), None)


def install() -> None:
    """Fetch and publish it (9 MB, nearly all of it Debian's package list). Raises Unavailable."""
    say(f"faketime: fetching from Debian {SUITE}")
    with scratch() as work:
        debian.unpack("libfaketime", VERSION, SUITE, _PINS, work)
        library = glob.glob(os.path.join(work, "usr/lib/*/faketime", LIBRARY))
        if not library:
            raise Unavailable(f"Debian's package of libfaketime has no {LIBRARY}")
        year = run(["date", "-u", "+%Y"], env={"LD_PRELOAD": library[0], "FAKETIME": "@2001-09-09 01:46:40"}).strip()
        if year != "2001":
            raise Unavailable(f"the unpacked libfaketime has no effect: asked for 2001, the year is {year!r}")
        publish(library[0], "faketime-0.9")
