"""The fast path of a scan against the reference encoder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.repository.tree import Node, encode_node, go_mode
from workers.backup.engine import nodes as fast

TYPES = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK]
names = st.one_of(st.binary(min_size=1, max_size=30), st.text(min_size=1, max_size=15).map(str.encode))
times = st.integers(-(2**70), 2**70)


def status(**fields: int) -> os.stat_result:
    """What lstat would give."""
    return cast(os.stat_result, SimpleNamespace(**fields))


stats = st.builds(
    status,
    st_mode=st.tuples(st.sampled_from(TYPES), st.integers(0, 0o7777)).map(sum),
    st_mtime_ns=times,
    st_ctime_ns=times,
    st_uid=st.one_of(st.just(0), st.integers(0, 2**32 - 1)),
    st_gid=st.one_of(st.just(0), st.integers(0, 2**32 - 1)),
    st_ino=st.integers(0, 2**64 - 1),
    st_nlink=st.integers(1, 2**32),
    st_rdev=st.integers(0, 2**40),
)


@settings(max_examples=300)
@given(
    names,
    stats,
    st.integers(0, 2**63),
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=3),
    st.binary(min_size=1, max_size=20),
)
def test_the_fast_path_writes_what_the_reference_writes(
    name: bytes, found: Any, size: int, device_id: int, content: list[bytes], target: bytes
) -> None:
    """Byte for byte, for any name, stat, target and content: a tree is the same whoever encodes it."""
    kind, mode = go_mode(found.st_mode)
    regular, link, directory = kind == "file", kind == "symlink", kind == "dir"
    head = fast.node_head(
        name,
        found,
        size=size if regular else 0,
        device_id=device_id if not directory else 0,
        xattrs="",
        linktarget=fast.link_target(target) if link else "",
    )
    subtree = b"\xab" * 32
    if directory:
        got = fast.dir_node(fast.dir_head(head), subtree)
    else:
        got = fast.file_node(head, content) if regular else fast.other_node(head)
    expected = Node(
        name,
        kind,
        mode,
        found.st_mtime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_uid,
        found.st_gid,
        "root" if found.st_uid == 0 else fast._user_name(found.st_uid),
        "root" if found.st_gid == 0 else fast._group_name(found.st_gid),
        found.st_ino,
        0 if directory else device_id,
        size if regular else 0,
        0 if directory else found.st_nlink,
        target if link else b"",
        device=found.st_rdev if kind in ("dev", "chardev") else 0,
        content=content if regular else None,
        subtree=subtree if directory else None,
    )
    assert got == encode_node(expected)
    assert not directory or got[: -fast.DIR_TAIL] == fast.dir_head(head)


def test_attributes_are_written_as_the_reference_writes_them(tmp_path: Path) -> None:
    """Names that need escapes, values of any bytes, an empty value; by name and by descriptor."""
    path = tmp_path / "f"
    path.touch()
    pairs = {"user.a<b>": b"\x00\xff", "user.empty": b"", 'user."é': b"x" * 100}
    for key, value in pairs.items():
        os.setxattr(path, key, value)
    listed = tuple((os.fsencode(key), pairs[key]) for key in os.listxattr(path))
    raw = encode_node(Node(b"f", "file", xattrs=listed, content=[])).decode()
    expected = raw[raw.index(',"extended_attributes"') : raw.index(',"content"')]
    problems: list[str] = []
    fd = os.open(path, os.O_RDONLY)
    assert fast.read_xattrs(fd, problems.append) == expected
    assert fast.read_xattrs(os.fsencode(path), problems.append) == expected
    os.close(fd)
    assert problems == []


@pytest.mark.parametrize(("number", "told"), [(errno.ENOTSUP, False), (errno.EIO, True), (errno.EACCES, True)])
def test_attributes_that_cannot_be_listed_are_told(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    told: bool,
) -> None:
    """A file system without them is no problem; a failure is one."""

    def fail(*_: object, **__: object) -> list[str]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "listxattr", fail)
    problems: list[str] = []
    assert fast.read_xattrs(b"f", problems.append) == ""
    assert bool(problems) == told


def test_an_attribute_that_vanishes_between_list_and_read_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of the same file are kept; a value that can't be read for another reason is told."""
    reasons = {"user.gone": errno.ENODATA, "user.broken": errno.EIO}

    def get(_name: bytes, attribute: str, **__: object) -> bytes:
        if attribute in reasons:
            raise OSError(reasons[attribute], os.strerror(reasons[attribute]))
        return b"v"

    monkeypatch.setattr(os, "listxattr", lambda *_, **__: [*reasons, "user.kept"])
    monkeypatch.setattr(os, "getxattr", get)
    problems: list[str] = []
    assert fast.read_xattrs(b"f", problems.append) == ',"extended_attributes":[{"name":"user.kept","value":"dg=="}]'
    assert problems == ["extended attribute user.broken can't be read: Input/output error"]
