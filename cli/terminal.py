r"""What goes to a terminal: the one place that says which characters may.

Invariant: of a text that somebody else wrote, be it a file's name, a server's agent or a tool's last words, nothing
steers the terminal. Escape sequences, other control characters, and marks that turn the direction of writing are shown
escaped (`\x1b[2J`); new lines and tabs stay. The only sequences that pass are those of `style`, which bear a number
that this process has drawn, and that no text can know.
"""

from __future__ import annotations

import json
import re
import secrets

import click

from shared.plain import plain_lines

_MARK = str(10**8 + secrets.randbelow(10**8))
_OURS = re.compile(rf"\x1b\[{_MARK};([0-9;]*m)")
_STEERS = re.compile(r"[^ -~\n\t]")


def style(text: str, fg: str | None = None, *, bold: bool = False) -> str:
    """A text in colour, for `shown`. What it holds of sequences is shown, too."""
    return click.style(plain_lines(text), fg=fg, bold=bold or None).replace("\x1b[", f"\x1b[{_MARK};")


def shown(text: str) -> str:
    """A text as it may go to a terminal."""
    if text.isprintable():
        return text
    pieces = _OURS.split(text)  # what lies between our sequences, and the end of each, in turn
    return "".join(f"\x1b[{piece}" if at % 2 else plain_lines(piece) for at, piece in enumerate(pieces))


def shown_json(text: str) -> str:
    """JSON that says the same, and may go to a terminal."""
    return _STEERS.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def echo(text: str, *, err: bool = False, color: bool | None = None) -> None:
    """Write lines for people."""
    click.echo(shown(text), err=err, color=color)
