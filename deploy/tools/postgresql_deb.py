"""PostgreSQL's server and clients from Debian's packages (see `debian`); elsewhere those of the system.

It finds its own files relative to its programs, so the tree can lie anywhere.
"""

from __future__ import annotations

import glob
import os

import debian
from toolcache import Unavailable, publish_all, run, say, scratch, tool_path

SUITE, MAJOR = "bookworm", "15"
_DIRECTORY = f"postgresql-{MAJOR}"
_PROGRAMS = f"usr/lib/postgresql/{MAJOR}/bin"
# The libraries that a bare machine may lack.
_ALSO = (
    *(f"postgresql-client-{MAJOR}", "libpq5", "libldap-2.5-0", "libsasl2-2", "libxml2", "libicu72"),
    *("libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1"),
)
_INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


def path() -> str | None:
    """Return the directory of its programs, from the cache or else of the system, or None."""
    cached = tool_path(_DIRECTORY, _PROGRAMS)
    folders = [cached, *sorted(found for pattern in _INSTALLED for found in glob.glob(pattern))]
    return next((folder for folder in folders if os.access(os.path.join(folder, "postgres"), os.X_OK)), None)


def install() -> None:
    """Fetch and publish it. About 40 MB. Raises Unavailable."""
    say(f"postgresql: fetching from Debian {SUITE}")
    with scratch() as work:
        debian.unpack(f"postgresql-{MAJOR}", MAJOR, SUITE, {}, work, also=_ALSO)
        (libraries,) = glob.glob(os.path.join(work, "usr/lib/*-linux-gnu*"))
        try:
            run([os.path.join(work, _PROGRAMS, "postgres"), "--version"], env={"LD_LIBRARY_PATH": libraries})
        except Unavailable as error:
            raise Unavailable(f"{error}\n    a library is missing: `apt-get install postgresql-{MAJOR}`") from error
        publish_all([os.path.join(work, "usr")], _DIRECTORY)
