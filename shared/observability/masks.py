"""Hiding secrets in what is logged and said. No logging is imported: a command hides the password of a URL, too."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any

_SECRET_NAME = re.compile(
    r"pass(word|phrase)|secret|credential|access_key|session_token|authori[sz]ation", re.IGNORECASE
)
# To the last @ before the host ends: a password may hold one.
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s\"'<>]*@", re.IGNORECASE)
# In a text: `secret_key=...`, `"secret_key": "..."`, `'password': b'...'`. Not "the password: reason".
_ASSIGNED = re.compile(
    r"""([\w-]*(?:passw(?:or)?d|passphrase|secret|access_key|session_token)[\w-]*(?:=|["']\s*[:=]\s*)b?)"""
    r"""("[^"]*"|'[^']*'|[^\s"'&,;)}\]]+)""",
    re.IGNORECASE,
)
MASK = "***"

Event = MutableMapping[str, Any]


def mask_url(text: str) -> str:
    """The same text with the user and password of every URL in it hidden."""
    return _USERINFO.sub(rf"\1{MASK}@", text) if "://" in text else text


def mask_text(text: str) -> str:
    """The same text with passwords in URLs, and what is assigned to a name that a secret would have, hidden."""
    text = mask_url(text)
    # Most texts that are logged are a name or a number: what can't match is not searched.
    return _ASSIGNED.sub(rf"\1{MASK}", text) if "=" in text or '"' in text or "'" in text else text


def mask_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Hide the values of what is named like a secret, at any depth, and those in texts, tracebacks too."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked(name: str, value: Any) -> Any:
    if _is_secret(name) and value not in (None, ""):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, bytes):
        return mask_text(value.decode(errors="backslashreplace"))
    if isinstance(value, Mapping):
        return {key: _masked(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", inner) for inner in value]
    if value is None or isinstance(value, int | float):
        return value
    return mask_text(repr(value))  # as the renderer would show it: an error, an object of ours
