"""An engine as a process: a spec as one line of JSON on stdin, events as JSON lines on stdout.

    {"event":"progress",...}  {"event":"packed",...}  {"event":"note","message"}  {"event":"done",...}
    {"event":"error","message","hint","exit_code"}, of a store also "site"
The last two also say `store_retries`: how often the site was asked again.

Invariant: the engine does not outlive whoever started it. When its stdin closes it gets SIGIO (no thread
may exist before helpers are forked), and takes that for SIGTERM: it ends cleanly.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

import orjson

from shared.errors import EXIT_OK, HoldfastError, StorageError
from shared.storage.retry import retries

OnEvent = Callable[[dict[str, Any]], None]
_STDIN = 0


def serve(engine: Callable[[dict[str, Any], OnEvent], dict[str, Any]]) -> int:
    """Run `engine(spec, on_event)` on what stdin says; the process's exit code."""
    try:
        spec = json.loads(_read_line())  # orjson refuses the surrogates that stand for bytes that are not UTF-8
        _watch_stdin()
        result = engine(spec, _emit)
    except HoldfastError as error:
        said = {"message": str(error.args[0]), "hint": error.hint, "exit_code": error.exit_code}
        if isinstance(error, StorageError):
            said["site"] = error.site  # a replication has two
        _emit({"event": "error", **said, "store_retries": retries()})
        return error.exit_code
    except BrokenPipeError:
        return 1  # nobody is left to be told
    _emit({"event": "done", **result, "store_retries": retries()})
    return EXIT_OK


def _emit(event: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
    sys.stdout.buffer.flush()


def _read_line() -> bytes:
    # Read unbuffered: the rest of the pipe is for the watch alone.
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(_STDIN, 1 << 16)
        if not data:
            break
        line += data
    return bytes(line)


def _watch_stdin() -> None:
    poll = select.poll()
    poll.register(_STDIN, select.POLLIN | select.POLLHUP)

    def closed(*_: object) -> None:
        if poll.poll(0):
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGIO, closed)
    fcntl.fcntl(_STDIN, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(_STDIN, fcntl.F_SETFL, fcntl.fcntl(_STDIN, fcntl.F_GETFL) | os.O_ASYNC)
    closed()  # it may have been closed before the watch began
