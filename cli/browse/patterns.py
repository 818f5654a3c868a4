"""Patterns of `holdfast find`. Pure.

A pattern without a slash is matched with names; one with a slash with whole paths, at any depth unless it begins with
a slash. `*` stands for anything, slashes too, `?` for one character, `[a-z]` for one of some.
"""

from __future__ import annotations

import fnmatch
import os
import re

_MAGIC = re.compile(r"[*?\[]")


class Patterns:
    """Some patterns, any of which may match. Paths are bytes, relative."""

    def __init__(self, patterns: tuple[str, ...], *, ignore_case: bool = False) -> None:
        flags = re.IGNORECASE if ignore_case else 0
        names = [pattern for pattern in patterns if "/" not in pattern]
        paths = [pattern for pattern in patterns if "/" in pattern]
        self._names = [re.compile(fnmatch.translate(pattern), flags).match for pattern in names]
        # Matched with "/" + path: so `*/x` finds x at any depth, and `b/x` is the same as `*/b/x`.
        self._paths = [
            re.compile(fnmatch.translate(one if one[0] in "/*" else f"*/{one}"), flags).match
            for one in (pattern.rstrip("/") for pattern in paths)
            if one
        ]
        # Directories to which a pattern is bound, so that nothing else need be read.
        self._bound: list[bytes] | None = None
        if not names and not ignore_case and all(pattern.startswith("/") for pattern in paths):
            self._bound = [_literal(pattern) for pattern in paths]

    def match(self, path: bytes, name: bytes) -> bool:
        """Whether what stands there is meant."""
        text = os.fsdecode(name)
        if any(match(text) for match in self._names):
            return True
        if not self._paths:
            return False
        whole = "/" + os.fsdecode(path)
        return any(match(whole) for match in self._paths)

    def may_hold(self, directory: bytes) -> bool:
        """Whether something below this directory may match."""
        if self._bound is None:
            return True
        return any(_within(bound, directory) or _within(directory, bound) for bound in self._bound)


def _literal(pattern: str) -> bytes:
    """The directory below which all that matches an absolute pattern lies."""
    magic = _MAGIC.search(pattern)
    start = pattern[: magic.start()] if magic else pattern
    return os.fsencode(start.rpartition("/")[0].strip("/"))


def _within(path: bytes, directory: bytes) -> bool:
    return not directory or path == directory or path.startswith(directory + b"/")
