"""Members of an archive, read back by Python's own tarfile."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.browse.archive import Archive
from cli.browse.pax import decimal, header
from shared.repository.tree import Node
from tests.support.browsing import Forest, dir_node, file_node
from workers.restore.content import Contents


def read(raw: bytes) -> list[tarfile.TarInfo]:
    """What tarfile makes of it."""
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:", errors="surrogateescape") as archive:
        return archive.getmembers()


@given(st.integers(-(10**20), 10**20))
def test_times_keep_their_nanoseconds(ns: int) -> None:
    """As exact decimals, before 1970 too."""
    assert Decimal(decimal(ns)) == Decimal(ns) / 10**9


@given(
    name=st.binary(min_size=1, max_size=300).filter(
        lambda raw: not {b"", b".", b".."} & set(raw.split(b"/")) and b"\0" not in raw
    ),
    value=st.binary(max_size=50),
    mtime=st.integers(-(10**18), 10**19),
    uid=st.integers(0, 2**40),
    user=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
)
def test_any_name_and_attribute_survives(name: bytes, value: bytes, mtime: int, uid: int, user: str) -> None:
    """Long names, bytes that are not UTF-8, attributes of any bytes, owners beyond 21 bits."""
    node = replace(
        file_node(b"x", mode=0o7777), mtime=mtime, uid=uid, user=user, xattrs=(("user.ä=%".encode(), value),)
    )
    (info,) = read(header(name, node) + bytes(1024))
    got = info.name.encode("utf-8", "surrogateescape")
    attribute = info.pax_headers["SCHILY.xattr.user.ä%3D%25"].encode("utf-8", "surrogateescape")
    assert (got, attribute, info.uid, info.uname) == (name, value, uid, user)
    if "mtime" in info.pax_headers:
        assert Decimal(info.pax_headers["mtime"]) == Decimal(mtime) / 10**9
    else:
        assert info.mtime == mtime // 10**9


def test_every_kind_of_node_has_its_type() -> None:
    """Links with targets, devices with numbers; modes with all bits."""
    target = b"t\xff" * 120
    nodes = [
        dir_node(b"d", bytes(32)),
        Node(b"l", "symlink", linktarget=target),
        Node(b"p", "fifo", mode=0o620),
        Node(b"b", "dev", device=0x0102),
        Node(b"c", "chardev", device=0x0103),
    ]
    members = read(b"".join(header(node.name, node) for node in nodes) + bytes(1024))
    kinds = [member.isdir() or member.issym() or member.isfifo() or member.isdev() for member in members]
    assert kinds == [True] * 5
    assert members[1].linkname.encode("utf-8", "surrogateescape") == target
    assert [(one.devmajor, one.devminor) for one in members[3:]] == [(1, 2), (1, 3)]


def test_names_of_one_inode_are_links_to_the_first() -> None:
    """Its attributes stand once; an inode number alone makes no link; sockets are left out."""
    node = replace(file_node(b"a"), links=3, inode=7)
    nodes = [
        (b"d/a", node),
        (b"d/b", node),
        (b"d/c", replace(node, mtime=1)),
        (b"d/s", Node(b"s", "socket")),
        (b"d/e", node),
    ]
    out = io.BytesIO()
    forest = Forest()
    archive = Archive(Contents(forest, forest), out.write, pytest.fail)
    archive.add_all(nodes, b"d")
    members = read(out.getvalue())
    assert [(one.name, one.islnk(), one.linkname) for one in members] == [
        ("a", False, ""), ("b", True, "a"), ("c", False, ""), ("e", True, "a"),
    ]  # fmt: skip
    assert (archive.written.sockets, len(out.getvalue()) % 10240, len(archive._links)) == (1, 0, 1)


def test_a_node_that_can_not_be_is_left_out() -> None:
    """A kind that nobody knows, a size that its content does not have, a device without a place in tar."""
    told: list[str] = []
    out = io.BytesIO()
    forest = Forest()
    odd = [
        (b"x", Node(b"x", "door\x1b")),
        (b"y", replace(file_node(b"y"), size=5)),
        (b"z", Node(b"z", "dev", device=2**60)),
    ]
    Archive(Contents(forest, forest), out.write, told.append).add_all(odd, b"")
    assert (read(out.getvalue()), [line[:4] for line in told], "\x1b" in told[0]) == (
        [],
        ["/x: ", "/y: ", "/z: "],
        False,
    )
