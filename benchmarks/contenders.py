"""The tools in the ring, each as the command lines that a person would type.

A contender is told a repository's place by name and gives a list for each step. It keeps what it caches in a directory
of its own below the run's work directory, so that a cold cache is an empty directory.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sites import Place

WORKER_READY = 60.0
"""Seconds that `holdfast up` has to start."""
WORKER_ENDS = 60.0
"""Seconds that it has to stop."""

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Contender(Protocol):
    """A backup tool, bound to one repository."""

    name: str
    beside: int | None
    """A process that works for its commands and runs beside them."""

    def start(self) -> None:
        """Start what runs beside the commands."""

    def stop(self) -> None:
        """End it."""

    def said(self) -> str:
        """What runs beside the commands has logged of late; for when one fails."""

    def env(self) -> dict[str, str]:
        """The whole environment of its commands."""

    def init(self) -> list[str]:
        """Create the repository."""

    def backup(self, *, full: bool) -> list[str]:
        """Back up the data set; the first time, or after a change."""

    def restore(self, target: str) -> list[str]:
        """Restore the latest snapshot below `target`, which is empty."""

    def forget_caches(self) -> None:
        """Delete what the tool keeps locally between runs."""


class Restic:
    """Stock restic, with its defaults."""

    name = "restic"
    beside = None

    def start(self) -> None:
        """Nothing runs beside it."""

    def stop(self) -> None:
        """Nothing ran beside it."""

    def said(self) -> str:
        """Return nothing."""
        return ""

    def __init__(self, binary: str, place: Place, repository: str, data: str, work: str) -> None:
        self._command = [binary, "--cache-dir", os.path.join(work, "restic-cache")]
        self._env = {
            **_plain_env(work),
            **place.env,
            "RESTIC_PASSWORD": "a password for the bench",
            "RESTIC_REPOSITORY": place.url(repository),
        }
        self._data = data
        self._cache = os.path.join(work, "restic-cache")

    def env(self) -> dict[str, str]:
        """Return password and repository as restic reads them."""
        return self._env

    def init(self) -> list[str]:
        """Return `restic init`."""
        return [*self._command, "init"]

    def backup(self, *, full: bool) -> list[str]:
        """Return `restic backup`; it finds the parent by itself."""
        del full  # its first backup of a path reads all, later ones what has changed
        return [*self._command, "backup", self._data]

    def restore(self, target: str) -> list[str]:
        """Return `restic restore latest`."""
        return [*self._command, "restore", "latest", "--target", target]

    def forget_caches(self) -> None:
        """Delete its cache directory."""
        shutil.rmtree(self._cache, ignore_errors=True)


class Holdfast:
    """Holdfast's command with `--direct`: no Redis, no worker; a process started for each run, as with restic."""

    name = "holdfast"
    beside: int | None = None
    _backs_up = ("--direct",)
    _restores = ("--direct",)

    def __init__(self, binary: str, place: Place, repository: str, data: str, work: str) -> None:
        self._env = {
            **_plain_env(work),
            **place.env,
            "BENCH_SECRET": secrets.token_hex(32),
            "BENCH_PASSWORD": "a recovery password for the bench",
        }
        site: dict[str, object] = {"url": place.url(repository)}
        if place.env:
            site["credentials"] = {"env": "AWS"}
        else:
            os.makedirs(place.url(repository), exist_ok=True)  # a backup makes no site
        self._cache = os.path.join(work, "holdfast-cache")
        self._state = os.path.join(work, "holdfast-state")
        self._said = os.path.join(work, "said")
        first = os.path.join(work, "first")
        os.makedirs(first, exist_ok=True)
        fleet = {
            "secret": {"env": "BENCH_SECRET"},
            "recovery_password": {"env": "BENCH_PASSWORD"},
            "state_dir": self._state,
            "cache_dir": self._cache,
            "exporter": {"listen": "off"},  # it takes no part in a backup
            "sites": {"bench": site},
            "sources": {"bench": {"paths": [data]}, "first": {"paths": [first], "repository": "bench"}},
        }
        config = os.path.join(work, "holdfast.yaml")
        with open(config, "w", encoding="utf-8") as file:
            json.dump(fleet, file, indent=2)  # JSON is YAML
        self._command = [binary, "--config", config]

    def start(self) -> None:
        """Nothing runs beside it."""

    def stop(self) -> None:
        """Nothing ran beside it."""

    def said(self) -> str:
        """Return nothing."""
        return ""

    def env(self) -> dict[str, str]:
        """Return the secrets that the fleet's file names."""
        return self._env

    def init(self) -> list[str]:
        """Return the backup of an empty directory: the first backup into a repository creates it."""
        return [*self._command, "backup", "first", "--full", *self._backs_up]

    def backup(self, *, full: bool) -> list[str]:
        """Return `holdfast backup`, full or incremental."""
        return [*self._command, "backup", "bench", *(["--full"] if full else []), *self._backs_up]

    def restore(self, target: str) -> list[str]:
        """Return `holdfast restore` of the latest snapshot."""
        return [*self._command, "restore", "bench", "--to", target, *self._restores]

    def forget_caches(self) -> None:
        """Delete its cache directory; journals are no cache."""
        shutil.rmtree(self._cache, ignore_errors=True)


class Worker(Holdfast):
    """The same commands through a worker that was started beforehand: `holdfast up`, with its embedded Valkey.

    No policy selects the sources, so that the scheduler starts nothing by itself. The first backup, of an empty
    directory, is done by the worker too and leaves it warm.
    """

    name = "worker"
    _backs_up = ("--follow",)
    _restores = ()  # a restore is followed to its end unless it is told --direct

    def start(self) -> None:
        """Start `holdfast up` with an empty Redis. Raises TimeoutError where it isn't up in WORKER_READY seconds."""
        shutil.rmtree(self._state, ignore_errors=True)
        with open(self._said, "wb") as file:
            command = [*self._command, "up"]
            self._up = subprocess.Popen(command, env=self._env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.beside = self._up.pid
        deadline = time.monotonic() + WORKER_READY
        while self._up.poll() is None and time.monotonic() < deadline:
            if "up: scheduler and worker" in _tail(self._said):
                return
            time.sleep(0.05)
        self.stop()
        raise TimeoutError(f"`holdfast up` did not come up:\n{self.said()}")

    def stop(self) -> None:
        """Stop it as Ctrl-C does, with all that it started."""
        if self.beside is None:
            return
        self.beside = None
        self._up.send_signal(signal.SIGTERM)
        try:
            self._up.wait(WORKER_ENDS)
        except subprocess.TimeoutExpired:
            self._up.kill()  # the kernel then ends its children
            self._up.wait()

    def said(self) -> str:
        """Return the end of what `up` showed, and of the worker's log."""
        return _tail(self._said) + _tail(os.path.join(self._state, "log", "worker.log"))


def tools(*names: str) -> dict[str, str]:
    """Return what the fetch script has put into the cache, name to path; of these names, or all that tests need."""
    script = os.path.join(ROOT, "deploy", "tools", "fetch.py")
    try:
        done = subprocess.run([sys.executable, script, "--print", *names], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


KINDS: dict[str, Callable[[str, Place, str, str, str], Contender]] = {
    "restic": Restic,
    "holdfast": Holdfast,
    "worker": Worker,
}
"""The tools by name; ratios are taken against the first, and the worker stands beside."""


def find(tool: str) -> str | None:
    """Return a tool's program: restic is `$RESTIC`, the fetched 0.18 or that on PATH; the others are this Python's."""
    if tool == "restic":
        return os.environ.get("RESTIC") or tools().get("restic-0.18") or shutil.which("restic")
    beside = os.path.join(os.path.dirname(sys.executable), "holdfast")
    return beside if os.access(beside, os.X_OK) else shutil.which("holdfast")


def version(binary: str) -> str:
    """Return the first line that a tool says of its version, or "" where it does not run."""
    command = [binary, "version"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]


def _tail(path: str) -> str:
    """Return the last 3,000 characters of a log, "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()[-3000:]
    except FileNotFoundError:
        return ""


def _plain_env(work: str) -> dict[str, str]:
    """Return an environment without the caller's settings for either tool."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": work,
        "TMPDIR": work,
        "LANG": "C.UTF-8",
        "no_proxy": "127.0.0.1",
    }
