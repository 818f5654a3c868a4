"""A file of a snapshot into a program's standard input: `restore --into`. The program runs here, without a shell.

Invariant: the program's input ends only when all of the file, verified, was given; else the program is killed. So it
never takes the half of a dump for the whole.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from cli import format as show
from cli.browse.view import View
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, RestoreError, UsageError

if TYPE_CHECKING:
    from cli.app import App
    from shared.repository.snapshot import Snapshot
    from shared.repository.tree import Node


def split_command(text: str) -> list[str]:
    """The program and its arguments, quoted as for a shell, which there is none of. Raises UsageError."""
    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--into {text}: {error}", hint="Quote as for a shell") from None
    if not argv:
        raise UsageError("--into names no program", hint="--into 'psql orders_restored'")
    return argv


def restore_into(
    app: App, source: str, path: str, command: str, *, snapshot: str, before: str | None, site: str, dry_run: bool
) -> int:
    """Stream the file at `path`, or the one that a stream is, into the program; the exit code.

    Raises ProgramFailed, RestoreError, Damaged and what opening a source raises.
    """
    from cli.browse.content import Contents
    from shared.config.programs import inherited
    from shared.repository.errors import Damaged
    from workers.programs.program import Program, ProgramSpec

    argv = split_command(command)
    began = time.monotonic()
    view = View(app, source, site)
    chosen = view.choose(snapshot, before)
    at, node = _file(view, chosen, path)
    view.say_when(chosen, time.time())
    contents = Contents(view.index, view.reader)
    size = contents.size(node)
    result: dict[str, Any] = {
        "source": source,
        "snapshot": chosen.id,
        "time": show.iso(chosen.time / 1e9),
        "path": at,
        "program": argv[0],
        "bytes": size,
        "dry_run": dry_run,
    }
    if dry_run:
        app.result({**result, "complete": True}, f"would give {show.size(size)} of {at} to {argv[0]}")
        return EXIT_OK
    given = 0
    took_all = True
    with Program(ProgramSpec(argv, inherited()), reads=True, heard=None if app.json else _pass_on) as program:
        try:
            for chunk in contents.chunks(node):
                took_all = program.write(chunk, _nothing)
                if not took_all:
                    break
                given += len(chunk)
        except Damaged as error:
            raise Damaged(
                f"{at}: {error.args[0]}; {argv[0]} was killed after {show.size(given)} of {show.size(size)}",
                hint="Take back what it has done; try another snapshot, or another copy with --site",
            ) from error
        if took_all and given != size:
            raise RestoreError(f"{at} of snapshot {chosen.id[:8]} changed while it was read")
        program.finish(_nothing)
    took = show.duration(time.monotonic() - began)
    if not took_all:
        app.warn(f"{argv[0]} ended with code 0 before it had read all of {at}")
    said = f"{argv[0]} took {show.size(given)} of {at} and ended with code 0; {took}"
    app.result({**result, "bytes": given, "complete": took_all}, said)
    return EXIT_OK if took_all else EXIT_INCOMPLETE


def stream_path(snapshot: Snapshot) -> str:
    """The path of the one file that a stream's snapshot holds; empty for others."""
    paths = snapshot.paths
    return os.fsdecode(paths[0]) if len(paths) == 1 and paths[0].startswith(b"/stream/") else ""


def _file(view: View, chosen: Snapshot, path: str) -> tuple[str, Node]:
    at = path or stream_path(chosen)
    if not at:
        raise UsageError(
            f"{view.source} is no stream, so --into wants one file of it",
            hint=f"Name it: {view.source}:/path; `holdfast ls {view.source} -r` lists them",
        )
    node = view.node(chosen, os.fsencode(at.strip("/")))
    if node.type != "file":
        raise UsageError(f"{at} is a {node.type}, and no file", hint="`holdfast dump` writes a directory as a tar")
    return at, node


def _pass_on(data: bytes) -> None:
    """What the program says is for whoever waits; stdout is our own result."""
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


def _nothing() -> None:
    """There is nothing to look after: Ctrl-C interrupts by itself."""
