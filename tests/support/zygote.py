"""Runs engines in forked processes with everything imported: a kill test that needs hundreds can't wait for imports.

The server (`python -m tests.support.zygote`) has one thread, reads a job per line of JSON, forks a process with a
session of its own for it, waits for that and for whatever it leaves behind (it is their subreaper), and answers
with a line. So an answer's `strays` says how many processes outlived the engine, and `left` how many still did
after ten seconds, which are then killed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from shared.errors import HoldfastError
from tests.support.killing_store import KillingStore, Trap

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_PATIENCE = 10.0  # seconds that what an engine left may take to end


@dataclass
class Ended:
    """How a job ended: killed by a `signal`, or with `result` or `error` (message, hint, exit code)."""

    signal: int
    strays: int
    left: int
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    exit_code: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.signal == signal.SIGKILL


class Zygote:
    """The client: one job at a time. Use as a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, work: str, arguments: dict[str, Any], *, trap: Trap | None = None, set_: dict[str, Any] | None = None
    ) -> Ended:
        """Run the job named `work` (see `JOBS`). `set_`: module attributes to change, as "package.module:NAME"."""
        job = {"work": work, "arguments": arguments, "trap": vars(trap) if trap else None, "set": set_ or {}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the zygote died"
        return Ended(**json.loads(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _backup(arguments: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from workers.backup.run import run_backup
    from workers.backup.spec import BackupSpec

    return run_backup(BackupSpec.from_json(arguments), on_event).to_json()


def _create(arguments: dict[str, Any], _on_event: object) -> dict[str, Any]:
    """Create a repository; starts when the second hand of `at` (time.time) is reached, so that several race."""
    from shared.repository.repository import Repository
    from workers.access import repository_store
    from workers.backup.spec import SiteSpec

    while time.time() < arguments["at"]:
        pass
    repo = Repository.create(
        repository_store(SiteSpec(**arguments["site"]), arguments["repository"]),
        repository_id=arguments["repository"],
        fleet_secret=bytes.fromhex(arguments["fleet_secret"]),
        recovery_password=arguments["recovery_password"],
    )
    return {"restic_id": repo.restic_id}


def _forget(arguments: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from workers.maintenance.forget import run_forget
    from workers.maintenance.forget_spec import ForgetSpec

    return run_forget(ForgetSpec.from_json(arguments), on_event, lambda: None).to_json()


def _prune(arguments: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from workers.maintenance.prune import run_prune
    from workers.maintenance.prune_spec import PruneSpec

    return run_prune(PruneSpec.from_json(arguments), on_event, lambda: None).to_json()


def _replicate(arguments: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from workers.replication.run import run_replicate
    from workers.replication.spec import ReplicateSpec

    return run_replicate(ReplicateSpec.from_json(arguments), on_event).to_json()


def _heal(arguments: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from workers.healing.run import run_healing
    from workers.maintenance.spec import VerifySpec

    return run_healing(VerifySpec.from_json(arguments), on_event).to_json()


JOBS = {
    "backup": _backup,
    "create": _create,
    "forget": _forget,
    "heal": _heal,
    "prune": _prune,
    "replicate": _replicate,
}


def wrap_stores(trap: Trap) -> None:
    """From here on each store that this process and its forks open is a `KillingStore`."""
    from workers import access

    real = access.open_store
    access.open_store = lambda *given, **named: KillingStore(real(*given, **named), trap)  # type: ignore[assignment]


def _run(job: dict[str, Any], answer: int) -> None:
    """In the forked process."""
    os.setsid()
    # What is written stays in the page cache when a process is killed: waiting for the disk would prove nothing.
    os.fsync = lambda _fd: None
    for name, value in job["set"].items():
        module, _, attribute = name.partition(":")
        assert hasattr(sys.modules[module], attribute), name
        setattr(sys.modules[module], attribute, value)
    if job["trap"]:
        wrap_stores(Trap(**job["trap"]))
    said: dict[str, Any] = {"events": []}
    try:
        said["result"] = JOBS[job["work"]](job["arguments"], said["events"].append)
    except HoldfastError as error:
        said.update(error=str(error.args[0]), exit_code=error.exit_code)
    except BaseException:  # noqa: BLE001 - told to the test
        said.update(error=traceback.format_exc(), exit_code=1)
    with os.fdopen(answer, "wb") as file:
        file.write(json.dumps(said).encode())


def _serve_one(job: dict[str, Any]) -> dict[str, Any]:
    answer = os.memfd_create("answer")  # no pipe, which would stay open in whatever outlives the engine
    pid = os.fork()
    if pid == 0:
        try:
            _run(job, answer)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.lseek(answer, 0, os.SEEK_SET)
    with os.fdopen(answer, "rb") as file:
        said = file.read()
    strays = 0
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        strays += bool(found)
        if not found:
            time.sleep(0.005)
    left = _kill_the_rest()
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "strays": strays,
        "left": left,
        **(json.loads(said) if said else {}),
    }


def _kill_the_rest() -> int:
    left = 0
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for pid in file.read().split():
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
            left += 1
    return left


def main() -> None:
    """Serve jobs until stdin ends."""
    for module in (
        "workers.backup.run",
        "workers.healing.run",
        "workers.maintenance.forget",
        "workers.maintenance.prune",
        "workers.replication.run",
        "shared.repository.indexcache",
        "shared.storage.directory",
    ):
        importlib.import_module(module)  # once, for all who are forked
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_serve_one(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
