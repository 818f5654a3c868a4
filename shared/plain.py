r"""Texts that somebody else wrote, for a terminal: what would steer it is shown escaped, as `\x1b[2J` or `\u202e`."""

from __future__ import annotations

import re

_STEERS = re.compile(r"[^ -~]")
_STEERS_LINES = re.compile(r"[^ -~\n\t]")


def plain(text: str) -> str:
    """A text in one line."""
    return text if text.isprintable() else _STEERS.sub(_escape, text)


def plain_lines(text: str) -> str:
    """A text whose new lines and tabs stay."""
    return text if text.isprintable() else _STEERS_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else char.encode("unicode_escape").decode()
