"""`holdfast up`: all of Holdfast on one machine, in one supervised group: Valkey, scheduler, workers, exporter.

Valkey is left out where the configuration names a Redis. Each process logs to `<state>/log/<name>.log`; the terminal
shows what a person wants to know: what started, what died, a changed configuration, and each run as it ends.

The configuration is followed: each process takes a changed one by itself, and those whose command follows from it (the
workers: which hosts and pools they serve; the exporter: its address) are started anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shared.ledger.errors import LedgerAway
from shared.messaging.broker import broker_url, has_moved
from shared.messaging.client import ledger_of
from shared.observability.masks import mask_url
from workers import parts
from workers.children import Children
from workers.group import Asked, signals, tell, watch
from workers.logfiles import Rotation
from workers.parts import Slots
from workers.reporter import Reporter
from workers.services import count
from workers.standing import Holding, hold

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.watch import FleetWatch
    from workers.children import Child

_REDIS_READY = 15.0  # seconds


def run_up(
    config: FleetWatch,
    slots: Slots | None = None,
    *,
    tick: float | None = None,
    own_log: str = "",
    ready: Callable[[], None] = lambda: None,
) -> int:
    """Run everything until Ctrl-C or SIGTERM; returns an exit code, 0 after a clean stop.

    `own_log` is where a detached one says what else the terminal shows. Calls `ready` when all of it has been started.
    Raises AlreadyUp, ConfigError, and LedgerAway where Redis does not come up.
    """
    fleet = config.fleet
    slots = slots or Slots()
    log_dir = parts.log_directory(fleet)
    with hold(fleet.state_dir) as holding, signals() as asked:
        children = Children([], tell)
        try:
            if fleet.broker_url() is None:
                children.children.append(parts.valkey(fleet.state_dir, log_dir))
            _await_redis(fleet, children, holding, asked)
            children.children += parts.everything(fleet, log_dir, slots, tick)
            children.look()
            holding.tell(children.everyone)
            up = _Up(
                config, children, holding, Rotation(own_log), lambda new: parts.everything(new, log_dir, slots, tick)
            )
            stop = "`holdfast down` stops" if own_log else "Ctrl-C stops"
            serves = any(child.name == "exporter" and child.pid for child in children.children)
            where = f"; metrics at {fleet.metrics_address}" if serves else ""
            tell(f"up: scheduler and worker, {count(len(fleet.sources), 'source')}{where}; logs in {log_dir}; {stop}")
            ready()
            watch(children, asked, up.look)
        finally:
            tell("stopping: runs under way are given back")
            children.stop()
            parts.remove_socket_directory(fleet.state_dir)
    tell("stopped; nothing is left running")
    return 0


class _Up:
    """What is done each second besides looking after the children."""

    def __init__(
        self,
        config: FleetWatch,
        children: Children,
        holding: Holding,
        logs: Rotation,
        wanted: Callable[[Fleet], Iterable[Child]],
    ) -> None:
        self._config = config
        self._children = children
        self._holding = holding
        self._logs = logs
        self._wanted = wanted
        self._first = config.fleet  # by which Redis and the state directory are as they are
        self._url = broker_url(config.fleet)
        self._reporter = Reporter(ledger_of(config.fleet), config.fleet, tell)
        self._said = ""  # what is wrong with the files

    def look(self) -> None:
        """Look at everything once."""
        self._logs.look(child.log_path for child in self._children.everyone)
        self._follow()
        self._holding.tell(self._children.everyone)
        self._reporter.look()

    def _follow(self) -> None:
        if self._config.check():
            self._take(self._config.fleet)
        if self._config.error and self._config.error != self._said:
            tell(f"the configuration is wrong; the old one stays in force: {self._config.error}")
        self._said = self._config.error

    def _take(self, fleet: Fleet) -> None:
        tell(f"the configuration has changed: {count(len(fleet.sources), 'source')}")
        for what, changed in (
            ("state_dir", fleet.state_dir != self._first.state_dir),
            ("the Redis", has_moved(fleet, self._url)),
        ):
            if changed:
                tell(f"{what} has changed: that counts once `holdfast up` is stopped here and started again")
        kept = [child for child in self._children.children if child.stops_last]
        self._children.become([*kept, *self._wanted(fleet)])
        self._reporter.follow(fleet)


def _await_redis(fleet: Fleet, children: Children, holding: Holding, asked: Asked) -> None:
    ledger = ledger_of(fleet)
    deadline = time.monotonic() + _REDIS_READY
    while not asked.stop:
        children.look()
        holding.tell(children.everyone)
        try:
            ledger.ping()
        except LedgerAway as error:
            if time.monotonic() > deadline:
                raise LedgerAway(f"Redis at {mask_url(broker_url(fleet))} does not answer: {error}") from error
            asked.wait(0.05)
        else:
            return
