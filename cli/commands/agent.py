"""`holdfast agent`: enroll a server, let it join, run its agent, list them, take all rights from one."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.groups import GroupWithDefault
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.agents.enrolling import Enrolled

_DEFAULT_DIRECTORY = "/etc/holdfast"
_EXPIRES = re.compile(r"([0-9]+)([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST = 7 * 86400


def _span(_context: click.Context, _option: click.Parameter, value: str) -> int:
    match = _EXPIRES.fullmatch(value)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 60 <= seconds <= _LONGEST:
        raise click.BadParameter(f'expected a time from 1m to 7d, as "30m" or "4h", found "{value}"')
    return seconds


@click.group(
    cls=GroupWithDefault,
    epilog="""\b
Examples:
  holdfast agent                                    # the same as: holdfast agent list
  holdfast agent enroll web1                        # where the fleet's file is; prints one line
  holdfast agent join TOKEN                         # on web1: paste that line
  holdfast agent run
  holdfast agent revoke web1""",
)
@global_options
def command() -> None:
    """Enroll a server, let it join, run its agent, list them, revoke one. Without a command: list."""


@command.command(
    "enroll",
    epilog="""\b
Examples:
  holdfast agent enroll web1
  holdfast agent enroll web1 --expires 15m
  holdfast agent enroll web1 --broker rediss://redis.example.org:6379/0""",
)
@click.argument("host")
@click.option("--expires", default="1h", show_default=True, callback=_span, metavar="TIME", help="How long it is good.")
@click.option("--broker", default="", metavar="URL", help="Redis as the server sees it, if not as the file has it.")
@global_options
@pass_app
def enroll(app: App, host: str, expires: int, broker: str) -> int:
    """Give HOST's agent rights of its own, and print the line by which it joins.

    It gets a user of Redis that reaches its own keys alone, an identity at each S3 site that reaches its own
    repositories alone, and their machine passwords: never the fleet's secret. Asked again it makes another token; an
    agent that works goes on. Exit code 3: rights at a site are still to be given by hand, as it says.
    """
    from cli.runs import with_way_out
    from shared.agents.enrolling import enroll as give

    with with_way_out():
        done = give(app.fleet, host, broker=broker, seconds=expires)
    for line in done.warnings:
        app.warn(line)
    app.result(_enrolled(done), *_said(done))
    return EXIT_INCOMPLETE if done.by_hand else EXIT_OK


def _enrolled(done: Enrolled) -> dict[str, Any]:
    by_hand = [{"site": one.site, "user": one.user, "secret": one.secret, "policy": one.policy} for one in done.by_hand]
    return {
        "host": done.token.host,
        "token": done.token.text(),
        "expires": show.iso(done.token.expires),
        "generation": done.generation,
        "created": done.created,
        "granted": done.granted,
        "by_hand": by_hand,
        "warnings": done.warnings,
    }


def _said(done: Enrolled) -> list[str]:
    lines = [f"created repository {one}" for one in done.created]
    lines += [f"site {site}: user and policy are in force" for site in done.granted]
    for one in done.by_hand:
        lines += [
            f"site {one.site}: no `admin:` is configured, so give these rights yourself (ALIAS is yours, of MinIO):",
            f"  mc admin user add ALIAS {one.user} {one.secret}",
            f"  mc admin policy create ALIAS {one.user} policy.json     # this as policy.json:",
            json.dumps(one.policy, indent=2),
            f"  mc admin policy attach ALIAS {one.user} --user {one.user}",
        ]
    return [
        *lines,
        f"paste this on {done.token.host}, as root, before {show.moment(done.token.expires)}; it works once:",
        "",
        f"holdfast agent join {done.token.text()}",
    ]


@command.command(
    "join",
    epilog="""\b
Examples:
  holdfast agent join hfa1.eyJoIjoid2Vi...
  holdfast agent join hfa1.eyJoIjoid2Vi... --host web1
  holdfast agent join - < token                     # not on the command line""",
)
@click.argument("token")
@click.option("--directory", default=_DEFAULT_DIRECTORY, show_default=True, metavar="DIR", help="Where it is written.")
@click.option("--host", default="", metavar="HOST", help="This server's name in the fleet's file, if not its own.")
@global_options
@pass_app
def join(app: App, token: str, directory: str, host: str) -> int:
    """Take what lies ready for TOKEN, and write this server's configuration.

    Every file has mode 0600. What of this server is read stands in conf.d/sources.yaml, which is this server's own: a
    later join leaves it alone. Exit code 3: it is written, and something did not work on a first try.
    """
    from cli.runs import with_way_out
    from shared.agents.joining import join as take_up

    if token == "-":  # noqa: S105 - standard input
        token = sys.stdin.read()
    with with_way_out():
        joined = take_up(token, directory, host=host)
    for line in joined.problems:
        app.warn(line)
    option = "" if directory == _DEFAULT_DIRECTORY else f" -c {shlex.quote(joined.config)}"
    lines = [f"wrote {path}" for path in joined.written]
    lines += [f"next: holdfast{option} agent run      (or the unit holdfast-agent.service)"]
    data = {"host": joined.host, "config": joined.config, "written": joined.written, "problems": joined.problems}
    app.result(data, *lines)
    return EXIT_INCOMPLETE if joined.problems else EXIT_OK


@command.command(
    "run",
    epilog="""\b
Examples:
  holdfast agent run                                # under systemd: holdfast-agent.service
  holdfast agent run --restores 0                   # restores wait for a slot, too""",
)
@click.option(
    "--restores", type=click.IntRange(min=0), default=1, show_default=True, help="Slots for restores alone, besides."
)
@global_options
@pass_app
def run(app: App, restores: int) -> int:
    """Run this server's agent until Ctrl-C, SIGTERM or `worker drain`; it logs to standard error.

    It serves this server's sources alone, opens no port, and holds to `limits:` of its own file. Asked to stop, it
    gives back its runs within half a minute; they go on from what was uploaded once it is started again.
    """
    fleet = app.fleet
    if not fleet.agent:
        raise ConfigError(
            f"{fleet.path} is no agent's file",
            hint="`holdfast agent join` writes one; a worker that shares the fleet's file is `holdfast worker start`",
        )
    from workers.agent import main
    from workers.children import DRAINED

    code = main(["--config", fleet.path, "--host", fleet.agent, "--restores", str(restores)])
    return EXIT_OK if code == DRAINED else code


@command.command(
    "list",
    epilog="""\b
Examples:
  holdfast agent list
  holdfast agent list --json""",
)
@global_options
@pass_app
def list_agents(app: App) -> int:
    """List the agents that were enrolled: which sources they read, and whether they are heard of.

    Exit code 3: a site did not answer, so one may be missing, or revoked.
    """
    from cli.runs import with_way_out
    from shared.agents import acl
    from shared.agents.enrolling import admin_of, known
    from shared.messaging.client import workers

    there, failed = known(app.fleet)
    for error in failed:
        app.warn(str(error))
    with with_way_out():
        users = acl.agents(admin_of(app.fleet))
        heard = {queue.removeprefix("host.") for one in workers(app.fleet) for queue in one.queues}
    found = []
    for host, one in sorted(there.items()):
        sources = [source.id for source in app.fleet.sources.values() if source.host == host]
        state = "revoked" if one.revoked else "here" if host in heard else "away"
        found.append(
            {
                "host": host,
                "state": state,
                "generation": one.generation,
                "redis_user": host in users,
                "sources": sources,
            }
        )
    app.result({"agents": found}, *_table(found))
    return EXIT_INCOMPLETE if failed else EXIT_OK


def _table(found: Sequence[dict[str, Any]]) -> list[str]:
    if not found:
        return ["no agent is enrolled; enroll one: holdfast agent enroll HOST"]
    rows = [("HOST", "STATE", "REDIS", "SOURCES")]
    rows += [
        (one["host"], one["state"], "ok" if one["redis_user"] else "no user", " ".join(one["sources"]) or "-")
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@command.command(
    "revoke",
    epilog="""\b
Examples:
  holdfast agent revoke web1                        # stolen: docs/agents.md
  holdfast agent revoke web1 --yes""",
)
@click.argument("host")
@click.option("--yes", is_flag=True, help="Do not ask.")
@global_options
@pass_app
def revoke(app: App, host: str, yes: bool) -> int:
    """Take all rights from HOST's agent: its user of Redis, its identities at the sites. Its backups stay.

    Passwords that it had never work again; enrolled again it gets others. Exit code 3: something is still to be done,
    as it says.
    """
    from cli.runs import with_way_out
    from shared.agents.enrolling import revoke as take_away

    if not yes and app.is_interactive and not click.confirm(f"Take all rights from the agent of {host}?", err=True):
        raise UsageError("nothing was done")
    began = time.monotonic()
    with with_way_out():
        missed = take_away(app.fleet, host)
    for line in missed:
        app.warn(line)
    lines = [
        f"the agent of {host} has no rights any more ({show.duration(time.monotonic() - began)}); its backups stay"
    ]
    lines += [f"undo: holdfast agent enroll {host}"]
    app.result({"host": host, "revoked": True, "missed": missed}, *lines)
    return EXIT_INCOMPLETE if missed else EXIT_OK
