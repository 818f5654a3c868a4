"""Engines of a fleet with limits, as processes of their own, and what the kernel says of them."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.config.fleet import Fleet
from shared.ledger.model import RunKind, RunRequest, new_run_id
from shared.storage.throttled import Pacer
from tests.support.fleets import SmallFleet
from tests.support.stores import make_bucket
from tests.support.tools import MinioServer
from workers import specs
from workers.engine_process import EngineProcess, Event

_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}[os.uname().machine]


class Counted(Pacer):
    """Counts what is paid for, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__([])
        self.paid: list[int] = []

    def pay(self, count: int) -> None:
        """Note it."""
        self.paid.append(count)


class LimitedFleet:
    """Sources `one` and `two` of `size` random bytes each, on a directory or, with `server`, in a bucket."""

    def __init__(self, base: Path, size: int, server: MinioServer | None = None) -> None:
        small = SmallFleet(str(base))
        self._base = base
        self._path = small.path
        site: dict[str, Any] = {"url": str(base / "site")}
        if server is not None:
            keys = base / "keys"
            keys.write_text(json.dumps({"access_key": server.access_key, "secret_key": server.secret_key}))
            site = {"url": f"s3:{server.url}/{make_bucket(server)}", "credentials": {"file": str(keys)}}
        self._site = json.dumps(site)
        for name in ("one", "two"):
            (base / name).mkdir()
            for number in range(4):
                (base / name / f"file-{number}").write_bytes(os.urandom(size // 4))

    def with_limits(self, limits: str = "{}") -> Fleet:
        """The fleet, with these at the top of its file."""
        sources = ", ".join(f"{name}: {{paths: {self._base / name}}}" for name in ("one", "two"))
        head = "secret: {file: secret}\nrecovery_password: {file: recovery}\ncache_dir: cache\nstate_dir: state\n"
        body = f"sites: {{a: {self._site}}}\nlimits: {limits}\nsources: {{{sources}}}\n"
        Path(self._path).write_text(head + body)
        return Fleet.load(self._path)

    @property
    def buckets(self) -> Path:
        """Where the lines' files lie."""
        return self._base / "cache" / "limits"


def start(fleet: Fleet, kind: RunKind, source: str, **options: object) -> EngineProcess:
    """Start an engine as a worker does."""
    request = RunRequest(new_run_id(), kind, source, options=options)
    return EngineProcess(specs.command_for(kind), specs.spec_for(fleet, request))


def finish(
    engines: list[EngineProcess], meanwhile: Callable[[], None] = lambda: None, *, done: bool = True
) -> tuple[list[Event], float]:
    """Their last events, and the seconds until the last has ended; all must end well where they are to be `done`."""
    began = time.monotonic()
    last: list[Event] = [{}] * len(engines)
    try:
        while not all(engine.ended for engine in engines):
            for number, engine in enumerate(engines):
                for event in engine.events(0.05):
                    last[number] = event
            meanwhile()
        took = time.monotonic() - began
    finally:
        for engine in engines:
            engine.close()
    if done:
        assert [event.get("event") for event in last] == ["done"] * len(engines), last
    return last, took


def family(pid: int) -> list[int]:
    """A process, and its children."""
    found = [pid]
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(name))
    return found


def manners(pid: int) -> set[tuple[int, int, frozenset[int]]]:
    """(niceness, class and level of IO priority, cores) of all threads of a process."""
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        priority = ctypes.CDLL(None).syscall(_IOPRIO_GET, 1, int(task))
        found.add((os.getpriority(os.PRIO_PROCESS, int(task)), priority, frozenset(os.sched_getaffinity(int(task)))))
    return found
