"""`holdfast ls`: what a snapshot holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cli.app import App, global_options, pass_app
from cli.browse.view import View, which_site, which_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.browse.trees import Trees
    from shared.repository.snapshot import Snapshot
    from shared.repository.tree import Node


@click.command(
    epilog="""\b
Examples:
  holdfast ls web1                                   # what was backed up
  holdfast ls web1:/srv/www --long
  holdfast ls web1:/etc --before "3h ago" --recursive
  holdfast ls web1 --snapshot latest~1 -r --json""",
)
@click.argument("what", metavar="SOURCE[:PATH]")
@which_snapshot
@click.option("--long", "-l", is_flag=True, help="Mode, owner, size and time too.")
@click.option("--recursive", "-r", is_flag=True, help="All that is below, too.")
@which_site
@global_options
@pass_app
def command(app: App, what: str, snapshot: str, before: str | None, long: bool, recursive: bool, site: str) -> int:
    """List what a snapshot of SOURCE holds, or what is at PATH in it.

    Without PATH the listing starts at the directory that was backed up, or above where there were several.
    Exit code 3: a directory could not be read.
    """
    from cli.browse.listing import Listing
    from cli.browse.names import split_what
    from cli.browse.nodes import as_json, label
    from cli.commands.snapshots import as_json as snapshot_json

    source, path = split_what(what)
    view = View(app, source, site)
    chosen = view.choose(snapshot, before)
    at = start_of(view.trees, chosen) if path is None else path
    node = view.node(chosen, at)
    view.say_when(chosen, time.time())
    listing = Listing(app, {"source": source, "snapshot": snapshot_json(chosen)}, "entries")
    found = walk(view.trees, node, at, recursive=recursive) if node.type == "dir" else iter([(at, node)])
    for where, one in found:
        line = "" if app.json else long_line(one, where) if long else label(one, where)
        listing.add(as_json(one, where), line)
    return listing.end(view.problems)


def start_of(trees: Trees, snapshot: Snapshot) -> bytes:
    """The lowest directory that holds all that was backed up: what lies above has one entry each."""
    above = {path.strip(b"/") for path in snapshot.paths}
    at, tree = b"", snapshot.tree
    while at not in above:
        nodes = trees.nodes(tree, at)
        if not nodes or len(nodes) > 1 or nodes[0].subtree is None:
            break
        at, tree = at + b"/" + nodes[0].name if at else nodes[0].name, nodes[0].subtree
    return at


def walk(trees: Trees, top: Node, path: bytes, *, recursive: bool) -> Iterator[tuple[bytes, Node]]:
    """What is in a directory, by name; with `recursive` each directory is followed by what it holds."""
    stack: list[tuple[bytes, Node]] = [(path, top)]
    while stack:
        at, node = stack.pop()
        if node is not top:
            yield at, node
        if node.subtree is None or (node is not top and not recursive):
            continue
        nodes = trees.nodes(node.subtree, at) or []
        stack += [(at + b"/" + one.name if at else one.name, one) for one in reversed(nodes)]
        if recursive:
            trees.ahead(one.subtree for one in nodes if one.subtree is not None)


def long_line(node: Node, path: bytes) -> str:
    """As `ls -l`, the time local and in UTC."""
    from cli.browse.nodes import label, mode_string, owner, when

    size: Any = f"{node.size:,}" if node.type == "file" else "-"
    return f"{mode_string(node)}  {owner(node):<16} {size:>16}  {when(node.mtime)}  {label(node, path)}"
