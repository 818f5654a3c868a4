"""Child processes that are kept alive: started again when they die, replaced, stopped together, none left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from workers.engine_process import ROOT
from workers.logfiles import open_log

DRAINED = 75  # the exit code of a worker that was asked to leave: it stays away
_BACKOFF_FIRST = 0.5  # seconds before a child that died is started again, doubled each time
_BACKOFF_AT_MOST = 30.0
_STEADY = 60.0  # seconds of life after which a child's deaths are forgotten
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Run in the child: should the parent be killed outright, the kernel tells the child to end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _output(log_path: str) -> int:
    if not log_path:
        return os.dup(2)
    try:
        return open_log(log_path)
    except OSError:  # the disk is full: its own log handler opens the log as soon as there is room
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


class Child:
    """One program that shall run. It is started by the first `look`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_dir: str = "",
        *,
        stop_grace: float = 10.0,
        stops_last: bool = False,
        alone: bool = False,
        aside: bool = False,
        hindrance: Callable[[], str] = str,
    ) -> None:
        """`stop_grace`: seconds from SIGTERM to SIGKILL of its group. `stops_last`: others need it to end well.

        `alone`: one that takes its place waits for its end. `aside`: it is not drained, and nobody stays for it.
        `hindrance` says why it can't be started now; empty: it
        can. Without `log_dir` it writes to this process's standard error: whoever started that keeps the log.
        """
        self.name = name
        self.command = list(command)
        self.log_path = os.path.join(log_dir, f"{name}.log") if log_dir else ""
        self.deaths = 0
        self.since = 0.0  # POSIX seconds of the last start
        self.note = ""  # why it is down and stays so for now, for people
        self.is_drained = False
        self.stops_last = stops_last
        self.alone = alone
        self.aside = aside
        self.after: Child | None = None  # it is started when that one has ended
        self._grace = stop_grace
        self._hindrance = hindrance
        self._hindered = 0  # times in a row
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._kill_at = 0.0

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
        fd = _output(self.log_path)
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
        self.note = ""

    def look(self) -> str:
        """Start it where it is time to. What there is to tell a person, or nothing."""
        now = time.monotonic()
        if self._process is None:
            return self._look_down(now)
        code = self._process.poll()
        if code is None:
            return ""
        self._reap_group()
        self._process = None
        if code == DRAINED:
            self.is_drained, self.note = True, "drained"
            return f"{self.name} was drained and stays away"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return self._back_off(now, how)

    def ask_to_stop(self) -> None:
        """Send it SIGTERM; its grace begins."""
        self._kill_at = time.monotonic() + self._grace
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def has_left(self) -> bool:
        """Whether it has ended since `ask_to_stop`; once its grace is over, it is killed."""
        if self._process is not None and self._process.poll() is None and time.monotonic() < self._kill_at:
            return False
        self.wait_stopped()
        return True

    def wait_stopped(self) -> bool:
        """Wait for its end after `ask_to_stop`. False where it had to be killed."""
        if self._process is None:
            return True
        clean = True
        try:
            self._process.wait(max(0.0, self._kill_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            clean = False
        self._reap_group()
        self._process.wait()
        self._process = None
        return clean

    def _look_down(self, now: float) -> str:
        if self.is_drained or now < self._start_at or (self.after is not None and self.after.pid):
            return ""
        why = self._hindrance()
        if why:
            self._start_at = now + min(_BACKOFF_FIRST * 2**self._hindered, _BACKOFF_AT_MOST)
            self._hindered += 1
            self.note = why
            return f"{self.name} can't start: {why}; it is tried again" if self._hindered == 1 else ""
        again = bool(self.deaths or self._hindered)
        self._hindered = 0
        try:
            self.start()
        except OSError as error:
            return self._back_off(now, f"can't be started: {error.strerror}")
        return f"{self.name} started{' again' if self.deaths else ''}" if again else ""

    def _back_off(self, now: float, how: str) -> str:
        self.deaths = 1 if now - self._started > _STEADY else self.deaths + 1
        pause = min(_BACKOFF_FIRST * 2 ** min(self.deaths - 1, 16), _BACKOFF_AT_MOST)
        self._start_at = now + pause
        where = f" (see {self.log_path})" if self.log_path else ""
        return f"{self.name} {how}; starting it again in {pause:g} s{where}"

    def _reap_group(self) -> None:
        """Whatever of its group outlived it is killed: a pool child whose parent is gone is of no use."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Children:
    """Several, that are looked after and stop together."""

    def __init__(self, children: Sequence[Child], tell: Callable[[str], None]) -> None:
        self.children = list(children)
        self._leaving: list[Child] = []  # others have taken their places
        self._tell = tell

    @property
    def everyone(self) -> list[Child]:
        """All of them, those that are leaving last."""
        return [*self.children, *self._leaving]

    @property
    def are_settled(self) -> bool:
        """Whether all that shall run does, so that nothing is to be done before one of them dies."""
        return not self._leaving and all(child.pid or child.is_drained for child in self.children)

    @property
    def are_drained(self) -> bool:
        """Whether all have been asked to leave, and nothing is left to look after."""
        staying = [child for child in self.children if not child.aside]
        return bool(staying) and all(child.is_drained for child in staying) and not self._leaving

    def look(self) -> None:
        """Look after each of them once."""
        self._leaving = [child for child in self._leaving if not child.has_left()]
        for child in self.children:
            said = child.look()
            if said:
                self._tell(said)

    def become(self, wanted: Sequence[Child]) -> None:
        """Be those that are wanted: who has another command now is replaced, who is not wanted leaves.

        The new one is started at once: it takes the runs that the old one gives back. A drained one stays away.
        """
        old = {child.name: child for child in self.children}
        self.children = []
        for child in wanted:
            before = old.pop(child.name, None)
            if before is not None and (before.command == child.command or before.is_drained):
                self.children.append(before)
                continue
            self.children.append(child)
            if before is not None:
                self._let_go(before)
                child.after = before if before.alone else None
                self._tell(f"{child.name} is started anew, as the configuration has changed")
        for child in old.values():
            self._tell(f"{child.name} is stopped, as the configuration has changed")
            self._let_go(child)

    def stop(self) -> None:
        """Stop all, and come back when none is left."""
        for last in (False, True):
            wave = [child for child in self.everyone if child.stops_last == last]
            for child in wave:
                child.ask_to_stop()
            for child in wave:
                if not child.wait_stopped():
                    self._tell(f"{child.name} did not end in time and was killed")

    def _let_go(self, child: Child) -> None:
        child.ask_to_stop()
        child.name = f"{child.name} (leaving)"
        self._leaving.append(child)
