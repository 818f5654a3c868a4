"""A node as it is shown: mode, owner, time, and where a link leads."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cli.browse.nodes import as_json, label, mode_string, owner, when
from shared.repository.tree import MODE_DIR, MODE_SETUID, MODE_STICKY, Node
from tests.support.browsing import file_node


@given(st.integers(-(2**70), 2**70))
def test_any_time_can_be_shown(ns: int) -> None:
    """What a broken clock wrote ends no listing."""
    assert when(ns)


def test_modes_are_as_ls_writes_them() -> None:
    """With the kind, and the bits that chmod takes."""
    nodes = [
        Node(b"d", "dir", mode=0o1777 & 0o777 | MODE_DIR | MODE_STICKY),
        file_node(b"f", mode=0o750 | MODE_SETUID),
        Node(b"l", "symlink", mode=0o777),
        Node(b"x", "door", mode=0o600),
    ]
    assert [mode_string(node) for node in nodes] == ["drwxrwxrwt", "-rwsr-x---", "lrwxrwxrwx", "?rw-------"]


def test_an_owner_has_a_name_or_a_number() -> None:
    """Escaped: names of users come from another machine."""
    node = replace(file_node(b"f"), uid=7, gid=8, user="ro\x1bot")
    assert (owner(node), owner(replace(node, user="", group="wheel"))) == ("ro\\x1bot:8", "7:wheel")


def test_a_label_says_what_it_is() -> None:
    """A slash for a directory, an arrow for a link, nothing that a terminal obeys."""
    got = [
        label(Node(b"d", "dir"), b"a/d"),
        label(Node(b"/", "dir"), b""),
        label(Node(b"l", "symlink", linktarget=b"x\n"), b"l\xff"),
    ]
    assert got == ["/a/d/", "/", "/l\\xff -> x\\n"]


def test_programs_get_the_target_of_a_link_exactly() -> None:
    """In base64 where it is not UTF-8."""
    data = as_json(Node(b"l", "symlink", linktarget=b"\xff"), b"l")
    assert (data["path"], data["target"], data["target_base64"]) == ("/l", "\\xff", "/w==")
