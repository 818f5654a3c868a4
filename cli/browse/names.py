"""Names of a snapshot as people and programs see them. Pure.

In a snapshot a name is any bytes but NUL and a slash: it may hold a newline, an escape sequence that clears a
terminal, or bytes that are no UTF-8. Invariant: what `shown` and `json_text` give is UTF-8 and printable.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from shared.errors import UsageError

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def shown(raw: bytes) -> str:
    r"""A name or path for people: as it is where it is printable, else with `\n`, `\xff`, `\u202e` and `\\`."""
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() and char != "\\" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as surrogateescape has it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def absolute(path: bytes) -> bytes:
    """A relative path as it was on the server; the top is `/`."""
    return b"/" + path


def json_name(raw: bytes, key: str = "path") -> dict[str, str]:
    """A name for programs: exact where it is UTF-8, else escaped, with the very bytes as `<key>_base64` beside it."""
    try:
        return {key: raw.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {key: shown(raw), f"{key}_base64": b64encode(raw).decode()}


def json_text(data: Any) -> str:
    """JSON in one line; characters that a terminal might obey are escaped, others (umlauts) are not."""
    text = json.dumps(data, ensure_ascii=False)
    if text.isprintable():
        return text
    return re.sub(r"[^ -~]", lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def split_what(what: str, *, need_path: bool = False) -> tuple[str, bytes | None]:
    """`SOURCE[:PATH]` as the source and the path, relative, in its bytes. Raises UsageError."""
    source, colon, path = what.partition(":")
    if not source or (need_path and not path):
        raise UsageError(f'"{what}" names no path', hint=f"Write it as {source or 'SOURCE'}:/srv/file")
    if not colon or not path:
        return source, None
    return source, path_of(path, source)


def path_of(path: str, source: str) -> bytes:
    """A path as it was on the server, relative, in its bytes. Raises UsageError."""
    from workers.restore.selection import relative

    if not path.startswith("/"):
        raise UsageError(
            f"the path {shown(os.fsencode(path))} is not absolute",
            hint=f"Write it as it was on the server: {source}:/srv/...",
        )
    return relative(path)


def restore_command(source: str, path: bytes, snapshot: str, *, site: str = "", config: str = "") -> str:
    """The command line that brings this version back; can be pasted whatever the path holds.

    `site` and `config` are those that were asked for by name.
    """
    from workers.restore.places import quoted

    options = f" --site {quoted(os.fsencode(site))}" if site else ""
    options += f" --config {quoted(os.fsencode(config))}" if config else ""
    return f"holdfast restore {quoted(source.encode() + b':' + absolute(path))} --snapshot {snapshot[:8]}{options}"
