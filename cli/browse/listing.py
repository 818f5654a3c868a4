"""A listing that may be long: lines as they are found, or with --json one document, written as it grows."""

from __future__ import annotations

import sys
from typing import Any

from cli.app import App
from cli.browse.names import json_text
from cli.terminal import echo
from shared.errors import EXIT_INCOMPLETE, EXIT_OK


class Listing:
    """`{...head, "<name>": [item, ...], ...tail, "problems": [...]}`, without ever holding all of the items."""

    def __init__(self, app: App, head: dict[str, Any], name: str) -> None:
        self._app = app
        self._items = 0
        if app.json:
            fields = "".join(f"{json_text(key)}: {json_text(value)},\n " for key, value in head.items())
            sys.stdout.write(f"{{{fields}{json_text(name)}: [")

    def add(self, item: dict[str, Any], *lines: str) -> None:
        """One thing more."""
        if self._app.json:
            sys.stdout.write(f"{',' if self._items else ''}\n  {json_text(item)}")
        else:
            for line in lines:
                sys.stdout.write(line + "\n")
        self._items += 1

    def end(self, problems: list[str], tail: dict[str, Any] | None = None, *lines: str) -> int:
        """Close it; the exit code: 3 where something could not be read."""
        if self._app.json:
            fields = "".join(f",\n {json_text(key)}: {json_text(value)}" for key, value in (tail or {}).items())
            sys.stdout.write(f'\n ]{fields},\n "problems": {json_text(problems)}}}\n')
        else:
            for line in lines:
                echo(line)
        return EXIT_INCOMPLETE if problems else EXIT_OK
