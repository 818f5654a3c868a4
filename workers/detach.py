"""Going on without the terminal: the work runs in a session of its own, and its starter waits until it stands."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from shared.errors import HoldfastError

_READY = b"ready"


@dataclass(frozen=True, slots=True)
class Detached:
    """What came of it: `pid` of the process that stands, or why it does not."""

    pid: int
    error: str = ""
    hint: str = ""
    exit_code: int = 0


def detach(work: Callable[[Callable[[], None]], int], log_path: str) -> Detached:
    """Run `work` in the background, with its output in `log_path`, and come back once it has called its argument.

    Forks: no thread may run and nothing be connected. Ctrl-C while it starts stops it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, log_path, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        try:
            said = pipe.read()
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            raise
    if said == _READY:
        return Detached(pid)
    os.waitpid(pid, 0)
    if not said:
        return Detached(pid, "it ended while it started", f"See {log_path}", 1)
    return Detached(pid, **json.loads(said))


def _child(work: Callable[[Callable[[], None]], int], log_path: str, writer: int) -> NoReturn:
    """The detached process. It ends without unwinding what its parent has built."""
    code, told = 1, False

    def ready() -> None:
        nonlocal told
        os.write(writer, _READY)
        os.close(writer)
        told = True

    try:
        os.setsid()
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        code = work(ready)
    except HoldfastError as error:
        code = error.exit_code
        if told:
            print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - into the log
        else:
            said = {"error": str(error.args[0]), "hint": error.hint, "exit_code": code}
            os.write(writer, json.dumps(said).encode())
    except BaseException:  # noqa: BLE001 - the last boundary of this process
        traceback.print_exc()
    finally:
        os._exit(code)
