"""Trees: one blob a directory, whose nodes ascend strictly by the raw bytes of their names.

    {"nodes":[...]}  and a newline; the newline is part of what is hashed

Invariant: what `encode_tree` writes, restic's own encoder would have written byte for byte; and
`decode_tree` lets no name through that could reach outside the directory it stands in.
"""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from shared.repository.errors import Damaged
from shared.repository.gojson import go_unquote, json_string, name_string, parse_time, time_string

# Go's FileMode bits, by the file type that the node's `type` names.
MODE_DIR, MODE_SYMLINK, MODE_DEVICE, MODE_FIFO, MODE_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
MODE_SETUID, MODE_SETGID, MODE_CHARDEV, MODE_STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20
_ID_SIZE = 32
_KINDS = {
    stat.S_IFREG: ("file", 0),
    stat.S_IFDIR: ("dir", MODE_DIR),
    stat.S_IFLNK: ("symlink", MODE_SYMLINK),
    stat.S_IFBLK: ("dev", MODE_DEVICE),
    stat.S_IFCHR: ("chardev", MODE_DEVICE | MODE_CHARDEV),
    stat.S_IFIFO: ("fifo", MODE_FIFO),
    stat.S_IFSOCK: ("socket", MODE_SOCKET),
}
NODE_TYPES = frozenset(kind for kind, _ in _KINDS.values())
TREE_START, TREE_END = b'{"nodes":[', b"]}\n"
EMPTY_TREE = TREE_START + TREE_END


@dataclass(slots=True)
class Node:
    """One entry of a directory. Times are nanoseconds since 1970; `mode` is Go's FileMode; ids are 32 bytes."""

    name: bytes
    type: str
    mode: int = 0
    mtime: int = 0
    atime: int = 0
    ctime: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    inode: int = 0
    device_id: int = 0
    size: int = 0
    links: int = 0
    linktarget: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    generic_attributes: bytes = b""  # JSON of what other platforms record, carried on untouched
    device: int = 0
    content: list[bytes] | None = None
    subtree: bytes | None = None
    error: str = ""


def go_mode(st_mode: int) -> tuple[str, int]:
    """The node type and Go FileMode of a st_mode. Raises KeyError for a type that Linux does not have."""
    kind, bits = _KINDS[stat.S_IFMT(st_mode)]
    mode = bits | (st_mode & 0o777)
    if st_mode & 0o7000:
        mode |= MODE_SETUID if st_mode & stat.S_ISUID else 0
        mode |= MODE_SETGID if st_mode & stat.S_ISGID else 0
        mode |= MODE_STICKY if st_mode & stat.S_ISVTX else 0
    return kind, mode


def permissions(mode: int) -> int:
    """The bits that chmod takes, of a Go FileMode."""
    bits = mode & 0o777
    bits |= stat.S_ISUID if mode & MODE_SETUID else 0
    bits |= stat.S_ISGID if mode & MODE_SETGID else 0
    return bits | (stat.S_ISVTX if mode & MODE_STICKY else 0)


def encode_node(node: Node) -> bytes:
    """A node's JSON, its fields in restic's order, empty ones left out."""
    out = [f'{{"name":{name_string(node.name)},"type":"{node.type}"']
    if node.mode:
        out.append(f',"mode":{node.mode}')
    out.append(
        f',"mtime":"{time_string(node.mtime)}","atime":"{time_string(node.atime)}","ctime":"{time_string(node.ctime)}"'
        f',"uid":{node.uid},"gid":{node.gid}'
    )
    if node.user:
        out.append(f',"user":{json_string(node.user.encode("utf-8", "surrogateescape"))}')
    if node.group:
        out.append(f',"group":{json_string(node.group.encode("utf-8", "surrogateescape"))}')
    for key, number in (
        ("inode", node.inode),
        ("device_id", node.device_id),
        ("size", node.size),
        ("links", node.links),
    ):
        if number:
            out.append(f',"{key}":{number}')
    if node.linktarget:
        out.append(f',"linktarget":{json_string(node.linktarget)}')
        if not _is_utf8(node.linktarget):
            out.append(f',"linktarget_raw":"{b64encode(node.linktarget).decode()}"')
    if node.xattrs:
        pairs = (f'{{"name":{json_string(name)},"value":{_xattr_value(value)}}}' for name, value in node.xattrs)
        out.append(f',"extended_attributes":[{",".join(pairs)}]')
    if node.generic_attributes:
        out.append(f',"generic_attributes":{node.generic_attributes.decode()}')
    if node.device:
        out.append(f',"device":{node.device}')
    if node.content is None:
        out.append(',"content":null')
    else:
        listed = ",".join(f'"{blob.hex()}"' for blob in node.content)
        out.append(f',"content":[{listed}]')
    if node.subtree is not None:
        out.append(f',"subtree":"{node.subtree.hex()}"')
    if node.error:
        out.append(f',"error":{json_string(node.error.encode("utf-8", "surrogateescape"))}')
    out.append("}")
    return "".join(out).encode()


def _xattr_value(value: bytes) -> str:
    # An attribute without a value is an empty []byte in Go: "" in JSON, like here.
    return f'"{b64encode(value).decode()}"'


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode_tree(nodes: Iterable[Node]) -> bytes:
    """The plaintext of a tree blob; the nodes are sorted here."""
    return join_tree(encode_node(node) for node in sorted(nodes, key=lambda node: node.name))


def join_tree(encoded: Iterable[bytes]) -> bytes:
    """The plaintext of a tree blob from nodes that are encoded, and sorted, already."""
    return TREE_START + b",".join(encoded) + TREE_END


def decode_tree(raw: bytes, problems: list[str] | None = None) -> list[Node]:
    """The nodes of a tree blob.

    Without `problems` the first thing that is wrong raises Damaged. With it, each is written there:
    a node that is unsafe or can't be read is left out, one that is merely out of order is kept.
    """
    try:
        listed = orjson.loads(raw)["nodes"]
        entries: list[dict[str, Any]] = [] if listed is None else list(listed)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"tree: not the JSON that was expected ({error!r})") from error
    nodes: list[Node] = []
    seen: set[bytes] = set()
    previous = b""
    for entry in entries:
        try:
            node = _decode_node(entry)
            if node.name in seen:
                raise Damaged(f"tree: the name {node.name!r} stands in it twice")
        except Damaged as error:
            if problems is None:
                raise
            problems.append(str(error))
            continue
        if node.name <= previous:
            problem = f"tree: {node.name!r} stands behind {previous!r}, names must ascend"
            if problems is None:
                raise Damaged(problem)
            problems.append(problem)
        seen.add(node.name)
        previous = node.name
        nodes.append(node)
    return nodes


def _decode_node(entry: dict[str, Any]) -> Node:
    try:
        get = entry.get
        name = go_unquote(entry["name"])
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise Damaged(f"tree: the name {name!r} is not one of a directory entry")
        content = get("content")
        subtree = get("subtree")
        raw_target = get("linktarget_raw")
        xattrs = get("extended_attributes")
        generic = get("generic_attributes")
        # Parsing times costs the most here, and they are mostly the same text.
        mtime_text, atime_text, ctime_text = entry["mtime"], entry["atime"], entry["ctime"]
        mtime = parse_time(mtime_text)
        node = Node(
            name,
            entry["type"],
            get("mode", 0),
            mtime,
            mtime if atime_text == mtime_text else parse_time(atime_text),
            mtime if ctime_text == mtime_text else parse_time(ctime_text),
            entry["uid"],
            entry["gid"],
            get("user", ""),
            get("group", ""),
            get("inode", 0),
            get("device_id", 0),
            get("size", 0),
            get("links", 0),
            b64decode(raw_target, validate=True) if raw_target else get("linktarget", "").encode(),
            tuple((x["name"].encode(), b64decode(x["value"] or "", validate=True)) for x in xattrs) if xattrs else (),
            orjson.dumps(generic) if generic else b"",
            get("device", 0),
            None if content is None else [bytes.fromhex(blob) for blob in content],
            None if subtree is None else bytes.fromhex(subtree),
            get("error", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"tree: a node is not as expected ({error!r})") from error
    numbers = (node.mode, node.uid, node.gid, node.inode, node.device_id, node.size, node.links, node.device)
    texts = (node.type, node.user, node.group, node.error)
    if {*map(type, numbers)} != {int} or min(numbers) < 0 or {*map(type, texts)} != {str}:
        raise Damaged(f"tree: the node {name!r} has a field of another type than the format's: {numbers} {texts}")
    if node.type == "dir" and (node.subtree is None or len(node.subtree) != 32):
        raise Damaged(f"tree: the directory {name!r} has no subtree")
    if node.type == "file" and (node.content is None or {*map(len, node.content)} - {32}):
        raise Damaged(f"tree: the file {name!r} has no content list")
    return node


def references(raw: bytes) -> tuple[list[bytes], list[bytes]]:
    """The subtrees and the data blobs that a tree refers to. Raises Damaged."""
    subtrees: list[str] = []
    content: list[str] = []
    try:
        for node in orjson.loads(raw)["nodes"] or ():
            if blobs := node.get("content"):
                content += blobs
            if subtree := node.get("subtree"):
                subtrees.append(subtree)
        return _ids(subtrees), _ids(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"tree: a node is not as expected ({error!r})") from error


def _ids(names: list[str]) -> list[bytes]:
    raw = bytes.fromhex("".join(names))
    if len(raw) != _ID_SIZE * len(names) or any(len(name) != 2 * _ID_SIZE for name in names):
        raise ValueError("an id that has not 32 bytes")
    return [raw[at : at + _ID_SIZE] for at in range(0, len(raw), _ID_SIZE)]
