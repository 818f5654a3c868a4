"""One tree, looked at more strictly than any reader does.

`restic check` is blind to the order of nodes, a file's size against its content, the identity of hard
links, names that are unsafe to restore, and unknown fields (see docs/format.md): all of that is here.
"""

from __future__ import annotations

import hashlib
import marshal
from dataclasses import dataclass, field

import orjson

from shared.repository.errors import Damaged
from shared.repository.tree import (
    MODE_CHARDEV,
    MODE_DEVICE,
    MODE_DIR,
    MODE_FIFO,
    MODE_SOCKET,
    MODE_SYMLINK,
    Node,
    decode_tree,
)

_FIELDS = frozenset(
    {
        *("name", "type", "mode", "mtime", "atime", "ctime", "uid", "gid", "user", "group", "inode", "device_id"),
        *("size", "links", "linktarget", "linktarget_raw", "extended_attributes", "generic_attributes", "device"),
        *("content", "subtree", "error"),
    }
)
_TYPE_BITS = MODE_DIR | MODE_SYMLINK | MODE_DEVICE | MODE_FIFO | MODE_SOCKET | MODE_CHARDEV
_BITS = {
    "file": 0,
    "dir": MODE_DIR,
    "symlink": MODE_SYMLINK,
    "dev": MODE_DEVICE,
    "chardev": MODE_DEVICE | MODE_CHARDEV,
    "fifo": MODE_FIFO,
    "socket": MODE_SOCKET,
}

# inode, device id, hash of what every name of it must share, name
Link = tuple[int, int, bytes, bytes]


@dataclass(slots=True)
class TreeFacts:
    """What one tree says. Problems: (whether it is an error, the node's name or b"", what is wrong)."""

    children: list[tuple[bytes, bytes]] = field(default_factory=list)
    files: list[tuple[bytes, int, list[bytes]]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    problems: list[tuple[bool, bytes, str]] = field(default_factory=list)


def check_tree(raw: bytes) -> TreeFacts:
    """Look at the plaintext of a tree blob. Raises Damaged where it is no tree at all."""
    facts = TreeFacts()
    problems: list[str] = []
    nodes = decode_tree(raw, problems)
    facts.problems += [(True, b"", problem) for problem in problems]
    if not raw.endswith(b"\n"):
        facts.problems.append((False, b"", "tree: it does not end in a newline, as every writer's does"))
    unknown = {key for entry in orjson.loads(raw)["nodes"] or () if isinstance(entry, dict) for key in entry} - _FIELDS
    if unknown:
        names = ", ".join(sorted(unknown))
        facts.problems.append((False, b"", f"tree: fields that this release does not know: {names}"))
    for node in nodes:
        try:
            _check_node(node, facts)
        except (TypeError, ValueError, AttributeError) as error:
            facts.problems.append((True, node.name, f"its node holds a value that can't be: {error}"))
    return facts


def _check_node(node: Node, facts: TreeFacts) -> None:
    def problem(message: str) -> None:
        facts.problems.append((True, node.name, message))

    if node.type not in _BITS:
        problem(f"its type {node.type!r} is not known, so it can't be restored")
        return
    if node.mode & _TYPE_BITS != _BITS[node.type]:
        problem(f"its mode {node.mode:#o} is not one of a {node.type}")
    if node.type == "dir":
        assert node.subtree is not None  # noqa: S101 -- decode_tree sees to that
        facts.children.append((node.name, node.subtree))
        return
    if node.subtree is not None:
        problem(f"it is a {node.type} and has a subtree")
    if node.type == "file":
        facts.files.append((node.name, node.size, node.content or []))
    elif node.content:
        problem(f"it is a {node.type} and has content")
    if node.type == "symlink" and not node.linktarget:
        problem("it is a symbolic link without a target")
    if node.links > 1 and node.inode:
        facts.links.append((node.inode, node.device_id, _identity(node), node.name))


def _identity(node: Node) -> bytes:
    what = (node.type, node.size, node.linktarget, node.device, node.content)
    return hashlib.sha256(marshal.dumps(what, 2)).digest()[:16]


def require_tree(raw: bytes) -> TreeFacts:
    """As `check_tree`, with any surprise in it told as Damaged."""
    try:
        return check_tree(raw)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Damaged(f"tree: not as expected ({error!r})") from error
