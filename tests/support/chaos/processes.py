"""The processes of a chaos run as the kernel knows them, told by marks in their environment.

What a member starts (pool children, engines, helpers) has its marks too, whatever group or parent it has by now: so
nothing that outlives its member is missed.
"""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.support import forked
from tests.support.command import ROOT, environment

MARK, MEMBER = "CHAOS_RUN", "CHAOS_MEMBER"
_RESTART = 1.5  # seconds
_ENGINES = ("workers.backup", "workers.restore", "workers.maintenance")


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `member` is the name of the member that it descends from."""

    pid: int
    parent: int
    session: int
    member: str
    command: str

    @property
    def is_engine(self) -> bool:
        """Whether it is an engine's coordinator."""
        return self._of_engine and self.pid == self.session

    @property
    def is_helper(self) -> bool:
        """Whether it is an engine's helper."""
        return self._of_engine and self.pid != self.session

    @property
    def _of_engine(self) -> bool:
        return any(f"-m {module}" in self.command for module in _ENGINES)


def marked(mark: str) -> list[Process]:
    """All living processes with this mark, by pid."""
    found = []
    for folder in glob.glob("/proc/[0-9]*"):
        with suppress(OSError, IndexError):
            with open(f"{folder}/environ", "rb") as file:
                variables = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
            if variables.get(MARK.encode()) != mark.encode():
                continue
            with open(f"{folder}/stat") as file:
                state, parent, _, session, *_ = file.read().rpartition(")")[2].split()
            with open(f"{folder}/cmdline") as file:
                command = file.read().replace("\0", " ").strip()
            if state not in "ZX" and command:
                pid, member = int(os.path.basename(folder)), variables.get(MEMBER.encode(), b"").decode()
                if pid == int(session):
                    parent = variables.get(forked.ASKED_BY.encode(), parent)
                found.append(Process(pid, int(parent), int(session), member, command))
    return sorted(found, key=lambda process: process.pid)


def send(number: signal.Signals, processes: Sequence[Process]) -> None:
    """A signal to each of them that is still there."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def descriptors(process: Process) -> int:
    """How many descriptors it holds; 0 where it is gone."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{process.pid}/fd"))
    return 0


class Member:
    """A worker's parent, a beat or a scheduler's worker, in a session of its own; started again after a death."""

    def __init__(self, name: str, mark: str, log: str, arguments: Sequence[str], **variables: str) -> None:
        self.name = name
        self.command = [sys.executable, *arguments]
        self.restarts = 0
        self._died = 0.0  # when its death was seen, in monotonic seconds; 0: it lives
        self._log = log
        self._environment = {**environment(), MARK: mark, MEMBER: name, **variables}
        self.process = self._start()

    @property
    def pid(self) -> int:
        """The process id of its parent."""
        return self.process.pid

    def look(self) -> None:
        """Start it again if it has died, as an init system does: after a pause."""
        if self.process.poll() is None:
            return
        self._died = self._died or time.monotonic()
        if time.monotonic() >= self._died + _RESTART:
            self._died = 0.0
            self.restarts += 1
            self.process = self._start()

    def tell(self, number: signal.Signals) -> None:
        """A signal to its parent alone."""
        if self.process.poll() is None:
            os.kill(self.pid, number)

    def replace(self, arguments: Sequence[str]) -> None:
        """End it, and start it with other arguments."""
        self.tell(signal.SIGTERM)
        self.process.wait(40)
        self.command = [sys.executable, *arguments]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            start = forked.Popen if forked.SERVER in self._environment else subprocess.Popen
            return start(
                self.command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
