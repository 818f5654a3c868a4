"""The parts of Holdfast that are a service of their own on a machine: each a small supervised group.

They log to standard error, and whoever started them keeps that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.messaging.broker import broker_url
from shared.observability.masks import mask_url
from workers import parts
from workers.children import Child, Children
from workers.group import signals, tell, watch

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from workers.parts import Slots


def run_scheduler(fleet: Fleet) -> int:
    """Run the scheduler's two processes until Ctrl-C or SIGTERM; returns an exit code.

    Without Redis they wait for it. Raises ConfigError.
    """
    said = f"scheduler up: {count(len(fleet.sources), 'source')}, Redis at {mask_url(broker_url(fleet))}"
    return _run(list(parts.scheduler(fleet.path)), said)


def run_workers(fleet: Fleet, slots: Slots, hosts: Sequence[str], pools: Sequence[str], *, agent: bool = False) -> int:
    """Run a worker, one for restores, and who looks at the sites, until Ctrl-C, SIGTERM or until both are drained.

    An `agent` serves its hosts alone. Returns an exit code. Raises ConfigError.
    """
    said = f"worker up: {count(slots.concurrency, 'slot')} and {count(slots.restores, 'slot')} for restores"
    children = list(parts.workers(fleet.path, slots, hosts, pools, agent=agent))
    children += [] if agent else parts.probes(fleet)
    return _run(children, f"{said}, Redis at {mask_url(broker_url(fleet))}")


def run_failover(fleet: Fleet) -> int:
    """Run a failover worker until Ctrl-C or SIGTERM; returns an exit code."""
    return _run([parts.failover(fleet.path)], f"failover worker up: {count(len(fleet.sites), 'site')}")


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _run(wanted: Sequence[Child], said: str) -> int:
    with signals() as asked:
        children = Children(wanted, tell)
        try:
            children.look()
            tell(said)
            watch(children, asked)
        finally:
            tell("stopping")
            children.stop()
    tell("stopped; nothing is left running")
    return 0
