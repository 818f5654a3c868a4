"""Names of a snapshot as they are shown, given to programs, and taken from a command line."""

from __future__ import annotations

import base64
import json
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.browse.names import json_name, json_text, restore_command, shown, split_what
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain name", "plain name"),
        ("äöü €".encode(), "äöü €"),
        (b"back\\slash", "back\\slash"),
        (b"new\nline\ttab", "new\\nline\\ttab"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"both\\\n", "both\\\\\\n"),
        (b"\xff\xfe-\xc3\xa4", "\\xff\\xfe-ä"),
        ("\u202egpj.exe".encode(), "\\u202egpj.exe"),
        ("\x9b31m".encode(), "\\u009b31m"),
        ("\U000e0001".encode(), "\\U000e0001"),
    ],
)
def test_a_name_is_shown_so_that_a_terminal_obeys_nothing(raw: bytes, text: str) -> None:
    """What is printable stays as it is, umlauts too."""
    assert shown(raw) == text


@given(st.binary(max_size=40))
def test_any_bytes_come_back_from_json(raw: bytes) -> None:
    """Exact where they are UTF-8, in base64 where they are not; the text can be shown anywhere."""
    text = json_text(json_name(raw))
    assert text.isprintable()
    data = json.loads(text)
    got = base64.b64decode(data["path_base64"]) if "path_base64" in data else data["path"].encode()
    assert got == raw
    assert shown(raw).isprintable()


def test_what_is_meant_is_taken_apart() -> None:
    """SOURCE[:PATH], the path absolute."""
    got = [split_what(what) for what in ("web1", "web1:", "db/orders:/a//b/", "web1:/", "web1:/a:b")]
    assert got == [("web1", None), ("web1", None), ("db/orders", b"a/b"), ("web1", b""), ("web1", b"a:b")]


@pytest.mark.parametrize("what", ["web1:relative", "web1:/a/../b", ":/a"])
def test_what_can_not_be_meant_is_refused(what: str) -> None:
    """With the way out."""
    with pytest.raises(UsageError) as caught:
        split_what(what)
    assert caught.value.hint


@given(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw))
def test_the_command_that_restores_can_be_quoted_back(raw: bytes) -> None:
    """It is printable, whatever the path holds."""
    assert restore_command("web1", raw, "a" * 64).isprintable()


def test_the_command_that_restores_can_be_pasted() -> None:
    """A shell gives the very bytes to the command."""
    raw = b"srv/it's \xff\n$HOME"
    line = restore_command("web1", raw, "ab" * 32).replace("holdfast restore", "printf '%s'").replace(" --", " #")
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout == b"web1:/" + raw
    assert os.fsencode(split_what(os.fsdecode(b"web1:/" + raw))[0]) == b"web1"
