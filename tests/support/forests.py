"""Random trees of files of every kind: hypothesis describes them, `plant` makes them on disk.

Devices, foreign owners and attributes outside `user.` need root; `FORESTS` leaves them out where this process
may not make them, and `MISSING_RIGHTS` says which and why.
"""

from __future__ import annotations

import os
import random
import stat
import struct
import tempfile
from dataclasses import dataclass, field

from hypothesis import strategies as st

SECOND = 10**9
KIB, MIB = 1 << 10, 1 << 20
_FLAGS = (stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX, 0)
ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@dataclass(slots=True)
class Plant:
    """One thing to be made. `below`: for a directory what is in it, by name; `other`: a hardlink's number."""

    kind: str
    mode: int = 0o644
    owner: tuple[int, int] | None = None
    mtime: int = SECOND
    xattrs: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    seed: int = 0
    holes: bool = False
    target: bytes = b""
    device: int = 0
    other: int = 0
    below: dict[bytes, Plant] = field(default_factory=dict)


def acl(*, named: int, bits: int, group: int) -> bytes:
    """The kernel's binary form of user::rwx user:<named>:<bits> group::<group> mask::rwx other::r-x."""
    absent = 0xFFFFFFFF
    entries = [(1, 7, absent), (2, bits, named), (4, group, absent), (16, 7, absent), (32, 5, absent)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _rights() -> dict[str, str]:
    """What this process may not make, with the reason."""
    missing = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x")
        tries = {
            "devices": lambda: os.mknod(path + "d", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
            "owners": lambda: os.chown(path, 12345, 54321),
            "trusted": lambda: os.setxattr(path, "trusted.t", b"v"),
            "security": lambda: os.setxattr(path, "security.t", b"v"),
            "user": lambda: os.setxattr(path, "user.t", b"v"),
            "acl": lambda: os.setxattr(path, ACL_ACCESS, acl(named=7, bits=4, group=5)),
        }
        with open(path, "wb"):
            for name, attempt in tries.items():
                try:
                    attempt()
                except OSError as error:
                    missing[name] = f"{name}: {error.strerror}"
    return missing


MISSING_RIGHTS = _rights()


def _may(name: str) -> bool:
    return name not in MISSING_RIGHTS


def _allowed(raw: bytes) -> bool:
    return raw not in (b".", b"..") and not {0, 0x2F} & set(raw)


names = st.one_of(
    st.sampled_from([b"a", b"B", b"a.txt", b"..a", b"-x", b"a b", b"*", b"~"]),
    st.sampled_from([b'quo"te', b"back\\slash", b"new\nline", b"tab\t\a\x01\x7f", b"<&>'", b"\\x41", b"\\", b"$HOME"]),
    st.sampled_from(
        ["é", "e\u0301", "漢字", "🙂", "\U0001fae8", "\u2028\u2029", "\u00a0", "\ufeff", "\ufffd", "\U000e0001"]
    ).map(str.encode),
    st.sampled_from([b"\xff", b"\xe2\x82", b"latin1-\xe9", b"\xed\xa0\x80", b"\xc0\x80"]),
    st.binary(min_size=1, max_size=8).filter(_allowed),
    st.text(min_size=1, max_size=6).map(lambda text: text.encode("utf-8", "replace")).filter(_allowed),
    st.just(b"n" * 255),
)
times = st.one_of(
    st.sampled_from([0, 1, -1, -1500 * SECOND, -SECOND // 2, 1_600_000_000 * SECOND + 123_456_789, 2**31 * SECOND]),
    st.integers(-(2**31) * SECOND, 2**32 * SECOND),
)
modes = st.tuples(st.sampled_from([0o644, 0o600, 0o755, 0o000, 0o777, 0o421]), st.sampled_from(_FLAGS)).map(sum)
owners = st.sampled_from([None, (0, 0), (1, 1), (65534, 65534), (123456, 7), (2**32 - 2, 2**31)])
edges = [0, 1, 4095, 4096, 4097, 512 * KIB - 1, 512 * KIB, 512 * KIB + 1, MIB - 1, MIB, MIB + 1]
sizes = st.one_of(st.integers(0, 3000), st.sampled_from(edges), st.sampled_from([0, 5, 100, 4 * MIB + 3, 9 * MIB + 1]))
targets = st.one_of(
    st.sampled_from(
        [b"a", b"..", b"../nowhere", b"/", b"/etc/passwd", b"new\nline", b"\xff/x\xfe", b'<"&\\>', b"x" * 1000]
    ),
    st.text(min_size=1, max_size=9).map(lambda text: text.encode("utf-8", "replace")).filter(lambda raw: 0 not in raw),
)
values = st.binary(max_size=60)


def _xattrs(kind: str) -> st.SearchStrategy[dict[str, bytes]]:
    offered: dict[str, st.SearchStrategy[bytes]] = {}
    if kind in ("file", "dir") and _may("user"):
        offered |= {"user.a": values, 'user.é<"': values, "user.empty": st.just(b"")}
    if kind in ("file", "dir") and _may("acl"):
        offered[ACL_ACCESS] = st.builds(acl, named=st.integers(1, 9), bits=st.integers(0, 7), group=st.integers(0, 7))
    if kind == "dir" and _may("acl"):
        offered[ACL_DEFAULT] = st.builds(acl, named=st.integers(1, 9), bits=st.integers(0, 7), group=st.integers(0, 7))
    if kind != "file" and _may("trusted"):
        offered["trusted.t"] = values
    if kind == "file" and _may("security"):
        offered["security.holdfast"] = values
    # Half of all things have none at all, as on a real disk.
    return st.one_of(st.just({}), st.fixed_dictionaries({}, optional=offered))


def _plants(kind: str) -> st.SearchStrategy[Plant]:
    common = {
        "mode": modes,
        "owner": owners if _may("owners") else st.none(),
        "mtime": times,
        "xattrs": _xattrs(kind),
    }
    more: dict[str, dict[str, st.SearchStrategy[object]]] = {
        "file": {"size": sizes, "seed": st.integers(0, 5), "holes": st.booleans()},
        "symlink": {"target": targets},
        "link": {"other": st.integers(0, 9)},
        "chardev": {"device": st.sampled_from([os.makedev(1, 3), os.makedev(4000, 70000), 0])},
        "dev": {"device": st.sampled_from([os.makedev(7, 200), os.makedev(259, 1048575)])},
    }
    return st.builds(Plant, st.just(kind), **common, **more.get(kind, {}))  # type: ignore[arg-type]


_KINDS = ["file", "file", "symlink", "link", "fifo", "socket"] + (["chardev", "dev"] if _may("devices") else [])
_leaves = st.sampled_from(_KINDS).flatmap(_plants)


def _with_below(plant: Plant, below: dict[bytes, Plant]) -> Plant:
    plant.below = below
    return plant


def _branches(children: st.SearchStrategy[Plant]) -> st.SearchStrategy[Plant]:
    return st.builds(_with_below, _plants("dir"), st.dictionaries(names, children, max_size=5))


FORESTS = st.dictionaries(names, st.recursive(_leaves, _branches, max_leaves=14), min_size=3, max_size=8)


def content(plant: Plant) -> bytes:
    """A file's bytes: random ones, every second one with long runs of zeros."""
    rng = random.Random(plant.seed)
    data = bytearray(rng.randbytes(plant.size))
    if plant.holes and plant.size > 3 * 4096:
        start = plant.size // 3 // 4096 * 4096
        data[start : plant.size - 4096] = bytes(plant.size - 4096 - start)
    return bytes(data)


class Planter:
    """Makes a forest below a directory."""

    def __init__(self, root: str) -> None:
        self._root = os.fsencode(root)
        self._made: list[bytes] = []  # what a hardlink may name a second time

    def plant(self, forest: dict[bytes, Plant]) -> None:
        """Make it all. Directories get their modes and times last, deepest first."""
        self._into(self._root, forest)

    def _into(self, folder: bytes, forest: dict[bytes, Plant]) -> None:
        for name, plant in forest.items():
            path = os.path.join(folder, name)
            if plant.kind == "link":
                if self._made:
                    os.link(self._made[plant.other % len(self._made)], path, follow_symlinks=False)
                continue
            self._make(path, plant)
            self._dress(path, plant)
            if plant.kind != "dir":
                self._made.append(path)

    def _make(self, path: bytes, plant: Plant) -> None:
        match plant.kind:
            case "file":
                with open(path, "wb") as file:
                    _write(file.fileno(), content(plant))
            case "dir":
                os.mkdir(path)
                self._into(path, plant.below)
            case "symlink":
                os.symlink(plant.target, path)
            case "fifo":
                os.mkfifo(path)
            case "socket":
                os.mknod(path, stat.S_IFSOCK | 0o600)  # a socket's address could not be as long
            case kind:
                os.mknod(path, (stat.S_IFCHR if kind == "chardev" else stat.S_IFBLK) | 0o600, plant.device)

    def _dress(self, path: bytes, plant: Plant) -> None:
        if plant.owner is not None:
            os.chown(path, *plant.owner, follow_symlinks=False)
        for key, value in plant.xattrs.items():
            os.setxattr(path, key, value, follow_symlinks=False)
        if plant.kind != "symlink" and ACL_ACCESS not in plant.xattrs:
            os.chmod(path, plant.mode)
        os.utime(path, ns=(plant.mtime, plant.mtime), follow_symlinks=False)


def _write(fd: int, data: bytes) -> None:
    """Write with holes where whole blocks are zero."""
    os.ftruncate(fd, len(data))
    for at in range(0, len(data), 1 << 16):
        block = data[at : at + (1 << 16)]
        if block.count(0) != len(block):
            os.pwrite(fd, block, at)
