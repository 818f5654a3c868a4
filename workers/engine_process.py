"""An engine as a process: started with a spec on its standard input, heard as JSON lines on its standard output.

    in   one line of JSON, the spec; then the pipe stays open, and its end tells the engine that its supervisor is gone
    out  {"event": "progress", ...}  as often as it likes
         {"event": "packed", "pack": hex}  for the journal
         {"event": "done", ...the result...}  or  {"event": "error", "message": ..., "exit_code": N}  last
    err  whatever; for the log, which names the run and masks secrets

It has a process group of its own: a signal meant for the worker does not hit it, and SIGKILL takes its helpers too.
Secrets pass over the pipe alone: not in arguments, not in the environment.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from shared.errors import HoldfastError

_LINE_AT_MOST = 4 << 20  # bytes; what is longer is no event
_READ = 1 << 16

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # where the packages lie

Event = Mapping[str, object]


class EngineFailed(HoldfastError):
    """An engine could not be started."""

    exit_code = 41


def module_command(module: str) -> list[str]:
    """The command that runs a module of Holdfast with this very interpreter; to be started in `ROOT`."""
    return [sys.executable, "-m", module]


class EngineProcess:
    """One engine, from start to end. Not for several threads."""

    def __init__(self, command: Sequence[str], spec: Mapping[str, object]) -> None:
        """Start it and hand over the spec. Raises EngineFailed."""
        line = json.dumps(spec).encode() + b"\n"
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise EngineFailed(f"the engine {command[0]} can't be started: {error.strerror}") from error
        self.garbage = 0  # lines that were no events
        self._buffer = bytearray()
        self._skipping = False
        self._open = True
        self._complaint = bytearray()
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None  # noqa: S101, PT018 - all were asked for
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        os.set_blocking(stderr.fileno(), False)
        self._pidfd = os.pidfd_open(self._process.pid)  # readable as soon as it has ended
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        self._send(line)

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    @property
    def ended(self) -> bool:
        """Whether it has ended and all it said has been heard."""
        return not self._open and self._process.poll() is not None

    def events(self, timeout: float) -> list[Event]:
        """What it has said, waiting up to `timeout` seconds for something."""
        ready = {key.fd for key, _ in self._selector.select(timeout)}
        if not self._open or self._stdout.fileno() not in ready:
            if self._process.poll() is not None:
                self._open = False  # all it said was heard; what it left behind may still hold the pipe
            return []
        data = os.read(self._stdout.fileno(), _READ)
        if not data:
            self._open = False
            self._selector.unregister(self._stdout)
            return []
        return [event for line in self._lines(data) if (event := self._parse(line)) is not None]

    def complaints(self) -> list[str]:
        """What it has said on standard error since the last call: whole lines, until it has ended. Never waits."""
        while len(self._complaint) < _READ:
            try:
                data = os.read(self._stderr.fileno(), _READ)
            except BlockingIOError:
                break
            if not data:
                break
            self._complaint += data
        # A line that is cut in two could show the half of a secret; one without an end must not be kept for ever.
        whole = len(self._complaint) >= _READ or self.ended
        end = len(self._complaint) if whole else self._complaint.rfind(b"\n") + 1
        text = bytes(self._complaint[:end]).decode(errors="backslashreplace").strip()
        del self._complaint[:end]
        return [text] if text else []

    def terminate(self) -> None:
        """Ask it to stop cleanly: flush what it has, and exit."""
        with suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and its helpers at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind: whatever still runs of it is killed, and all is reaped. May be called twice."""
        self.kill()
        self._process.wait()
        self._selector.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        with suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        self._stderr.close()

    def _send(self, line: bytes) -> None:
        view = memoryview(line)
        with suppress(BrokenPipeError):  # it died at once: its exit code tells
            while view:
                view = view[self._stdin.write(view) or 0 :]

    def _lines(self, data: bytes) -> list[bytes]:
        """Whole lines; one that is too long is dropped up to its end."""
        *whole, rest = (bytes(self._buffer) + data).split(b"\n")
        if whole and self._skipping:
            whole, self._skipping = whole[1:], False
        self._buffer = bytearray(rest)
        if len(self._buffer) > _LINE_AT_MOST:
            self._buffer.clear()
            self._skipping = True
            self.garbage += 1
        return whole

    def _parse(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            self.garbage += 1
            return None
        return event
