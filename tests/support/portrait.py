"""Says on stdout what a process finds itself to be: `python -m tests.support.portrait WHAT ...`; ends with code 3."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


def _words(name: str) -> list[str]:
    with open(f"/proc/self/{name}", "rb") as file:
        return [os.fsdecode(word) for word in file.read().strip(b"\0").split(b"\0")]


def portrait() -> dict[str, object]:
    """What whoever started it has made it."""
    return {
        "arguments": sys.argv,
        "shown": _words("cmdline"),
        "environment": dict(os.environ),
        "environment shown": sorted(_words("environ")),
        "folder": os.getcwd(),
        "modules from": sys.path,
        "session": (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:4],  # the last: of this very listing
        "stdin": sys.stdin.read(),
        "streams": [
            (stream.encoding, stream.errors, stream.isatty(), stream.line_buffering)
            for stream in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "signals": [str(signal.getsignal(number)) for number in _SIGNALS],
        "temporary": tempfile.gettempdir(),
        "zone": time.tzname,
        "alone": len(os.listdir("/proc/self/task")) == 1,
    }


if __name__ == "__main__":
    print(json.dumps({"self": portrait(), "forked": "celery" in sys.modules}))  # noqa: T201
    sys.exit(3)
