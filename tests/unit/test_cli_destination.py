"""What `restore --to` says: a folder, or a host and a folder. cli.destination."""

from __future__ import annotations

import pytest

from cli.destination import Destination, parse_destination
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("/srv/out", Destination("/srv/out")),
        ("out", Destination("out")),
        ("web1:/srv/out", Destination("/srv/out", "web1")),
        ("web1.example.org:/", Destination("/", "web1.example.org")),
        ("web1:/srv/a:b", Destination("/srv/a:b", "web1")),
        ("./web1:/srv/out", Destination("./web1:/srv/out")),
        ("/srv/a:b", Destination("/srv/a:b")),
        ("sub/a:b", Destination("sub/a:b")),
    ],
)
def test_a_colon_before_any_slash_ends_a_hosts_name(text: str, destination: Destination) -> None:
    """What has a slash before its first colon is a folder's path."""
    assert parse_destination(text) == destination


@pytest.mark.parametrize(
    ("text", "reason", "way_out"),
    [
        ("web1:srv/out", "on host web1 the path srv/out is not absolute", "web1:/srv/out"),
        ("web1:", "on host web1 the path is missing", "web1:/path"),
        (":/srv/out", "names no host", "HOST:/srv/out"),
        (":", "names no host", "HOST:/path"),
    ],
)
def test_what_is_neither_is_told_with_the_way_out(text: str, reason: str, way_out: str) -> None:
    """A relative path on a host, none at all, and a host without a name."""
    with pytest.raises(UsageError) as error:
        parse_destination(text)
    assert reason in str(error.value.args[0])
    assert way_out in error.value.hint
