"""Headers of tar members in PAX format (POSIX.1-2001). Pure.

    offset  bytes  field                      offset  bytes  field
    0       100    name                       157     100    name linked to
    100     8      mode, octal                257     8      "ustar", NUL, "00"
    108     8      uid                        265     32     user
    116     8      gid                        297     32     group
    124     12     size of the content        329     8      device's major number
    136     12     mtime, seconds since 1970  337     8      its minor number
    148     8      sum of the 512 bytes       345     155    prefix, not used
    156     1      type                       500     12     zeros

What a field can't hold (a long name or one that is not ASCII, a fraction of a second, a large number, an attribute)
stands in records before it, in a member of type `x`: `<length> <key>=<value>` and a newline, the length with itself.
Python's tarfile does the same at twice the time, which is most of what an archive of small files takes.
"""

from __future__ import annotations

import os
import struct

from shared.repository.tree import Node, permissions

BLOCK = 512
RECORD = 20 * BLOCK

_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_TYPES = {"file": b"0", "symlink": b"2", "chardev": b"3", "dev": b"4", "dir": b"5", "fifo": b"6"}
_HARD_LINK, _RECORDS = b"1", b"x"
KINDS = frozenset(_TYPES)


def header(name: bytes, node: Node, *, link: bytes | None = None) -> bytes:
    """The blocks before a member's content; with `link` it is another name of the member of that name.

    Raises ValueError, OverflowError for a device number that tar has no place for.
    """
    records: dict[bytes, bytes] = {}
    kind = _HARD_LINK if link is not None else _TYPES[node.type]
    size = node.size if node.type == "file" and link is None else 0
    target = link if link is not None else node.linktarget if node.type == "symlink" else b""
    device = b"", b""
    if node.type in ("dev", "chardev"):
        device = _octal(os.major(node.device), 8), _octal(os.minor(node.device), 8)
        if b"" in device:
            raise ValueError(f"the device number {node.device:#x} is larger than tar has room for")
    seconds, fraction = divmod(node.mtime, 10**9)
    if fraction or not 0 <= seconds < 8**11:
        records[b"mtime"] = decimal(node.mtime).encode()
    block = _block(
        _text(b"path", (name or b".") + (b"/" if node.type == "dir" else b""), 100, records),
        permissions(node.mode),
        _number(b"uid", node.uid, 8, records),
        _number(b"gid", node.gid, 8, records),
        _number(b"size", size, 12, records),
        _octal(seconds, 12) or _octal(0, 12),
        kind,
        _text(b"linkpath", target, 100, records),
        _text(b"uname", _encoded(node.user), 31, records),
        _text(b"gname", _encoded(node.group), 31, records),
        device,
    )
    if link is None:
        for key, value in node.xattrs:
            # A record's key ends at its first "=": GNU tar writes such a name so, and reads it.
            records[b"SCHILY.xattr." + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    return _extended(records) + block if records else block


def decimal(ns: int) -> str:
    """Nanoseconds as seconds with a fraction, exact, also before 1970."""
    whole, fraction = divmod(abs(ns), 10**9)
    text = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if ns < 0 else text


def _extended(records: dict[bytes, bytes]) -> bytes:
    """The member that holds records."""
    body = b"".join(_record(key, value) for key, value in records.items())
    if not all(map(_is_utf8, records.values())):  # else a record's value is UTF-8
        body = _record(b"hdrcharset", b"BINARY") + body
    zero = _octal(0, 8)
    start = _block(
        b"././@PaxHeader", 0o644, zero, zero, _octal(len(body), 12), _octal(0, 12), _RECORDS, b"", b"", b"", (b"", b"")
    )
    return start + body + bytes(-len(body) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3  # a space, "=" and a newline
    total = length + len(str(length))
    if len(str(total)) > len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _block(
    name: bytes,
    mode: int,
    uid: bytes,
    gid: bytes,
    size: bytes,
    mtime: bytes,
    kind: bytes,
    target: bytes,
    user: bytes,
    group: bytes,
    device: tuple[bytes, bytes],
) -> bytes:
    fields = _octal(mode, 8), uid, gid, size, mtime
    rest = kind, target, b"ustar\x0000", user, group, *(number or _octal(0, 8) for number in device), b""
    block = _FIELDS.pack(name, *fields, b" " * 8, *rest)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(value: int, width: int) -> bytes:
    """A number's field; empty where it has no room."""
    return b"%0*o\0" % (width - 1, value) if 0 <= value < 8 ** (width - 1) else b""


def _number(key: bytes, value: int, width: int, records: dict[bytes, bytes]) -> bytes:
    field = _octal(value, width)
    if field:
        return field
    records[key] = b"%d" % value
    return _octal(0, width)


def _text(key: bytes, value: bytes, width: int, records: dict[bytes, bytes]) -> bytes:
    if len(value) > width or not value.isascii():
        records[key] = value
    return value[:width]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
