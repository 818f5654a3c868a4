"""Two trees of files compared in all that a backup must bring back."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
ASPECTS = ("kind", "mode", "uid", "gid", "mtime", "size", "content", "target", "device", "xattrs", "links", "sparse")


@dataclass(slots=True)
class Seen:
    """What is there under one path. `links`: the first path of the same inode, where it has several names here."""

    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # nanoseconds since 1970
    size: int = 0
    content: str = ""  # SHA-256 in hex
    target: bytes = b""
    device: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    links: bytes = b""
    sparse: int = 0  # bytes that are no hole


def tree_of(root: str | bytes) -> dict[bytes, Seen]:
    """Everything below `root` by its path relative to it, `b"."` for the directory itself; any depth of path."""
    found: dict[bytes, Seen] = {}
    inodes: dict[tuple[int, int], bytes] = {}
    for path, st, dir_fd, name in _walk(os.fsencode(root)):
        found[path] = seen = _look(st, dir_fd, name)
        if st.st_nlink > 1 and seen.kind != "dir":
            seen.links = inodes.setdefault((st.st_dev, st.st_ino), path)
    # A name that lies outside the tree is nobody's second name.
    shared = [seen.links for seen in found.values()]
    for seen in found.values():
        if seen.links and shared.count(seen.links) == 1:
            seen.links = b""
    return found


def compare_trees(
    expected: str | bytes | dict[bytes, Seen],
    actual: str | bytes | dict[bytes, Seen],
    *,
    without: Collection[str] = (),
    top: bool = True,
) -> list[str]:
    """What differs, a line each; nothing where the trees are the same.

    `without`: aspects (see ASPECTS) that are not compared; `top`: whether the root itself is compared too.
    Of sparseness it is enough that `actual` takes no more room than `expected`.
    """
    left = expected if isinstance(expected, dict) else tree_of(expected)
    right = actual if isinstance(actual, dict) else tree_of(actual)
    lines = [f"{path!r} is missing" for path in sorted(left.keys() - right.keys())]
    lines += [f"{path!r} was not there" for path in sorted(right.keys() - left.keys())]
    for path in sorted(left.keys() & right.keys()):
        if path == b"." and not top:
            continue
        for aspect in ASPECTS:
            want, got = getattr(left[path], aspect), getattr(right[path], aspect)
            same = got <= want if aspect == "sparse" else got == want
            if aspect not in without and not same:
                lines.append(f"{path!r}: {aspect} expected {want!r}, got {got!r}")
    return lines


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result, int, bytes]]:
    """(path, lstat, descriptor of its directory, its name in that) of everything, directories before their content."""
    above = os.open(root, _DIRECTORY)
    try:
        yield b".", os.fstat(above), above, b"."
        yield from _below(b"", above)
    finally:
        os.close(above)


def _below(prefix: bytes, dir_fd: int) -> Iterator[tuple[bytes, os.stat_result, int, bytes]]:
    for name in sorted(map(os.fsencode, os.listdir(dir_fd))):
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        yield prefix + name, st, dir_fd, name
        if stat.S_ISDIR(st.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
            try:
                yield from _below(prefix + name + b"/", fd)
            finally:
                os.close(fd)


def _look(st: os.stat_result, dir_fd: int, name: bytes) -> Seen:
    kind = _KINDS[stat.S_IFMT(st.st_mode)]
    seen = Seen(kind, uid=st.st_uid, gid=st.st_gid, mtime=st.st_mtime_ns, xattrs=_xattrs(dir_fd, name))
    if kind == "symlink":
        seen.target = os.readlink(name, dir_fd=dir_fd)
    else:
        seen.mode = stat.S_IMODE(st.st_mode)
    if kind == "file":
        seen.size = st.st_size
        seen.content, seen.sparse = _content(dir_fd, name, st.st_size)
    if kind.endswith("device"):
        seen.device = st.st_rdev
    return seen


def _content(dir_fd: int, name: bytes, size: int) -> tuple[str, int]:
    """The hash of a file, and how many of its bytes are no hole."""
    digest = hashlib.sha256()
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        while chunk := os.read(fd, 1 << 20):
            digest.update(chunk)
        data = at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            data += at - start
    finally:
        os.close(fd)
    return digest.hexdigest(), data


def _xattrs(dir_fd: int, name: bytes) -> dict[str, bytes]:
    # There is no listxattrat: by way of the directory's descriptor no path is too long.
    path = os.path.join(f"/proc/self/fd/{dir_fd}".encode(), name)
    return {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
