"""A folder that holds a file of every kind, for round trips."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable

PathOf = Callable[[bytes], bytes]

SECOND = 10**9  # nanoseconds
HOLE = 8 << 20  # bytes
DEEP = 40  # directories of 120 bytes each: beyond PATH_MAX
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_every_kind(root: str | bytes, *, sockets: bool = True, deep: bool = True) -> None:
    """Fill the folder `root`, which is made. Devices, owners and trusted attributes only as root."""
    at = os.fsencode(root)
    os.makedirs(at)

    def path(name: bytes) -> bytes:
        return os.path.join(at, name)

    def put(name: bytes, content: bytes = b"", *, mode: int = 0o644) -> bytes:
        with open(path(name), "wb") as file:
            file.write(content)
        os.chmod(path(name), mode)
        return path(name)

    put(b"plain", b"plain\n" * 1000)
    put(b"empty")
    put(b"large", os.urandom(5 << 20))
    put(b"not-utf8-\xff\xfe\x80", b"bytes")
    put("umlaut-äöü\u2028 \"'\\<&>".encode(), b"text")
    put(b"new\nline\ttab", b"text")
    put(b"setuid", b"#!/bin/sh\n", mode=0o6755)
    put(b"closed", b"nobody", mode=0)
    os.mkdir(path(b"sticky"))
    os.chmod(path(b"sticky"), 0o1777)  # noqa: S103 -- as /tmp is
    os.mkdir(path(b"empty-dir"), 0o500)
    os.makedirs(path(b"a/b/c"))
    put(b"a/b/c/leaf", b"leaf")
    _holes(path)
    os.symlink(b"plain", path(b"link"))
    os.symlink(b"gone/\xffnot-utf8", path(b"link-not-utf8"))
    os.symlink(b"/nowhere/at/all", path(b"link-dangling"))
    os.mkfifo(path(b"fifo"), 0o620)
    for name in (b"hard-2", b"a/hard-3"):
        os.link(put(b"hard-1", b"one content") if name == b"hard-2" else path(b"hard-1"), path(name))
    put(b"twin-1", b"the other content")
    os.link(path(b"twin-1"), path(b"twin-2"))
    os.link(path(b"link"), path(b"link-hard"), follow_symlinks=False)
    os.setxattr(put(b"attributes", b"x"), b"user.holdfast", bytes(range(256)))
    os.setxattr(path(b"attributes"), b"user.empty", b"")
    os.setxattr(path(b"a"), b"user.on-a-directory", b"yes")
    _acl(path, put)
    if sockets:
        _socket(path(b"socket"))
    if os.geteuid() == 0:
        os.mknod(path(b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(path(b"disk"), stat.S_IFBLK | 0o640, os.makedev(7, 200))
        os.setxattr(path(b"link-dangling"), b"trusted.on-a-link", b"root only", follow_symlinks=False)
        os.chown(put(b"owned", b"x", mode=0o640), 12345, 54321)
        os.chown(path(b"link-not-utf8"), 12345, 54321, follow_symlinks=False)
        os.chown(path(b"setuid"), 12345, 54321)
        os.chmod(path(b"setuid"), 0o6755)  # noqa: S103 -- a change of owner has cleared it
    if deep:
        _deep(at)
    _times(path)


def _holes(path: PathOf) -> None:
    with open(path(b"hole-only"), "wb") as file:
        file.truncate(HOLE)
    with open(path(b"hole-within"), "wb") as file:
        file.write(os.urandom(100_000))
        file.seek(HOLE)
        file.write(os.urandom(70_000))
        file.truncate(2 * HOLE + 1)
    with open(path(b"hole-small"), "wb") as file:
        file.seek(20_000)
        file.write(b"end")


def _acl(path: PathOf, put: Callable[..., bytes]) -> None:
    # version 2; entries of tag, permissions, id: owner rw, user 12345 r, group r, mask rw, other none
    entries = ((1, 6, 0xFFFFFFFF), (2, 4, 12345), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, perm, who in entries
    )
    os.setxattr(put(b"acl", b"x"), b"system.posix_acl_access", acl)
    os.mkdir(path(b"acl-dir"))
    os.setxattr(path(b"acl-dir"), b"system.posix_acl_default", acl)
    with open(path(b"acl-dir/inherits"), "wb") as file:
        file.write(b"x")
    os.removexattr(put(b"acl-dir/does-not", b"x"), b"system.posix_acl_access")


def _socket(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        folder = os.open(os.path.dirname(path), _DIRECTORY)
        sock.bind(f"/proc/self/fd/{folder}/{os.path.basename(path).decode()}")  # a socket's address is short
        os.close(folder)


def _deep(at: bytes) -> None:
    fd = os.open(at, _DIRECTORY)
    for level in range(DEEP):
        name = b"deep-%03d-" % level + b"d" * 120
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, _DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    leaf = os.open(b"leaf", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
    os.write(leaf, b"at the bottom")
    os.close(leaf)
    os.close(fd)


def _times(path: PathOf) -> None:
    os.utime(path(b"plain"), ns=(SECOND, 1_234_567_890_123_456_789))
    os.utime(path(b"empty"), ns=(-SECOND, -12_345_678_901_234_567))  # 1969
    os.utime(path(b"link"), ns=(SECOND, 987_654_321_987_654_321), follow_symlinks=False)
    os.utime(path(b"fifo"), ns=(SECOND, 5 * SECOND + 5))
    os.utime(path(b"a/b"), ns=(SECOND, 7 * SECOND + 7))
    os.utime(path(b"sticky"), ns=(SECOND, 4_000_000_000 * SECOND + 1))  # 2096


def remove_tree(root: str) -> None:
    """Remove a tree of any depth; `rm` knows how."""
    subprocess.run(["rm", "-rf", "--", root], check=True)
