"""What a worker's tasks share: the configuration, the way to Redis, and whether the worker is to end.

Made in the worker's parent before it forks, so it connects to nothing until a child asks.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING

from shared import topology
from shared.ledger.connect import connect
from shared.ledger.keys import realm_prefix
from shared.ledger.roll import owner_of
from shared.messaging.broker import broker_url, has_moved
from shared.observability.structured import structlog
from shared.topology.following import Follower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.config.fleet import Fleet
    from shared.config.watch import FleetWatch
    from shared.ledger.ledger import Ledger


_LOOK = 2.0  # seconds between looks at the configuration's files
_PATIENCE = 2.0  # seconds for which a run waits to hear which site is primary; a site that is silent takes longer

_log = structlog.get_logger("holdfast.worker")


class WorkerContext:
    """One worker. `hosts` are the realms it serves besides the pools', or alone: then it is an agent."""

    def __init__(self, config: FleetWatch, hosts: Sequence[str] = (), *, agent: bool = False) -> None:
        self.config = config
        self.url = broker_url(config.fleet)  # for as long as the process lives
        self.is_drained = False  # somebody asked it to leave; known in the parent
        self.hosts = tuple(hosts)
        self.agent = agent
        self.home = self.hosts[0] if agent else ""  # the realm where it stands on the roll
        self.name = f"worker-{os.getpid()}@{socket.gethostname()}"  # Celery's, as soon as its worker is made
        self._stop = mmap.mmap(-1, 1)  # shared with the children that are forked later
        self._parent = os.getpid()
        self._turn = threading.Lock()  # whose it is to look at the configuration
        self._topology = Follower()

    @property
    def owner(self) -> str:
        """Who holds a lease, for people and for the roll: the worker and its child's process."""
        return owner_of(self.name, os.getpid())

    @property
    def prefix(self) -> str:
        """What all that it touches in Redis begins with; empty where it serves more than one realm."""
        return realm_prefix(self.home) if self.agent and len(self.hosts) == 1 else ""

    @cached_property
    def ledgers(self) -> list[Ledger]:
        """The realms that this worker serves; connected in the child that asks first."""
        pools = connect(self.url)
        hosts = [pools.realm(host) for host in self.hosts]
        return hosts if self.agent else [pools, *hosts]

    def newest_fleet(self) -> Fleet:
        """The configuration for a run that begins now, and the topology. One that is under way keeps its own."""
        with self._turn:
            fleet = self.config.catch_up()
        self._topology.follow(fleet, wait=_PATIENCE)
        return fleet

    def primary_now(self, source: str) -> str:
        """Where a source is backed up to, as far as is known; nobody waits for a site. Raises ConfigError."""
        fleet = self.config.fleet
        self._topology.follow(fleet)
        return topology.current(fleet).primary(source)

    def follow(self) -> None:
        """Look at the configuration every few seconds from now on, in a thread of this very process.

        A child that looked only before its runs would fall back, should the file be wrong by then, on what it knew at
        the run before; and one that is forked anew on what the worker's parent knows.
        """
        self._turn = threading.Lock()  # a fork may have copied one that is held
        threading.Thread(target=self._look, name="configuration", daemon=True).start()

    def stop(self) -> None:
        """Tell every supervisor to give back its run."""
        self._stop[0] = 1

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK)
            with self._turn:
                changed = self.config.check()
            if changed and os.getpid() == self._parent and has_moved(self.config.fleet, self.url):
                _log.warning("the configuration names another Redis now; that counts once the worker is started again")

    def stopping(self) -> bool:
        """Whether the worker is to end, or has died: then nobody else tells its children."""
        return self._stop[0] == 1 or (os.getpid() != self._parent and os.getppid() != self._parent)
