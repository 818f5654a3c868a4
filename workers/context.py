"""What a worker's tasks share: the configuration, the way to Redis, and whether the worker is to end.

Made in the worker's parent before it forks, so it connects to nothing until a child asks.
"""

from __future__ import annotations

import mmap
import os
import socket
from functools import cached_property
from typing import TYPE_CHECKING

from shared.ledger.connect import connect
from shared.ledger.roll import owner_of
from shared.messaging.broker import broker_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger


class WorkerContext:
    """One worker. `hosts` are the realms it serves besides the pools'."""

    def __init__(self, fleet: Fleet, hosts: Sequence[str] = ()) -> None:
        self.fleet = fleet
        self.url = broker_url(fleet)
        self.hosts = tuple(hosts)
        self.name = f"worker-{os.getpid()}@{socket.gethostname()}"  # Celery's, as soon as its worker is made
        self._stop = mmap.mmap(-1, 1)  # shared with the children that are forked later
        self._parent = os.getpid()

    @property
    def owner(self) -> str:
        """Who holds a lease, for people and for the roll: the worker and its child's process."""
        return owner_of(self.name, os.getpid())

    @cached_property
    def ledgers(self) -> list[Ledger]:
        """The realms that this worker serves; connected in the child that asks first."""
        pools = connect(self.url)
        return [pools, *(pools.realm(host) for host in self.hosts)]

    def stop(self) -> None:
        """Tell every supervisor to give back its run."""
        self._stop[0] = 1

    def stopping(self) -> bool:
        """Whether the worker is to end, or has died: then nobody else tells its children."""
        return self._stop[0] == 1 or (os.getpid() != self._parent and os.getppid() != self._parent)
