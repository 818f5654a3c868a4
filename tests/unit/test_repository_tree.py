"""Trees: the bytes that restic's own encoder writes, and the nodes that are never let through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.repository.errors import Damaged
from shared.repository.tree import (
    EMPTY_TREE,
    MODE_CHARDEV,
    MODE_DEVICE,
    MODE_DIR,
    MODE_FIFO,
    MODE_SETGID,
    MODE_SETUID,
    MODE_SOCKET,
    MODE_STICKY,
    MODE_SYMLINK,
    NODE_TYPES,
    Node,
    decode_tree,
    encode_tree,
    go_mode,
    permissions,
)

NS = 10**9
TIME = 1_600_000_000 * NS
STAMP = '"mtime":"2020-09-13T12:26:40Z","atime":"2020-09-13T12:26:40Z","ctime":"2020-09-13T12:26:41.5Z"'
BLOB, SUB = b"\xaa" * 32, b"\xbb" * 32


def node(name: bytes, kind: str = "file", **fields: object) -> Node:
    """A node with fixed times and an owner."""
    given: dict[str, object] = {"mtime": TIME, "atime": TIME, "ctime": TIME + NS + NS // 2, "uid": 3, "gid": 4}
    given |= {"content": []} if kind == "file" else {}
    return Node(name, kind, **(given | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            node(b"a", mode=0o644, user="u", group="g", inode=9, device_id=8, size=5, links=2, content=[BLOB, SUB]),
            (
                f'{{"name":"a","type":"file","mode":420,{STAMP},"uid":3,"gid":4,"user":"u","group":"g","inode":9,'
                f'"device_id":8,"size":5,"links":2,"content":["{BLOB.hex()}","{SUB.hex()}"]}}'
            ),
        ),
        (node(b"a"), f'{{"name":"a","type":"file",{STAMP},"uid":3,"gid":4,"content":[]}}'),
        (
            node(b"d", "dir", mode=MODE_DIR | 0o755, subtree=SUB),
            (
                f'{{"name":"d","type":"dir","mode":2147484141,{STAMP},"uid":3,"gid":4,"content":null,'
                f'"subtree":"{SUB.hex()}"}}'
            ),
        ),
        (
            node(b"l", "symlink", mode=MODE_SYMLINK | 0o777, links=1, linktarget="a<é".encode()),
            (
                f'{{"name":"l","type":"symlink","mode":134218239,{STAMP},"uid":3,"gid":4,"links":1,'
                '"linktarget":"a\\u003cé","content":null}'
            ),
        ),
        (
            node(b"l", "symlink", linktarget=b"\xff/x"),
            (
                f'{{"name":"l","type":"symlink",{STAMP},"uid":3,"gid":4,"linktarget":"\\ufffd/x",'
                '"linktarget_raw":"/y94","content":null}'
            ),
        ),
        (
            node(b"x", xattrs=((b"user.a", b""), (b"user.<", b"\x00\xff"))),
            (
                f'{{"name":"x","type":"file",{STAMP},"uid":3,"gid":4,"extended_attributes":['
                '{"name":"user.a","value":""},{"name":"user.\\u003c","value":"AP8="}],"content":[]}'
            ),
        ),
        (
            node(b"c", "chardev", device=259, generic_attributes=b'{"windows.a":"b"}', error="e"),
            (
                f'{{"name":"c","type":"chardev",{STAMP},"uid":3,"gid":4,"generic_attributes":{{"windows.a":"b"}},'
                '"device":259,"content":null,"error":"e"}'
            ),
        ),
    ],
)
def test_a_node_has_these_bytes(made: Node, expected: str) -> None:
    """Fields in restic's order, empty ones left out, `content` always there; and it reads back."""
    raw = encode_tree([made])
    assert raw.decode() == f'{{"nodes":[{expected}]}}\n'
    assert decode_tree(raw) == [made]


def test_nodes_are_sorted_by_the_raw_bytes_of_their_names() -> None:
    """Not by their quoted form, in which a quote or an invalid byte begins with a backslash."""
    names = [b'"', b"-", b"A", b"B", b"\\", b"a", b"\x7f", "é".encode(), b"\xff"]
    decoded = decode_tree(encode_tree(node(name) for name in reversed(names)))
    assert [found.name for found in decoded] == sorted(names)


def test_an_empty_directory_has_a_tree() -> None:
    """Its newline is hashed too; `null` nodes, which old writers left, are none."""
    assert (encode_tree([]), EMPTY_TREE) == (b'{"nodes":[]}\n', b'{"nodes":[]}\n')
    assert (decode_tree(EMPTY_TREE), decode_tree(b'{"nodes":null}')) == ([], [])


@pytest.mark.parametrize(
    ("st_mode", "kind", "mode"),
    [
        (0o100644, "file", 0o644),
        (0o104755, "file", MODE_SETUID | 0o755),
        (0o102755, "file", MODE_SETGID | 0o755),
        (0o041777, "dir", MODE_DIR | MODE_STICKY | 0o777),
        (0o120777, "symlink", MODE_SYMLINK | 0o777),
        (0o060660, "dev", MODE_DEVICE | 0o660),
        (0o020660, "chardev", MODE_DEVICE | MODE_CHARDEV | 0o660),
        (0o010600, "fifo", MODE_FIFO | 0o600),
        (0o147777, "socket", MODE_SOCKET | MODE_SETUID | MODE_SETGID | MODE_STICKY | 0o777),
    ],
)
def test_modes_are_gos(st_mode: int, kind: str, mode: int) -> None:
    """Every type of file has its FileMode bits, and chmod's bits come back."""
    assert go_mode(st_mode) == (kind, mode)
    assert permissions(mode) == st_mode & 0o7777


BAD_NAMES = ["", ".", "..", "a/b", "/", "../x", "a/", "\\x2e\\x2e", "a\\x00b", "\\x2f", "a\\x2fb", "\\056\\056"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    """However it is quoted: what counts is the name as it would be on disk."""
    entry = {"name": name, "type": "file", "uid": 0, "gid": 0, "content": []}
    entry |= dict.fromkeys(("mtime", "atime", "ctime"), "2020-01-01T00:00:00Z")
    with pytest.raises(Damaged, match="is not one of a directory entry"):
        decode_tree(json.dumps({"nodes": [entry]}).encode())
    problems: list[str] = []
    assert decode_tree(json.dumps({"nodes": [entry]}).encode(), problems) == []
    assert len(problems) == 1


def _raw(*nodes: Node) -> bytes:
    """A tree with these nodes in this order, right or wrong."""
    return b'{"nodes":[' + b",".join(encode_tree([one])[10:-3] for one in nodes) + b"]}\n"


def test_unsorted_nodes_are_refused() -> None:
    """Told with both names; who only collects problems keeps the nodes."""
    raw = _raw(node(b"b"), node(b"a"))
    with pytest.raises(Damaged, match=r"b'a' stands behind b'b', names must ascend"):
        decode_tree(raw)
    problems: list[str] = []
    assert [found.name for found in decode_tree(raw, problems)] == [b"b", b"a"]
    assert problems == ["tree: b'a' stands behind b'b', names must ascend"]


def test_a_name_twice_is_refused() -> None:
    """Also where the two are not neighbours; the first one is kept where problems are collected."""
    raw = _raw(node(b"a", inode=1), node(b"b"), node(b"a", inode=2))
    with pytest.raises(Damaged, match=r"the name b'a' stands in it twice"):
        decode_tree(raw)
    problems: list[str] = []
    assert [(found.name, found.inode) for found in decode_tree(raw, problems)] == [(b"a", 1), (b"b", 0)]
    assert problems == ["tree: the name b'a' stands in it twice"]


GOOD = json.loads(encode_tree([node(b"f", mode=0o644, inode=1, size=3, links=1, content=[BLOB])]))["nodes"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"content": None}, {"content": ["00"]}, {"content": [1]}, {"content": "zz"}, {"type": "dir"},
        {"type": "dir", "subtree": "aa"}, {"subtree": 5}, {"mtime": 7}, {"mtime": "soon"}, {"ctime": None},
        {"name": 5}, {"name": None}, {"name": "\\"}, {"extended_attributes": [{"name": "a"}]},
        {"extended_attributes": [{"name": "a", "value": "!"}]}, {"extended_attributes": 5}, {"linktarget": 5},
        {"linktarget_raw": "A"}, {"uid": "0"}, {"gid": None}, {"mode": "rw"}, {"size": 1.5}, {"size": -1},
        {"links": [1]}, {"inode": {}}, {"device": "x"}, {"device_id": "x"}, {"user": 5}, {"type": 5}, {"error": 1},
    ],
)  # fmt: skip
def test_a_node_of_wrong_types_is_damaged(change: dict[str, object]) -> None:
    """One clear error here, never a crash of the restore that would use it."""
    with pytest.raises(Damaged, match=r"tree: |^time |^name "):
        decode_tree(json.dumps({"nodes": [GOOD | change]}).encode())


@pytest.mark.parametrize("missing", ["name", "type", "mtime", "uid", "content"])
def test_a_node_without_what_it_needs_is_damaged(missing: str) -> None:
    """These fields every writer writes."""
    with pytest.raises(Damaged, match="tree: "):
        decode_tree(json.dumps({"nodes": [{key: value for key, value in GOOD.items() if key != missing}]}).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"nodes":5}', b'{"nodes":[5]}', b'{"nodes":[null]}', b"\xff"])
def test_what_is_no_tree_is_damaged(raw: bytes) -> None:
    """Any other bytes that a blob may hold."""
    with pytest.raises(Damaged, match="tree: "):
        decode_tree(raw)


def test_unknown_fields_are_skipped() -> None:
    """A later restic may write more: what is known is read."""
    raw = json.dumps({"nodes": [GOOD | {"future": {"a": 1}}], "more": 1}).encode()
    assert [found.name for found in decode_tree(raw)] == [b"f"]


names = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))
numbers = st.integers(0, 2**63 - 1)
times = st.integers(-(2**62), 2**62)
nodes = st.builds(
    Node,
    names,
    st.sampled_from(sorted(NODE_TYPES)),
    st.integers(0, 2**32 - 1),
    times,
    times,
    times,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.text(max_size=5),
    st.text(max_size=5),
    numbers,
    numbers,
    numbers,
    numbers,
    st.binary(max_size=10),
    st.lists(st.tuples(st.text(max_size=6).map(str.encode), st.binary(max_size=9)), max_size=2).map(tuple),
    st.just(b""),
    numbers,
    st.lists(st.binary(min_size=32, max_size=32), max_size=2),
    st.binary(min_size=32, max_size=32),
    st.text(max_size=5),
)


@settings(max_examples=60)
@given(st.lists(nodes, max_size=4, unique_by=lambda made: made.name))
def test_any_tree_reads_back(listed: list[Node]) -> None:
    """Every field of every type, with any name, target and number."""
    assert decode_tree(encode_tree(listed)) == sorted(listed, key=lambda made: made.name)
