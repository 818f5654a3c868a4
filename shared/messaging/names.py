"""The names of queues, tasks and exchanges: what a scheduler, a worker and a command must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.ledger.model import RunKind

if TYPE_CHECKING:
    from shared.config.models import SourceFacts

TASK_RUN = "holdfast.run"  # one argument: a run's id
TASK_TICK = "holdfast.tick"  # no argument

SCHEDULER = "scheduler"
BACKUP = "backup"
RESTORE = "restore"
MAINTENANCE = "maintenance"
CAPABILITIES = (BACKUP, RESTORE, MAINTENANCE)

ALL = "all"
WORK = "work"
ROLES = (ALL, WORK, RESTORE)

_CAPABILITY = {
    RunKind.FULL: BACKUP,
    RunKind.INCREMENTAL: BACKUP,
    RunKind.RESTORE: RESTORE,
    RunKind.VERIFY: MAINTENANCE,
}


def host_queue(host: str) -> str:
    """The queue of one server's agent."""
    return f"host.{host}"


def pool_queue(pool: str, capability: str) -> str:
    """The queue of a pool's workers; the unnamed pool has the bare ones."""
    return f"pool.{pool}.{capability}" if pool else capability


def worker_queues(role: str, hosts: Sequence[str] = (), pools: Sequence[str] = ()) -> list[str]:
    """What a worker of this role consumes, for the unnamed pool, these pools and hosts.

    A `restore` worker does nothing else, so that a restore never waits behind backups; a `work` worker all the rest.
    """
    capabilities = [one for one in CAPABILITIES if role == ALL or (one == RESTORE) == (role == RESTORE)]
    queues = [pool_queue(pool, capability) for pool in ["", *pools] for capability in capabilities]
    return queues if role == RESTORE else queues + [host_queue(host) for host in hosts]


def queue_of(kind: RunKind, source: SourceFacts) -> str:
    """Where a run of this source is rung: its host's queue, or its pool's for this kind of work."""
    if source.host:
        return host_queue(source.host)
    return pool_queue(source.pool or "", _CAPABILITY[kind])
