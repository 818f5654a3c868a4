"""What people do meanwhile: ask for backups, twice at once too, cancel, retry, restore, verify, and go --direct."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from shared.ledger.errors import LedgerAway, RunNotOver, UnknownRun
from shared.ledger.model import RunKind
from shared.messaging import client
from tests.support import forked
from tests.support.chaos.grounds import Grounds
from tests.support.chaos.processes import MARK, MEMBER
from tests.support.command import ROOT, environment

_PAUSE = (0.3, 1.5)  # seconds between two wishes, at pace 1 as at others
_DIRECT_AT_MOST = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that somebody asked for. `at` in seconds since 1970; `first`: the run that one was to join."""

    id: str
    kind: RunKind
    source: str
    at: float
    target: str = ""
    first: str = ""


@dataclass(slots=True)
class Direct:
    """A backup by `--direct`: its exit code, and its snapshot."""

    source: str
    code: int
    snapshot: str
    said: str


@dataclass(slots=True)
class Wishes:
    """What was asked for."""

    asked: list[Asked] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)  # ids of runs
    direct: list[Direct] = field(default_factory=list)
    refused: int = 0  # as Redis was away, and so they were told
    failures: list[str] = field(default_factory=list)  # what no person should see


class People(threading.Thread):
    """One wish after the other until stopped. They reach Redis by themselves: no proxy breaks their connections."""

    def __init__(self, grounds: Grounds, mark: str, seed: int) -> None:
        super().__init__(name="people", daemon=True)
        self.wishes = Wishes()
        self._grounds = grounds
        self._mark = mark
        self._draw = random.Random(f"{seed} people")
        self._over = threading.Event()
        self._beside: list[threading.Thread] = []

    def run(self) -> None:
        """Wish."""
        acts = [self._back_up, self._twice, self._cancel, self._retry, self._restore, self._verify, self._direct]
        while not self._over.wait(self._draw.uniform(*_PAUSE)):
            act = self._draw.choice(acts)
            source = self._draw.choice(self._grounds.names)
            try:
                act(source)
            except LedgerAway:
                self.wishes.refused += 1
            except (UnknownRun, RunNotOver):
                pass  # it went meanwhile
            except Exception as error:  # noqa: BLE001 - told at the end: a person would see it
                self.wishes.failures.append(f"{act.__name__} {source}: {error!r}")

    def stop(self) -> None:
        """No more wishes from now on; those for --direct are waited for."""
        self._over.set()
        self.join()
        for thread in self._beside:
            thread.join()

    def ask(self, kind: RunKind, source: str, *, first: str = "", **options: object) -> str:
        """Ask for one run, and remember that."""
        at = time.time()
        run = client.open_and_ring(self._grounds.fleet, kind, source, options)
        self.wishes.asked.append(Asked(run, kind, source, at, str(options.get("target", "")), first))
        return run

    def _back_up(self, source: str) -> None:
        self.ask(self._draw.choice([RunKind.FULL, RunKind.INCREMENTAL]), source)

    def _twice(self, source: str) -> None:
        first = self.ask(RunKind.INCREMENTAL, source)
        self.ask(RunKind.INCREMENTAL, source, first=first)

    def _cancel(self, _: str) -> None:
        under_way = client.all_runs(self._grounds.fleet, open_only=True, count=1000)
        # Those that a worker has, rather than one of the many that wait.
        runs = [run for run in under_way if run.owner] or under_way
        if runs:
            run = self._draw.choice(runs)
            self.wishes.cancelled.append(run.id)  # before: it may be done, and the answer lost
            client.cancel(self._grounds.fleet, run.id, "a person")

    def _retry(self, _: str) -> None:
        over = [run for run in client.all_runs(self._grounds.fleet, count=1000) if run.state.is_final]
        over = [run for run in over if run.request.kind is not RunKind.RESTORE]
        if over:
            run, at = self._draw.choice(over), time.time()
            again = client.retry(self._grounds.fleet, run.id)
            self.wishes.asked.append(Asked(again, run.request.kind, run.request.source, at))

    def _restore(self, source: str) -> None:
        source = self._with_repository() or source
        target = os.path.join(self._grounds.directory, "restored", f"{source}-{len(self.wishes.asked)}")
        self.ask(RunKind.RESTORE, source, target=target)

    def _verify(self, source: str) -> None:
        source = self._with_repository() or source
        self.ask(RunKind.VERIFY, source)

    def _with_repository(self) -> str:
        """A source that has something to be restored; empty where none has."""
        near = [name for name in self._grounds.names if self._grounds.site_of(name) == "a"]
        there = [name for name in near if os.path.exists(os.path.join(self._grounds.repository_url(name), "config"))]
        return self._draw.choice(there) if there else ""

    def _direct(self, source: str) -> None:
        if self._grounds.host_of(source) or any(thread.is_alive() for thread in self._beside):
            return
        self.ask(RunKind.INCREMENTAL, source)
        self._beside.append(threading.Thread(target=self._run_direct, args=(source,), daemon=True))
        self._beside[-1].start()

    def _run_direct(self, source: str) -> None:
        done = forked.run(
            [sys.executable, "-m", "cli.main", "backup", source, "--direct", "--json", "--config", self._grounds.path],
            cwd=ROOT,
            env={**environment(), MARK: self._mark, MEMBER: "direct"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DIRECT_AT_MOST,
        )
        try:
            snapshot = str(json.loads(done.stdout)["snapshot"])
        except (ValueError, KeyError):
            snapshot = ""
        self.wishes.direct.append(Direct(source, done.returncode, snapshot, (done.stdout + done.stderr)[-600:]))
