"""`holdfast restore`: files back, beside what is there unless told otherwise."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import runs
from cli.apart import Apart
from cli.app import App, global_options, pass_app
from cli.destination import Destination, parse_destination
from cli.into import describe_into, parse_named, split_command
from cli.when import parse_when
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.repository.repository import Repository
    from shared.repository.snapshot import Snapshot

_POLICIES = ("always", "if-changed", "if-newer", "never")
_PROBLEMS_SHOWN = 10


@click.command(
    epilog="""\b
Examples:
  holdfast restore web1 --direct                            # all of it, into ./restored-web1-...
  holdfast restore web1:/srv/invoice.pdf --before 02:00 --to /tmp/back
  holdfast restore web1 --include '*.conf' --to /tmp/conf
  holdfast restore web1 --to web2:/srv/restore              # on web2, by its own worker
  holdfast restore web1:/etc --in-place --dry-run           # what would change
  holdfast restore db/orders --at 14:05 --direct --into 'pg_restore -d orders_restored'
  holdfast restore db/orders --into web2:orders_restored    # on web2, into what its file has under that name
  holdfast restore web1 --snapshot 3f9a12cd --to /mnt --verify""",
)
@click.argument("what", metavar="SOURCE[:PATH]")
@click.option("--to", "target", metavar="[HOST:]DIR", help="Where to (else ./restored-SOURCE-TIME).")
@click.option(
    "--into",
    metavar="[HOST:]NAME",
    help="One file, into a program of the worker's own file; with --direct into this command.",
)
@click.option(
    "--snapshot", default="latest", show_default=True, metavar="ID", help="Which; the beginning of an id will do."
)
@click.option(
    "--before", "--at", "before", metavar="TIME", help='As it was then: "14:05", "2026-03-01 02:00", "3h ago".'
)
@click.option("--include", "includes", multiple=True, metavar="PATTERN", help="Only what matches, as in .gitignore.")
@click.option("--exclude", "excludes", multiple=True, metavar="PATTERN", help="Not what matches.")
@click.option("--in-place", is_flag=True, help="To where it was; what is replaced is kept in a safety copy.")
@click.option("--overwrite", type=click.Choice(_POLICIES), help="What becomes of files that are there.")
@click.option("--dry-run", is_flag=True, help="Write nothing, say what would be done.")
@click.option("--verify", is_flag=True, help="Read everything again afterwards, and compare.")
@click.option("--site", default="", metavar="SITE", help="The site to read from (else the primary).")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@global_options
@pass_app
def command(
    app: App,
    what: str,
    target: str | None,
    into: str | None,
    snapshot: str,
    before: str | None,
    includes: tuple[str, ...],
    excludes: tuple[str, ...],
    in_place: bool,
    overwrite: str | None,
    dry_run: bool,
    verify: bool,
    site: str,
    direct: bool,
) -> int:
    """Bring files of SOURCE back, all of them or what is at PATH.

    They are written beside what is there, where the source's worker runs; or on HOST, by its worker, into folders that
    its own file allows. A restore that breaks off goes on when the same command is run again. A stream's file lies
    right in the folder. With --into a program gets it, without a shell, and none gets the half of it for the whole:
    exit code 43 unless it ends with code 0.
    Exit code 3: some things could not be restored, or some metadata not set.
    """
    source, _, path = what.partition(":")
    if path and not path.startswith("/"):
        raise UsageError(
            f"the path {path} is not absolute", hint=f"Write it as it was on the server: {source}:/srv/..."
        )
    if into is not None:
        wrong: dict[str, object] = {
            "--to": target,
            "--include": includes,
            "--exclude": excludes,
            "--overwrite": overwrite,
        }
        wrong |= {"--in-place": in_place, "--verify": verify}
        if others := [name for name, given in wrong.items() if given]:
            raise UsageError(f"--into and {others[0]} exclude each other")
    to = _destination(target, into, direct=direct)
    if in_place and target is not None:
        raise UsageError(
            "--in-place and --to exclude each other",
            hint=f"To {to.host}, name the folder alone: --overwrite says what becomes of files there"
            if to.host
            else "",
        )
    if to.host and direct:
        _require_here(to)
    elif to.host:
        app.fleet.require_host(to.host)
    if before and snapshot != "latest":
        raise UsageError("--snapshot and --before exclude each other")
    limit = parse_when(before, datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if before else ""
    pick = _Pick(source, snapshot, limit, to, in_place, into)
    if into is not None:
        options: dict[str, Any] = {
            "paths": [path] if path else [],
            "dry_run": dry_run,
            **({"site": site} if site else {}),
        }
        return _direct_into(app, pick, options) if direct else _by_worker(app, pick, options)
    options = {
        "paths": [path] if path else [],
        "base": os.path.dirname(path) if path and not in_place else "",
        "includes": list(includes),
        "excludes": list(excludes),
        "in_place": in_place,
        "overwrite": overwrite or "",
        "dry_run": dry_run,
        "verify": verify,
    }
    if site:
        options["site"] = site
    return _direct(app, pick, options) if direct else _by_worker(app, pick, options)


def _destination(target: str | None, into: str | None, *, direct: bool) -> Destination:
    if into is not None and not direct:
        return Destination(host=parse_named(into)[0])
    return parse_destination(target) if target is not None else Destination()


def _require_here(to: Destination) -> None:
    if not runs.is_here(to.host):
        raise UsageError(
            f"--direct restores in this process, on {socket.gethostname()}, and not on {to.host}",
            hint=f"Without --direct the worker of {to.host} does it; or run it there, with --direct --to {to.path}",
        )


@dataclass(frozen=True, slots=True)
class _Pick:
    """Which snapshot is wanted, and where to."""

    source: str
    snapshot: str
    before: str
    to: Destination
    in_place: bool
    into: str | None = None

    def place(self, chosen: Snapshot) -> str:
        """The target, absolute; nothing in place."""
        if self.in_place:
            return ""
        return os.path.abspath(self.to.path or default_target(self.source, chosen.time / 1e9))

    def of_stream(self, chosen: Snapshot) -> dict[str, Any]:
        """Where the snapshot is a stream's: its file, right in the target. Raises UsageError."""
        from workers.restore.choose import stream_path

        path = stream_path(chosen)
        if path and self.in_place:
            raise UsageError(
                f"{self.source} is a program's output, which has no place of its own",
                hint="--to puts it into a folder, --into into a program",
            )
        if self.into is not None:
            return {}  # whoever restores into a program finds it himself
        return {"paths": [path], "base": os.path.dirname(path)} if path else {}


def default_target(source: str, moment: float) -> str:
    """Where a restore goes that names no place: the same again for the same snapshot, so that it can go on."""
    return f"restored-{source.replace('/', '-')}-{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%SZ}"


def _choose(app: App, repository: Repository, pick: _Pick, tag: str) -> Snapshot:
    """Pin the snapshot now: so it can be said from when the data is, and running again goes on with the same.

    `tag`: what its `hf.source` says.
    """
    from workers.restore.choose import choose_snapshot

    notes: list[str] = []
    try:
        chosen = choose_snapshot(repository, pick.snapshot, source=tag, before=pick.before, notes=notes)
    finally:
        repository.store.close()  # before helpers are forked
    for note in notes:
        app.warn(note)
    when = chosen.time / 1e9
    app.say(f"{pick.source} as it was {show.moment(when)}, {show.ago(when, time.time())}")
    return chosen


def _by_worker(app: App, pick: _Pick, options: dict[str, Any]) -> int:
    from cli.opened import open_source
    from shared.ledger.model import RunKind

    fleet, source = app.fleet, pick.source
    executor = pick.to.host or fleet.source(source).host or ""
    chosen = _choose(
        app, open_source(fleet, source, options.get("site", "")).repository, pick, fleet.source(source).first_name
    )
    if pick.into is None:
        options |= {"snapshot": chosen.id, "target": pick.place(chosen)}
    else:
        options |= {"snapshot": chosen.id, "into": parse_named(pick.into)[1]}
    if not options["paths"]:
        options |= pick.of_stream(chosen)
    run = runs.follow(app, runs.ring(app, RunKind.RESTORE, source, options, host=pick.to.host), source)
    _report(app, run.result, host="" if runs.is_here(executor) else executor)
    return runs.exit_code_of(run)


def _direct(app: App, pick: _Pick, options: dict[str, Any]) -> int:
    with Apart(lambda: _plan(app, pick, options)) as plan:
        from workers.access import open_repository
        from workers.restore.run import run_restore
        from workers.restore.spec import RestoreSpec

        spec = RestoreSpec.from_json(plan.result())
    repository = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
    chosen = _choose(app, repository, pick, spec.tagged)
    spec.snapshot, spec.target = chosen.id, pick.place(chosen)
    if not spec.paths and (stream := pick.of_stream(chosen)):
        spec.paths, spec.base = stream["paths"], stream["base"]
    result = runs.run_direct(app, pick.source, lambda on_event: run_restore(spec, on_event))
    _report(app, result.to_json())
    return result.exit_code


def _direct_into(app: App, pick: _Pick, options: dict[str, Any]) -> int:
    from shared.config.programs import inherited
    from workers.access import open_repository
    from workers.programs.program import ProgramSpec
    from workers.restore.into import run_into
    from workers.restore.spec import RestoreSpec

    argv = split_command(pick.into or "")
    spec = RestoreSpec.from_json(_plan(app, pick, options))
    repository = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
    spec.snapshot = _choose(app, repository, pick, spec.tagged).id
    spec.into = ProgramSpec(argv, inherited())
    result = runs.run_direct(app, pick.source, lambda on_event: run_into(spec, on_event))
    _report(app, result.to_json())
    return result.exit_code


def _plan(app: App, pick: _Pick, options: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to do, by the configuration. Raises ConfigError, UsageError."""
    from workers.specs import restore_spec

    app.fleet.source(pick.source)
    if pick.in_place:
        runs.require_local(app, pick.source, "Restore in place")
    return restore_spec(app.fleet, pick.source, options).to_json()


def _report(app: App, result: Mapping[str, Any], *, host: str = "") -> None:
    if not app.json:
        problems = [f"{problem['path']}: {problem['message']}" for problem in result.get("problems", [])]
        for line in [*problems[:_PROBLEMS_SHOWN], *map(str, result.get("notes", []))]:
            app.warn(line)
    app.result({**result, "host": host or None}, *describe(result, host=host))


def describe(result: Mapping[str, Any], *, host: str = "") -> list[str]:
    """What a restore did, for people; ends with how to undo it. `host`: the other machine that it did it on."""
    if "program" in result:
        return describe_into(result, host=host)
    dry = bool(result.get("dry_run"))
    done = "would restore" if dry else "restored"
    amount = f"{show.count(result.get('files', 0), 'file')}, {show.size(result.get('bytes', 0))}"
    resumed = ", going on where it had broken off" if result.get("resumed") else ""
    place = f"{host}:" * bool(host) + (result.get("target") or "/")
    lines = [f"{done} {amount} to {place}{resumed}; {show.duration(result.get('duration', 0.0))}"]
    notes = [
        f"{result[key]:,} {word}"
        for key, word in (
            ("unchanged", "were right already"),
            ("skipped", "left as they were"),
            ("verified", "read again and compared"),
            ("metadata_failed", "owners, modes or attributes could not be set"),
            ("errors", "NOT RESTORED"),
        )
        if result.get(key)
    ]
    if notes:
        lines.append("; ".join(notes))
    damaged = result.get("damaged_packs", [])
    if damaged:
        lines.append(f"DAMAGED: {show.count(len(damaged), 'pack')} of the repository; see `holdfast verify --data`")
    if result.get("undo_hint"):
        lines.append(f"to undo{f', on {host}' if host else ''}: {result['undo_hint']}")
    return lines
