"""Between an engine and a program of the user's: it starts that, waits for it, and ends as it ended.

Run as a file by a bare interpreter, with the engine's process id, the descriptor through which the program's input is
written (-1: it has none), and the program. It leads the program's group, and outlives no engine: when that dies,
however it was, the whole group is killed, what the program has started included; so nothing goes on behind the back of
whoever undoes it. It holds the input open until the engine says that it is whole: an engine that dies does not end it,
and the half of a dump is not taken for the whole.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_ORPHANED = signal.SIGUSR1  # what tells it that the engine is gone
INPUT_IS_WHOLE = signal.SIGUSR2
_LEFT_TO_THE_PROGRAM = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
CANT_START = 127  # the exit code of a program that could not be started, as shells have it


def main(parent: int, given: int, argv: list[str]) -> int:
    """Start the program and wait for it; its exit code, or the same death by a signal."""
    signal.signal(_ORPHANED, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.signal(INPUT_IS_WHOLE, lambda *_: os.close(given))
    if given >= 0:
        os.set_inheritable(given, False)
    for number in _LEFT_TO_THE_PROGRAM:
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_PDEATHSIG, _ORPHANED)
    if os.getppid() != parent:
        return CANT_START  # it died before that was set
    own = os.getpid()
    pid = os.fork()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {INPUT_IS_WHOLE})  # started so: it may come before it could be heeded
    if not pid:
        _become(argv, own)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        _die_of(-code)
    return code


def _become(argv: list[str], launcher: int) -> None:
    """Become the program. Signals do again what they do by default: helpers ignore some, Python SIGPIPE."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == launcher:
        for number in (_ORPHANED, INPUT_IS_WHOLE, *_LEFT_TO_THE_PROGRAM):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(argv[0], argv)  # noqa: S606 - no shell is what is wanted
        except OSError as error:
            os.write(2, f"{argv[0]} can't be started: {error.strerror}\n".encode(errors="surrogateescape"))
    os._exit(CANT_START)


def _die_of(number: int) -> None:
    """As the program did, but without a core of its own."""
    _prctl(_PR_SET_DUMPABLE, 0)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    # Not sys.exit: on its way out the interpreter heeds signals no more, and would die of one.
    os._exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
