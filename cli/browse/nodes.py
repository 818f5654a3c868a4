"""One node of a tree for people and programs, and what makes two of them the same. Pure."""

from __future__ import annotations

import stat
from typing import Any

from cli import format as show
from cli.browse.names import absolute, json_name, shown
from shared.repository.gojson import time_string
from shared.repository.tree import Node, permissions

_KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "dev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}
_LONG_AGO, _FAR = -62_135_596_800, 253_402_300_799  # POSIX seconds of the years 1 and 9999


def mode_string(node: Node) -> str:
    """As `ls -l` writes it: `drwxr-xr-t`."""
    return stat.filemode(_KINDS.get(node.type, 0) | permissions(node.mode))


def when(ns: int) -> str:
    """A time of a file in nanoseconds since 1970, local and UTC; a time beyond the calendar as it is."""
    seconds = ns // 10**9
    return show.moment(seconds) if _LONG_AGO + 86400 < seconds < _FAR - 86400 else f"@{seconds}"


def owner(node: Node) -> str:
    """`user:group`, by number where the names are not known."""
    names = f"{node.user or node.uid}:{node.group or node.gid}"
    return shown(names.encode("utf-8", "surrogateescape"))


def label(node: Node, path: bytes) -> str:
    """A path for a listing: a directory ends in a slash, a link shows where it leads."""
    text = shown(absolute(path))
    if node.type == "dir":
        return text if text.endswith("/") else text + "/"
    return f"{text} -> {shown(node.linktarget)}" if node.type == "symlink" else text


def as_json(node: Node, path: bytes) -> dict[str, Any]:
    """A node for programs; `size` of files alone."""
    data: dict[str, Any] = {**json_name(absolute(path)), "type": node.type, "mode": f"{permissions(node.mode):04o}"}
    data |= {"uid": node.uid, "gid": node.gid, "user": node.user, "group": node.group}
    data["mtime"] = time_string(node.mtime)
    if node.type == "file":
        data["size"] = node.size
    if node.type == "symlink":
        data |= json_name(node.linktarget, "target")
    return data


def same_content(one: Node, other: Node) -> bool:
    """Whether two nodes of one type hold the same. Of directories: whether their trees are the same."""
    return (
        one.content == other.content
        and one.subtree == other.subtree
        and one.linktarget == other.linktarget
        and one.device == other.device
    )


def same_metadata(one: Node, other: Node) -> bool:
    """Whether owner, mode, attributes and time are the same. A directory's time changes with what is in it."""
    return (
        (one.mode, one.uid, one.gid, one.xattrs) == (other.mode, other.uid, other.gid, other.xattrs)
        and (one.type == "dir" or one.mtime == other.mtime)
    )  # fmt: skip


def version_key(node: Node) -> tuple[object, ...]:
    """What two versions of a path differ in: type, content, size and time; of a directory, its time alone."""
    content = b"".join(node.content) if node.content else b""
    return node.type, content, node.size, node.mtime, node.linktarget, node.device
