"""Child processes that are kept alive: started again when they die, stopped together, none left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from workers.engine_process import ROOT

_BACKOFF_FIRST = 0.5  # seconds before a child that died is started again, doubled each time
_BACKOFF_AT_MOST = 30.0
_STEADY = 60.0  # seconds of life after which a child's deaths are forgotten
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Run in the child: should the parent be killed outright, the kernel tells the child to end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _open_log(path: str) -> int:
    if not path:
        return os.dup(2)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


class Child:
    """One program that shall run."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_dir: str = "",
        *,
        stop_grace: float = 10.0,
        stops_last: bool = False,
    ) -> None:
        """`stop_grace`: seconds from SIGTERM to SIGKILL of its group. `stops_last`: others need it to end well.

        Without `log_dir` it writes to this process's standard error: whoever started that keeps the log.
        """
        self.name = name
        self.command = list(command)
        self.log_path = os.path.join(log_dir, f"{name}.log") if log_dir else ""
        self.deaths = 0
        self.since = 0.0  # POSIX seconds of the last start
        self.stops_last = stops_last
        self._grace = stop_grace
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process, which leads a group of its own; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it. Raises OSError."""
        fd = _open_log(self.log_path)
        try:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=fd,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        finally:
            os.close(fd)
        self._started = time.monotonic()
        self.since = time.time()

    def look(self) -> str:
        """Start it again where it is time. What there is to tell a person, or nothing."""
        now = time.monotonic()
        if self._process is None:
            if now < self._start_at:
                return ""
            self.start()
            return f"{self.name} started again"
        code = self._process.poll()
        if code is None:
            return ""
        self._reap_group()
        self.deaths = 1 if now - self._started > _STEADY else self.deaths + 1
        pause = min(_BACKOFF_FIRST * 2 ** (self.deaths - 1), _BACKOFF_AT_MOST)
        self._start_at = now + pause
        self._process = None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        where = f" (see {self.log_path})" if self.log_path else ""
        return f"{self.name} {how}; starting it again in {pause:g} s{where}"

    def ask_to_stop(self) -> None:
        """Send it SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_stopped(self) -> bool:
        """Wait for its end after `ask_to_stop`. False where it had to be killed."""
        if self._process is None:
            return True
        clean = True
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            clean = False
        self._reap_group()
        self._process.wait()
        self._process = None
        return clean

    def _reap_group(self) -> None:
        """Whatever of its group outlived it is killed: a pool child whose parent is gone is of no use."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Children:
    """Several, that are looked after and stop together."""

    def __init__(self, children: Sequence[Child], tell: Callable[[str], None]) -> None:
        self.children = list(children)
        self._tell = tell

    def look(self) -> None:
        """Look after each of them once."""
        for child in self.children:
            said = child.look()
            if said:
                self._tell(said)

    def stop(self) -> None:
        """Stop all, and come back when none is left."""
        for last in (False, True):
            wave = [child for child in self.children if child.stops_last == last]
            for child in wave:
                child.ask_to_stop()
            for child in wave:
                if not child.wait_stopped():
                    self._tell(f"{child.name} did not end in time and was killed")
