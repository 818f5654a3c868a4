"""`holdfast dump`: a file, or a subtree as tar, to stdout."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.view import View, which_site, which_snapshot
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shared.repository.tree import Node
    from workers.restore.content import Contents

_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")  # control characters no text has, C1 too


@click.command(
    epilog="""\b
Examples:
  holdfast dump web1:/etc/nginx/nginx.conf
  holdfast dump web1:/etc/fstab --before "3h ago" | diff - /etc/fstab
  holdfast dump web1:/srv/www | tar -x --xattrs --xattrs-include='*' -C /tmp/back
  holdfast dump db/orders:/var/dumps/orders.sql --snapshot latest~1 | psql orders_restored""",
)
@click.argument("what", metavar="SOURCE:PATH")
@which_snapshot
@click.option("--archive", type=click.Choice(["tar"]), help="As an archive; a directory is one without asking.")
@which_site
@global_options
@pass_app
def command(app: App, what: str, snapshot: str, before: str | None, archive: str | None, site: str) -> int:
    """Write the file at PATH of SOURCE to stdout, or the directory there as a tar archive.

    Every blob's hash is checked before its bytes are written. With --json what was written is told on stderr.
    Exit code 3: the archive lacks files that could not be read.
    """
    from cli.browse.names import absolute, shown, split_what
    from workers.restore.content import Contents

    source, path = split_what(what, need_path=True)
    at = path or b""
    view = View(app, source, site)
    chosen = view.choose(snapshot, before)
    node = view.node(chosen, at)
    as_tar = archive is not None or node.type == "dir"
    if not as_tar and node.type != "file":
        raise UsageError(
            f"{shown(absolute(at))} is a {node.type}, and no file", hint="With --archive tar it is written"
        )
    terminal = sys.stdout.isatty()
    if as_tar and terminal:
        raise UsageError("an archive is not written to a terminal", hint="Write it to a file: > archive.tar")
    if not terminal:
        view.say_when(chosen, time.time())
    write = sys.stdout.buffer.write
    contents = Contents(view.index, view.reader)
    done: dict[str, Any] = {"source": source, "snapshot": chosen.id, "time": show.iso(chosen.time / 1e9)}
    if as_tar:
        done |= _write_tar(view, contents, node, at, write)
    else:
        done["bytes"] = _write_file(contents, node, at, write, terminal=terminal)
    sys.stdout.buffer.flush()
    if app.json:
        click.echo(json.dumps({**done, "problems": view.problems}), err=True)
    return EXIT_INCOMPLETE if view.problems else EXIT_OK


def _write_file(
    contents: Contents, node: Node, path: bytes, write: Callable[[bytes], object], *, terminal: bool
) -> int:
    """One file; its bytes. Raises Damaged, UsageError for what a terminal would obey."""
    from cli.browse.names import absolute, shown
    from shared.repository.errors import Damaged

    written = 0
    try:
        contents.size(node)
        for chunk in contents.chunks(node):
            if terminal and not is_text(chunk):
                raise UsageError(
                    f"{shown(absolute(path))} is binary, and is not written to a terminal",
                    hint="Write it to a file: > name",
                )
            write(chunk)
            written += len(chunk)
    except Damaged as error:
        sys.stdout.buffer.flush()
        kept = f"; the {show.count(written, 'byte')} before are whole" if written else "; nothing was written"
        raise Damaged(
            f"{shown(absolute(path))}: {error.args[0]}{kept}",
            hint="Try another snapshot, or another copy with --site",
        ) from error
    return written


def is_text(chunk: bytes) -> bool:
    """Whether a terminal can be shown this: no control characters but those of plain text."""
    return _BINARY.search(chunk) is None


def _write_tar(
    view: View, contents: Contents, node: Node, path: bytes, write: Callable[[bytes], object]
) -> dict[str, Any]:
    """A subtree, named from its own name down; all of a snapshot by whole paths."""
    from dataclasses import asdict

    from cli.browse.archive import Archive
    from cli.commands.ls import walk

    archive = Archive(contents, write, view.problem)
    found = walk(view.trees, node, path, recursive=True) if node.type == "dir" else iter(())
    if path:
        found = _with_top(path, node, found)
    archive.add_all(found, os.path.dirname(path))
    if archive.written.sockets and not view.app.quiet:
        view.app.warn(f"{show.count(archive.written.sockets, 'socket')} left out: an archive can't hold them")
    return asdict(archive.written)


def _with_top(path: bytes, node: Node, below: Iterator[tuple[bytes, Node]]) -> Iterator[tuple[bytes, Node]]:
    yield path, node
    yield from below
