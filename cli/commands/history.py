"""`holdfast history`: one file through all snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.view import NotStored, View, which_site

if TYPE_CHECKING:
    from cli.browse.trees import Trees
    from shared.repository.snapshot import Snapshot
    from shared.repository.tree import Node

NEW, CHANGED, METADATA, SAME, GONE, ABSENT, UNKNOWN = (
    "new", "changed", "metadata", "same", "gone", "absent", "unknown",
)  # fmt: skip


@click.command(
    epilog="""\b
Examples:
  holdfast history web1:/etc/nginx/nginx.conf
  holdfast history web1:/srv/www/index.html --changes
  holdfast history db/orders:/var/dumps/orders.sql --json""",
)
@click.argument("what", metavar="SOURCE:PATH")
@click.option("--changes", is_flag=True, help="Only the snapshots in which it is not as in the one before.")
@which_site
@global_options
@pass_app
def command(app: App, what: str, changes: bool, site: str) -> int:
    """Show what stood at PATH in each snapshot of SOURCE, newest first, and whether it had changed.

    Each line is compared with the snapshot before: new, changed (its content), metadata (only owner, mode, time or
    attributes), same, gone, absent. Exit code 3: unknown, since a directory above it could not be read.
    """
    from cli.browse.listing import Listing
    from cli.browse.names import absolute, json_name, shown, split_what

    source, path = split_what(what, need_path=True)
    if not path:
        raise NotStored("the top of a snapshot has no history", hint=f"`holdfast snapshots {source}` lists them")
    view = View(app, source, site)
    states = trace(view.trees, view.snapshots, path)
    there = [state for state in states if state.node is not None]
    if not there and not view.problems:
        raise NotStored(
            f"{shown(absolute(path))} is in none of the {show.count(len(states), 'snapshot')} of {source}",
            hint=f"holdfast find {source} looks by name",
        )
    listing = Listing(app, {"source": source, **json_name(absolute(path))}, "versions")
    for state in reversed(states):
        if not changes or state.what not in (SAME, ABSENT):
            listing.add(_as_json(state, path) if app.json else {}, _line(state))
    last = next((state for state in reversed(states) if state.node is not None), None)
    restore = view.restore_command(path, last.snapshot) if last else ""
    return listing.end(view.problems, {"restore": restore or None}, *([f"to restore: {restore}"] if restore else []))


@dataclass(slots=True)
class State:
    """What stood there in one snapshot, and what that is against the snapshot before."""

    snapshot: Snapshot
    node: Node | None
    what: str


def trace(trees: Trees, snapshots: list[Snapshot], path: bytes) -> list[State]:
    """Follow a path (relative, not empty) through snapshots, oldest first. Each tree is read once."""
    names = path.split(b"/")
    known: dict[tuple[int, bytes], Node | bool | None] = {}  # (depth, tree) -> the node of that depth's name in it

    def look(tree: bytes) -> Node | bool | None:
        """The node; None where there is none, False where that can't be said."""
        found: Node | bool | None = None
        for depth, name in enumerate(names):
            if (depth, tree) not in known:
                nodes = trees.nodes(tree, b"/".join(names[:depth]))
                if nodes is None:
                    known[depth, tree] = False
                else:
                    known[depth, tree] = next((node for node in nodes if node.name == name), None)
            found = known[depth, tree]
            if found is None or isinstance(found, bool):
                return found
            if depth + 1 < len(names):
                if found.subtree is None:
                    return None
                tree = found.subtree
        return found

    states: list[State] = []
    before: Node | None = None
    for snapshot in snapshots:
        found = look(snapshot.tree)
        if isinstance(found, bool):
            states.append(State(snapshot, None, UNKNOWN))
            continue
        states.append(State(snapshot, found, _what(before, found)))
        before = found
    return states


def _what(before: Node | None, now: Node | None) -> str:
    from cli.browse.nodes import same_content, same_metadata

    if now is None:
        return ABSENT if before is None else GONE
    if before is None:
        return NEW
    if before.type != now.type or not same_content(before, now):
        return CHANGED
    return SAME if same_metadata(before, now) else METADATA


def _line(state: State) -> str:
    from cli.browse.nodes import when

    start = f"{state.snapshot.id[:8]}  {show.moment(state.snapshot.time / 1e9)}  {state.what:<8}"
    node = state.node
    if node is None:
        return start.rstrip()
    size = show.size(node.size) if node.type == "file" else node.type
    return f"{start}  {size:>8}  changed {when(node.mtime)}"


def _as_json(state: State, path: bytes) -> dict[str, Any]:
    from cli.browse.nodes import as_json

    node = {} if state.node is None else as_json(state.node, path)
    return {
        "snapshot": state.snapshot.id,
        "time": show.iso(state.snapshot.time / 1e9),
        "state": state.what,
        **{name: value for name, value in node.items() if not name.startswith("path")},
    }
