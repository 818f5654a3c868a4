"""`holdfast up`: everything on this machine, until Ctrl-C or, detached, until `holdfast down`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, RunFailed, global_options, pass_app
from shared.errors import EXIT_OK

if TYPE_CHECKING:
    from shared.config.watch import FleetWatch
    from workers.parts import Slots
    from workers.standing import Member, Standing

EXIT_NOT_UP = 1
RESTORES_HELP = "Slots for restores alone, which so never wait behind backups. 0: restores wait their turn."


@click.command(
    epilog="""\b
Examples:
  holdfast up                     # here, until Ctrl-C
  holdfast up --detach            # in the background, until `holdfast down`
  holdfast up --status            # what runs, and where its logs are
  holdfast -c /etc/holdfast/holdfast.yaml up --concurrency 4""",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Runs at once; by default limits.runs says it.")
@click.option("--restores", type=click.IntRange(min=0), default=1, show_default=True, help=RESTORES_HELP)
@click.option("--detach", "-d", is_flag=True, help="Go on in the background, once all has started.")
@click.option("--status", is_flag=True, help="Show what is up here, and start nothing. Exit code 1: nothing is.")
@global_options
@pass_app
def command(app: App, concurrency: int | None, restores: int, detach: bool, status: bool) -> int:
    """Run everything on this machine: scheduler, workers, exporter and, unless the configuration names one, Redis.

    What dies is started again, and a changed configuration is followed. Ctrl-C, SIGTERM or `holdfast down` stops all
    of it cleanly: a backup under way keeps what it has uploaded and goes on with the next start.
    """
    if status:
        return _status(app)
    from shared.config.watch import FleetWatch
    from workers.parts import Slots
    from workers.up import run_up

    config = FleetWatch(app.config_path)
    slots = Slots(concurrency or config.fleet.limits.runs, restores)
    return _detach(app, config, slots) if detach else run_up(config, slots)


def _detach(app: App, config: FleetWatch, slots: Slots) -> int:
    from workers import detach, standing
    from workers.parts import log_directory
    from workers.up import run_up

    log = os.path.join(log_directory(config.fleet), "up.log")
    begun = detach.detach(lambda ready: run_up(config, slots, own_log=log, ready=ready), log)
    if begun.exit_code:
        error = RunFailed(begun.error, begun.exit_code)
        error.hint = begun.hint
        raise error
    found = standing.look(config.fleet.state_dir)
    lines = [
        f"up: {', '.join(member.name for member in found.members) if found else 'process'} (process {begun.pid})",
        f"logs: {os.path.dirname(log)}",
        f"stop: {_command(app, 'down')}",
    ]
    app.result({"up": True, "pid": begun.pid, "log": log}, *lines)
    return EXIT_OK


def _status(app: App) -> int:
    from workers import standing

    found = standing.look(app.fleet.state_dir)
    if found is None:
        app.result({"up": False, "processes": []}, f"nothing is up here; start it: {_command(app, 'up --detach')}")
        return EXIT_NOT_UP
    app.result(as_json(found), *table(found, time.time()), f"stop: {_command(app, 'down')}")
    return EXIT_OK if found.pid else EXIT_NOT_UP


def as_json(standing: Standing) -> dict[str, Any]:
    """What is up, for programs."""
    return {
        "up": bool(standing.pid),
        "pid": standing.pid or None,
        "since": show.iso(standing.since),
        "processes": [
            {
                "name": member.name,
                "pid": member.pid or None,
                "since": show.iso(member.since) if member.pid else None,
                "deaths": member.deaths,
                "log": member.log,
                "note": member.note or None,
            }
            for member in standing.members
        ],
    }


def table(standing: Standing, now: float) -> list[str]:
    """What is up, for people."""
    if standing.pid:
        first = (
            f"up since {show.moment(standing.since)}, {show.duration(now - standing.since)} (process {standing.pid})"
        )
    else:
        first = "`holdfast up` itself was killed, and these are still ending:"
    alive = standing.alive
    return [first, *(_line(member, now, running=member in alive) for member in standing.members)]


def _line(member: Member, now: float, *, running: bool) -> str:
    state = f"running for {show.duration(now - member.since)}" if running else member.note or "down, is started again"
    deaths = f"  died {show.count(member.deaths, 'time')} of late" if member.deaths else ""
    return f"  {member.name:<10} {member.pid or '-':>8}  {state:<24}{deaths}  {member.log}"


def _command(app: App, rest: str) -> str:
    """How to call `holdfast` on the same configuration."""
    import shlex

    given = f" -c {shlex.quote(app.config)}" if app.config else ""
    return f"holdfast{given} {rest}"
