"""What a pattern of `holdfast find` means."""

from __future__ import annotations

import pytest

from cli.browse.patterns import Patterns

PATHS = [b"a.conf", b"etc", b"etc/b.conf", b"etc/deep/c.conf", b"srv/etc/b.conf", b"srv/\xff.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.conf", [b"a.conf", b"etc/b.conf", b"etc/deep/c.conf", b"srv/etc/b.conf"]),
        ("etc", [b"etc"]),
        ("*/b.conf", [b"etc/b.conf", b"srv/etc/b.conf"]),
        ("etc/b.conf", [b"etc/b.conf", b"srv/etc/b.conf"]),
        ("/etc/b.conf", [b"etc/b.conf"]),
        ("/etc/*", [b"etc/b.conf", b"etc/deep/c.conf"]),
        ("/etc/", [b"etc"]),
        ("[ab].conf", [b"a.conf", b"etc/b.conf", b"srv/etc/b.conf"]),
        ("?.txt", [b"srv/\xff.txt"]),
        ("B.CONF", []),
    ],
)
def test_patterns(pattern: str, found: list[bytes]) -> None:
    """Names without a slash; with one whole paths, anywhere unless they begin with it."""
    wanted = Patterns((pattern,))
    assert [path for path in PATHS if wanted.match(path, path.rpartition(b"/")[2])] == found


def test_case_may_be_ignored() -> None:
    """Of names and paths."""
    wanted = Patterns(("B.CONF", "/ETC/deep/*"), ignore_case=True)
    got = [path for path in PATHS if wanted.match(path, path.rpartition(b"/")[2])]
    assert got == [b"etc/b.conf", b"etc/deep/c.conf", b"srv/etc/b.conf"]


def test_only_what_may_hold_a_match_is_read() -> None:
    """Absolute patterns say where; others may be anywhere."""
    wanted = Patterns(("/srv/www/*.php", "/etc/fstab"))
    places = [b"", b"srv", b"srv/www", b"srv/www/a", b"srv/db", b"srv/wwww", b"etc", b"etc/x", b"home"]
    assert [place for place in places if wanted.may_hold(place)] == [
        b"", b"srv", b"srv/www", b"srv/www/a", b"etc", b"etc/x",
    ]  # fmt: skip
    assert [Patterns((one,)).may_hold(b"home") for one in ("*.php", "*/x", "/h*/x", "/*/x")] == [True] * 4
