"""Who works: two schedulers, three workers or more, one of which lives an hour ahead; kept alive as by an init."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress

from tests.support import forked
from tests.support.chaos.grounds import HOST, POOL, Grounds
from tests.support.chaos.plan import LEASE, WORKERS
from tests.support.chaos.processes import Member, Process, marked
from tests.support.command import ROOT
from tests.support.tools import faketime

SKEW = 3600  # seconds
SKEWED = "worker-2"
_CONCURRENCY = "2"
# Which queues they serve besides the common ones. The clock of the second is wrong, which S3 does not stand for.
_WORKERS = {"worker-1": ["--host", HOST, "--pool", POOL], SKEWED: [], "worker-3": ["--pool", POOL]}


class Crew:
    """The members of a run. A thread starts again what has died; `hold` keeps it from doing so."""

    def __init__(self, grounds: Grounds, pace: float, workers: int = WORKERS) -> None:
        self.mark = os.urandom(8).hex()
        self.lease = LEASE / pace
        self._grounds = grounds
        self._pace = pace
        self._forks = {} if pace == 1 else {forked.SERVER: forked.address()}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.members: dict[str, Member] = {}
        for number in (1, 2):
            for what in ("beat", "worker"):
                name = f"{'beat' if what == 'beat' else 'ticker'}-{number}"
                self._begin(name, self._scheduler(what, grounds.path))
        more_of_them = {f"worker-{number}": ["--pool", POOL] for number in range(WORKERS + 1, workers + 1)}
        for name, more in {**_WORKERS, **more_of_them}.items():
            arguments = self._module("workers", "--config", grounds.path, "--concurrency", _CONCURRENCY, *more)
            self._begin(name, arguments, **(_ahead() if name == SKEWED else {}))
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def named(self, kind: str) -> list[Member]:
        """The members whose name begins so."""
        return [member for name, member in self.members.items() if name.startswith(kind)]

    def processes(self, member: str = "") -> list[Process]:
        """All living processes, or those that descend from one member."""
        return [process for process in marked(self.mark) if member in ("", process.member)]

    def quieten(self) -> None:
        """From now on the schedulers open no more runs, but for sources without any backup."""
        with self._lock:
            for name, member in self.members.items():
                if not name.startswith("worker"):
                    what = "beat" if name.startswith("beat") else "worker"
                    member.replace(self._scheduler(what, self._grounds.quiet_path))

    def dismiss(self, seconds: float = 45.0) -> list[Process]:
        """Tell all to leave, schedulers first; what still runs after that time is given back and killed."""
        self._over.set()
        self._thread.join()
        for member in self.members.values():
            member.tell(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for member in self.members.values():
            with suppress(subprocess.TimeoutExpired):
                member.process.wait(max(0.1, deadline - time.monotonic()))
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.kill()
        return left

    def kill(self) -> None:
        """End everything at once, and leave nothing behind."""
        self._over.set()
        self._thread.join()
        while left := self.processes():
            for process in left:
                os.kill(process.pid, signal.SIGKILL)
            for member in self.members.values():
                member.process.wait()
            time.sleep(0.05)
        self._sweep()

    def _begin(self, name: str, arguments: list[str], **variables: str) -> None:
        log = os.path.join(self._grounds.directory, f"{name}.log")
        self.members[name] = Member(name, self.mark, log, arguments, **self._forks, **variables)

    def _module(self, what: str, *arguments: str) -> list[str]:
        if self._pace == 1:
            return ["-m", what, *arguments]
        return ["-m", "tests.support.chaos.member", str(self._pace), what, *arguments]

    def _scheduler(self, what: str, path: str) -> list[str]:
        return self._module("scheduler", what, "--config", path)

    def _keep(self) -> None:
        while not self._over.wait(0.2):
            with self._lock:
                for member in self.members.values():
                    member.look()

    @staticmethod
    def _sweep() -> None:
        """What libfaketime leaves in shared memory where its process was killed."""
        for name in os.listdir("/dev/shm"):
            pid = name.rpartition("_")[2]
            if "faketime_s" in name and not os.path.exists(f"/proc/{pid}"):
                os.unlink(os.path.join("/dev/shm", name))


def _ahead() -> dict[str, str]:
    path = os.path.join(os.path.dirname(__file__), "ahead")
    return {**faketime(SKEW), "PYTHONPATH": f"{path}:{ROOT}"}
