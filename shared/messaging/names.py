"""The names of queues, tasks and exchanges: what a scheduler, a worker and a command must agree on.

A queue has a short name, as `host.web1`: in runs, metrics, the roll of workers, and for people. In Redis it is a list
of that name, but a host's lies under the host's prefix (`hf:h:web1:host.web1`), so that all an agent touches does. The
two are turned into each other where Celery is: in `app` and in a worker's presence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.ledger.keys import HOST_QUEUE, HOST_RESTORES, host_queues, realm_prefix
from shared.ledger.model import RunKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.config.models import SourceFacts

TASK_RUN = "holdfast.run"  # one argument: a run's id
TASK_TICK = "holdfast.tick"  # no argument
TASK_HEAR = "holdfast.hear"  # no argument: events wait for the scheduler

SNAPSHOT_COMMITTED = "snapshot.committed"  # an event: run, source, repository, site, snapshot (hex)
SITE_SEEN = "site.seen"  # an event: an observation, see shared.health.events

SCHEDULER = "scheduler"
BACKUP = "backup"
RESTORE = "restore"
MAINTENANCE = "maintenance"
REPLICATION = "replication"
PROBE = "probe"  # a queue for each place: who probes there takes its rings
CAPABILITIES = (BACKUP, RESTORE, MAINTENANCE, REPLICATION)

ALL = "all"
ROLES = (ALL, RESTORE)

_CAPABILITY = {
    RunKind.FULL: BACKUP,
    RunKind.INCREMENTAL: BACKUP,
    RunKind.RESTORE: RESTORE,
    RunKind.VERIFY: MAINTENANCE,
    RunKind.FORGET: MAINTENANCE,
    RunKind.PRUNE: MAINTENANCE,
    RunKind.RESTORE_TEST: MAINTENANCE,
    RunKind.SHARD: BACKUP,
    RunKind.REPLICATE: REPLICATION,
}


def host_queue(host: str) -> str:
    """The queue of one server's worker."""
    return host_queues(host)[0]


def host_restore_queue(host: str) -> str:
    """The queue of one server's restores, so that none of them waits behind a backup."""
    return host_queues(host)[1]


def pool_queue(pool: str, capability: str) -> str:
    """The queue of a pool's workers; the unnamed pool has the bare ones."""
    return f"pool.{pool}.{capability}" if pool else capability


def probe_queue(place: str) -> str:
    """Where the looks at the sites from one place are rung for."""
    return f"{PROBE}.{place}"


def realm_of(kind: RunKind, source: SourceFacts) -> str:
    """The realm of the ledger in which a run of this source lies: of those who may do it."""
    return "" if kind.at_site else source.host or ""


def queue_of(kind: RunKind, source: SourceFacts) -> str:
    """Where a run of this source is rung: its host's queue, or its pool's, for this kind of work.

    What deletes, and what passes from site to site, goes to the unnamed pool: it needs sites alone, and rights there
    that an agent must not have.
    """
    if kind.deletes or kind is RunKind.REPLICATE:
        return _CAPABILITY[kind]
    if source.host and not kind.at_site:
        return host_restore_queue(source.host) if kind is RunKind.RESTORE else host_queue(source.host)
    return pool_queue(source.pool or "", _CAPABILITY[kind])


def worker_queues(role: str, hosts: Sequence[str] = (), pools: Sequence[str] = (), *, agent: bool = False) -> list[str]:
    """What a worker of this role consumes: of the unnamed pool, these pools and hosts; an `agent` of its hosts alone.

    A `restore` worker does nothing else, so that a restore need not wait behind backups.
    """
    served = [] if agent else ["", *pools]
    queues = [pool_queue(pool, capability) for pool in served for capability in CAPABILITIES]
    queues += [name(host) for host in hosts for name in (host_queue, host_restore_queue)]
    return [one for one in queues if role == ALL or _is_for_restores(one)]


def redis_list(queue: str) -> str:
    """The list in Redis that is a queue."""
    if not queue.startswith(HOST_QUEUE):
        return queue
    # No host's name ends as its queue of restores does: the configuration refuses that.
    return f"{realm_prefix(queue.removeprefix(HOST_QUEUE).removesuffix(HOST_RESTORES))}{queue}"


def queue_in(name: str) -> str:
    """The queue that is a list in Redis; no queue's own name has a colon."""
    return name.rpartition(":")[2]


def _is_for_restores(queue: str) -> bool:
    return queue == RESTORE or queue.endswith(HOST_RESTORES)
