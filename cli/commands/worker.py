"""`holdfast worker`: start one, list those that are there, and let one leave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.commands.up import RESTORES_HELP
from cli.groups import GroupWithDefault
from shared.errors import EXIT_OK, HoldfastError, UsageError

if TYPE_CHECKING:
    from shared.ledger.roll import WorkerInfo

_POLL = 0.3  # seconds
_LEAVES_WITHIN = 60.0  # seconds: it hears within a few, and gives back its runs within thirty
_ID_SHOWN = 12


@click.group(
    cls=GroupWithDefault,
    epilog="""\b
Examples:
  holdfast worker                                   # the same as: holdfast worker list
  holdfast worker start --concurrency 4
  holdfast worker start --host web1 --pool dc1
  holdfast worker drain worker-811@backup2 --wait""",
)
@global_options
def command() -> None:
    """Start a worker, list those that are there, or let one leave. Without a command: list."""


@command.command(
    "start",
    epilog="""\b
Examples:
  holdfast worker start                             # under systemd: Type=exec, KillMode=mixed
  holdfast worker start --restores 0                # one process in place of two; restores wait their turn
  holdfast worker start --host web1                 # the agent of web1's sources
  holdfast worker start --host web1 --no-pools      # and of nothing else
  holdfast worker start --pool dc1 --concurrency 4""",
)
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="Serve the sources of this host, too.")
@click.option("--pool", "pools", multiple=True, metavar="POOL", help="Serve the sources of this pool, too.")
@click.option("--no-pools", is_flag=True, help="Serve no pool, but the named hosts alone: an agent.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Runs at once; by default limits.runs says it.")
@click.option("--restores", type=click.IntRange(min=0), default=1, show_default=True, help=RESTORES_HELP)
@global_options
@pass_app
def start_worker(
    app: App, hosts: tuple[str, ...], pools: tuple[str, ...], no_pools: bool, concurrency: int | None, restores: int
) -> int:
    """Run a worker here until Ctrl-C, SIGTERM or `worker drain`; it logs to standard error.

    It joins those that are there: whoever is free takes the next run. A second process beside it does restores alone;
    what dies is started again. Asked to stop, it gives back its runs within half a minute, and another goes on with
    them from what was uploaded.
    """
    if no_pools and (pools or not hosts):
        raise UsageError(
            "--no-pools and --pool exclude each other" if pools else "--no-pools leaves nothing to serve",
            hint="Name the host whose agent it is: --no-pools --host HOST",
        )
    fleet = app.fleet
    for kind, given, known in (
        ("host", hosts, set(fleet.hosts)),
        ("pool", pools, {source.pool for source in fleet.sources.values()}),
    ):
        _warn_of_unknown(app, kind, given, sorted(name for name in known if name))
    slots = concurrency or fleet.limits.runs
    if restores:
        from workers.parts import Slots
        from workers.services import run_workers

        return run_workers(fleet, Slots(slots, restores), hosts, pools, agent=no_pools)
    from workers.__main__ import main
    from workers.children import DRAINED

    arguments = ["--config", fleet.path, "--concurrency", str(slots)]
    arguments += ["--no-pools"] if no_pools else []
    for host in hosts:
        arguments += ["--host", host]
    for pool in pools:
        arguments += ["--pool", pool]
    code = main(arguments)
    return EXIT_OK if code == DRAINED else code


@command.command(
    "list",
    epilog="""\b
Examples:
  holdfast worker list
  holdfast worker list --json""",
)
@global_options
@pass_app
def list_workers(app: App) -> None:
    """List the workers that were heard of in the last half minute, with what they serve and do."""
    from cli.runs import with_way_out
    from shared.messaging.client import workers

    with with_way_out():
        found = workers(app.fleet)
    app.result({"workers": [as_json(one) for one in found]}, *table(found, time.time()))


@command.command(
    "drain",
    epilog="""\b
Examples:
  holdfast worker drain worker-811@backup2
  holdfast worker drain worker-811 --wait           # the start of a name will do
  holdfast worker drain worker-811 restore-812      # all of a machine's""",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Come back when it has left.")
@global_options
@pass_app
def drain_worker(app: App, names: tuple[str, ...], wait: bool) -> int:
    """Ask worker NAME to take no more runs, to give back those that it has, and to end.

    Its runs go on elsewhere from what was uploaded. It stays away until what started it, `holdfast up` or `holdfast
    worker start`, is started again. A worker for restores (restore-812@backup2) is drained by its own name.
    """
    from cli.runs import who_asks, with_way_out
    from shared.messaging.client import drain, workers

    with with_way_out():
        there = workers(app.fleet)
        pooled, of_hosts = ([one.name for one in there if bool(one.realm) is of] for of in (False, True))
        chosen = [choose(name, pooled, of_hosts) for name in names]
        for worker in chosen:
            drain(app.fleet, worker, who_asks())
        if wait:
            for worker in chosen:
                _await_leave(app, worker, pooled=worker in pooled)
    said = "has left" if wait else "is told within seconds, and leaves within half a minute"
    lines = [f"{worker} {said}; its runs go on elsewhere" for worker in chosen]
    app.result({"workers": [{"worker": worker, "left": wait} for worker in chosen]}, *lines)
    return EXIT_OK


def choose(name: str, pooled: Sequence[str], of_hosts: Sequence[str] = ()) -> str:
    """The worker that is meant: by its name, or by the start of it. Raises UsageError where several begin so.

    Those of the pools come first: a host's agent calls itself what it likes.
    """
    for there in (pooled, of_hosts):
        if name in there:
            return name
        found = sorted({one for one in there if one.startswith(name)})
        if len(found) > 1:
            raise UsageError(f'{len(found)} workers begin with "{name}"', hint=f"There are: {', '.join(found)}")
        if found:
            return found[0]
    return name  # who knows the roll says that there is none


def as_json(worker: WorkerInfo) -> dict[str, Any]:
    """One worker for programs."""
    return {
        "name": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "queues": list(worker.queues),
        "since": show.iso(worker.since),
        "runs": list(worker.runs),
        "drained_by": worker.drained_by or None,
    }


def table(workers: Sequence[WorkerInfo], now: float) -> list[str]:
    """The list for people."""
    if not workers:
        return ["no worker has been heard of in the last half minute; start one: holdfast worker start"]
    rows = [("NAME", "THERE FOR", "RUNS", "SERVES", "")]
    rows += [
        (
            show.plain(one.name),
            show.duration(max(0.0, now - one.since)),
            " ".join(run[:_ID_SHOWN] for run in one.runs) or "-",
            " ".join(one.queues),
            f"asked to leave by {show.plain(one.drained_by)}" if one.drained_by else "",
        )
        for one in workers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _await_leave(app: App, worker: str, *, pooled: bool) -> None:
    from shared.messaging.client import workers

    deadline = time.monotonic() + _LEAVES_WITHIN
    while any(one.name == worker and not (pooled and one.realm) for one in workers(app.fleet)):
        if time.monotonic() > deadline:
            raise HoldfastError(
                f"{worker} has been told, and has not left after {_LEAVES_WITHIN:.0f} s",
                hint="Look at its log; once it is silent for half a minute its runs go on elsewhere in any case",
            )
        time.sleep(_POLL)


def _warn_of_unknown(app: App, kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    from shared.config.problems import nearest

    for name in given:
        if name not in known:
            app.warn(f"no source is of {kind} {name}{nearest(name, known)}")
