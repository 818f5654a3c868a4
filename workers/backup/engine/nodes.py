"""From what the kernel says of a file to the JSON of its node: the hot path of a scan.

`tree.encode_node` is the reference; what is built here, with everything that repeats cached, is byte
for byte the same (a test holds the two together).
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache

from shared.repository.gojson import json_string, name_string, time_string
from shared.repository.tree import go_mode

_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA, errno.ENOSYS})


@lru_cache(maxsize=4096)
def _kind_and_mode(st_mode: int) -> tuple[str, str]:
    kind, mode = go_mode(st_mode)
    return kind, f'"type":"{kind}","mode":{mode},"mtime":"' if mode else f'"type":"{kind}","mtime":"'


@lru_cache(maxsize=4096)
def _owner(uid: int, gid: int) -> str:
    out = f',"uid":{uid},"gid":{gid}'
    for key, lookup, number in (("user", _user_name, uid), ("group", _group_name, gid)):
        name = lookup(number)
        if name:
            out += f',"{key}":{json_string(name.encode("utf-8", "surrogateescape"))}'
    return out


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def read_xattrs(name: bytes | int, problem: Callable[[str], None]) -> str:
    """The extended attributes of `name` (in the current directory, or an open file) as a JSON fragment, or ""."""
    try:
        names = os.listxattr(name) if isinstance(name, int) else os.listxattr(name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_XATTRS and error.errno != errno.EPERM:
            problem(f"extended attributes can't be listed: {error.strerror}")
        return ""
    if not names:
        return ""
    pairs = []
    for attribute in names:
        try:
            value = (
                os.getxattr(name, attribute)
                if isinstance(name, int)
                else os.getxattr(name, attribute, follow_symlinks=False)
            )
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                problem(f"extended attribute {attribute} can't be read: {error.strerror}")
            continue
        pairs.append(f'{{"name":{json_string(os.fsencode(attribute))},"value":"{b64encode(value).decode()}"}}')
    return f',"extended_attributes":[{",".join(pairs)}]' if pairs else ""


def node_head(name: bytes, st: os.stat_result, *, size: int, device_id: int, xattrs: str, linktarget: str = "") -> str:
    """A node's JSON up to the value of `content`.

    `size`: bytes of content that were really read (0 for all but files); `device_id`: 0 where the node
    has one link; `linktarget`: a JSON fragment that begins with a comma.
    """
    kind, start = _kind_and_mode(st.st_mode)
    mtime = time_string(st.st_mtime_ns)
    out = (
        f'{{"name":{name_string(name)},{start}{mtime}","atime":"{mtime}","ctime":"{time_string(st.st_ctime_ns)}"'
        f"{_owner(st.st_uid, st.st_gid)}"
    )
    if st.st_ino:
        out += f',"inode":{st.st_ino}'
    if device_id:
        out += f',"device_id":{device_id}'
    if size:
        out += f',"size":{size}'
    if kind != "dir":
        out += f',"links":{st.st_nlink}'
    out += linktarget + xattrs
    if kind in ("dev", "chardev") and st.st_rdev:
        out += f',"device":{st.st_rdev}'
    return out + ',"content":'


def file_node(head: str, content: list[bytes]) -> bytes:
    """A file's whole node from its head and the ids of its blobs."""
    if len(content) == 1:
        return f'{head}["{content[0].hex()}"]}}'.encode()
    listed = '","'.join([blob.hex() for blob in content])
    return f'{head}["{listed}"]}}'.encode() if content else f"{head}[]}}".encode()


def other_node(head: str) -> bytes:
    """The whole node of what is neither a file nor a directory."""
    return f"{head}null}}".encode()


def link_target(target: bytes) -> str:
    """The JSON fragment of a symlink's target, with the raw bytes beside it where they are not UTF-8."""
    if not target:
        return ""
    out = f',"linktarget":{json_string(target)}'
    try:
        target.decode()
    except UnicodeDecodeError:
        out += f',"linktarget_raw":"{b64encode(target).decode()}"'
    return out


DIR_TAIL = 64 + 2  # characters behind a directory's head: the subtree's id, a quote and a brace


def dir_head(head: str) -> bytes:
    """A directory's node up to the id of its subtree."""
    return f'{head}null,"subtree":"'.encode()


def dir_node(head: bytes, subtree: bytes) -> bytes:
    """A directory's whole node."""
    return head + subtree.hex().encode() + b'"}'
