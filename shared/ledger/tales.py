"""What a run tells of itself, as JSON: how far it is, and what came of it.

Whoever shows, adds or compares it need not look again: what a host's agent tells is of the types that any backup or
restore tells, its numbers are finite, and it is not nested deep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from shared.ledger.model import RunKind

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEEP = 16  # dictionaries and lists within each other
_LARGEST = 1 << 53
_CODES = 255
_PROGRESS = frozenset(
    ("files", "files_total", "bytes", "bytes_total", "bytes_read", "bytes_stored", "problems", "shards", "shards_done")
)
_NUMBERS = frozenset(
    (
        *("files", "bytes", "files_new", "files_changed", "files_unmodified", "files_gone", "dirs", "bytes_processed"),
        *("bytes_read", "bytes_added", "bytes_stored", "packs_stored", "packs_resumed", "unreadable", "shards"),
        *("duration", "verify_duration", "unchanged", "skipped", "links", "verified", "metadata_failed", "errors"),
        "exit_code",
    )
)
_TEXTS = frozenset(
    (
        *("snapshot", "kind", "source", "repository", "site", "time", "tree", "parent", "target", "undo_hint", "path"),
        *("program", "said"),
    )
)
_LISTS = frozenset(("problems", "warnings", "notes", "metadata_problems", "damaged_packs", "undo"))
_PROBLEM = frozenset(("path", "message"))
_NONE: frozenset[str] = frozenset()
Names = AbstractSet[str]


class NotTold(ValueError):
    """No run tells such a thing."""


def anything(text: str, host: str) -> dict[str, Any]:
    """What a run in a host's realm, or (empty) in the pools', tells. Raises ValueError (NotTold) and RecursionError."""
    if not text:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise NotTold("no mapping")
    if host:
        _bound([found])
    return found


def progress(text: str, host: str) -> dict[str, Any]:
    """How far it is. Raises ValueError (NotTold) and RecursionError."""
    found = anything(text, host)
    if host:
        _check(found, _PROGRESS)
    return found


def result(text: str, host: str, kind: RunKind) -> dict[str, Any]:
    """What came of it. Raises ValueError (NotTold) and RecursionError."""
    found = anything(text, host)
    if host and found:
        _check(found, _NUMBERS, _TEXTS, _LISTS)
        _check_result(found, kind)
    return found


def _check(said: Mapping[str, Any], numbers: Names, texts: Names = _NONE, lists: Names = _NONE) -> None:
    for name, value in said.items():
        if name in numbers:
            fits = isinstance(value, int | float) and value >= 0
        elif name in lists:
            fits = isinstance(value, list) and all(isinstance(one, str | dict) for one in value)
        else:
            fits = name not in texts or isinstance(value, str)
        if not fits:
            raise NotTold(name)


def _check_result(said: Mapping[str, Any], kind: RunKind) -> None:
    code = said.get("exit_code", 0)
    if not isinstance(code, int) or code > _CODES:
        raise NotTold("exit_code")
    problems = said.get("problems", ())
    if kind is RunKind.RESTORE and not all(isinstance(one, dict) and one.keys() >= _PROBLEM for one in problems):
        raise NotTold("problems")


def _bound(level: list[Any]) -> None:
    for _ in range(_DEEP):
        level = [one for item in level for one in _inside(item)]
        if not level:
            return
    raise NotTold("too deep")


def _inside(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    if isinstance(item, list):
        return item
    if isinstance(item, int | float) and not abs(item) < _LARGEST:  # nor is it NaN
        raise NotTold("a number too large")
    return ()
