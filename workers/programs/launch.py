"""Between an engine and a program of the user's: what must be so in the child before it becomes that program.

Run as a file by a bare interpreter, with the engine's process id and the program: it is killed when whoever started it
dies, however that was, and signals do again what they do by default (helpers ignore some, Python SIGPIPE).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
CANT_START = 127  # the exit code of a program that could not be started, as shells have it


def main(parent: int, argv: list[str]) -> int:
    """Become the program; the exit code where that fails."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return CANT_START  # it died before that was set
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        sys.stderr.write(f"{argv[0]} can't be started: {error.strerror}\n")
    return CANT_START


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
