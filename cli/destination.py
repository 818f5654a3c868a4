"""Where a restore goes to: `DIR`, or `HOST:/path` on another machine, as `--to` says it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Destination:
    """A place for files. Without a `host` it is where whoever restores runs."""

    path: str = ""  # empty: none is named
    host: str = ""


def parse_destination(text: str) -> Destination:
    """Read what `--to` says; a colon in a path's first part needs `./` before it. Raises UsageError."""
    host, colon, path = text.partition(":")
    if not colon or "/" in host:
        return Destination(text)
    if not host:
        raise UsageError(f'--to "{text}" names no host', hint=f"Write HOST:{path or '/path'}, or only the folder")
    if not path.startswith("/"):
        raise UsageError(
            f'--to "{text}": on host {host} the path {f"{path} is not absolute" if path else "is missing"}',
            hint=f"Write {host}:/{path or 'path'}; a folder here of that name is ./{text}",
        )
    return Destination(path, host)
