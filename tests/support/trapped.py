"""Runs a module of Holdfast as a program whose stores are trapped or slow: `python -m tests.support.trapped`.

Arguments: the trap as JSON, the module, and the module's own arguments.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any, Self

from tests.support import forked
from tests.support.killing_store import WRITES, Trap, operations
from tests.support.zygote import ROOT, wrap_stores


class Program:
    """A module as a process in a session of its own. A context manager that leaves nothing running."""

    def __init__(self, trap: Trap, module: str, *arguments: str, stdin: str = "", stdout: str = os.devnull) -> None:
        """`stdin` is written to it; that pipe stays open until `close_stdin`. `stdout`: a file for what it says."""
        self.trap = trap
        command = [sys.executable, "-m", "tests.support.trapped", json.dumps(vars(trap)), module, *arguments]
        with open(stdout, "wb") as out:
            self.process = forked.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        assert self.process.stdin is not None
        self._stdin: IO[bytes] = self.process.stdin
        self._stdin.write(stdin.encode())
        self._stdin.flush()

    def wait_for_puts(self, count: int, prefix: str = "put data/") -> None:
        """Until so many such operations have begun."""
        self.wait(
            lambda: sum(line.startswith(prefix) for line in operations(self.trap.record, WRITES)) >= count,
        )

    def wait(self, look: Callable[[], Any], *, seconds: float = 60.0) -> None:
        """Until `look` sees something; it fails when the program ends before."""
        deadline = time.monotonic() + seconds
        while not look():
            assert self.process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)

    def children(self) -> list[int]:
        """The processes that it has started."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            return [int(pid) for pid in file.read().split()]

    def close_stdin(self) -> None:
        """As when its supervisor has died."""
        self._stdin.close()

    def end(self, seconds: float = 30.0) -> int:
        """Its exit code; and no process of its session is left then."""
        code = self.process.wait(seconds)
        deadline = time.monotonic() + 10
        while members := session(self.process.pid):
            assert time.monotonic() < deadline, f"processes {members} are left"
            time.sleep(0.01)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self._stdin.close()


def session(leader: int) -> list[int]:
    """The living processes of a session; zombies, which the machine's init reaps, are none."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat") as file:
                state, _, _, sid = file.read().rpartition(")")[2].split()[:4]
                if int(sid) == leader and state not in "ZX":
                    found.append(int(name))
    return found


def main(arguments: Sequence[str]) -> None:
    """Trap the stores, then be the module."""
    trap, module, *rest = arguments
    wrap_stores(Trap(**json.loads(trap)))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
