"""A source gets another name in the file that has it: one line changes, and one is added that says what it was called.

`formerly` is its first name for good: its repository and the tags of its snapshots go on under it, so nothing at any
site changes, and the next backup finds its parent. The edit is of the text, so that comments and order stay. It is made
only where the text then reads as what is wanted, and nothing else.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from shared.config import loader
from shared.config.assembly import Assembly, assemble
from shared.config.document import Document, parse
from shared.errors import ConfigError
from shared.storage.durable import DurableFile


@dataclass(frozen=True, slots=True)
class Edit:
    """A file as it is and as it is to be."""

    file: str
    before: str
    after: str

    def make(self) -> None:
        """Write it, whole or not at all; mode and owner stay. Raises ConfigError, where nothing has changed."""
        path = os.path.realpath(self.file)
        try:
            status = os.stat(path)
            with open(path, encoding="utf-8", newline="") as file:
                if file.read() != self.before:
                    raise ConfigError(f"{self.file} has just been changed by another", hint="Do it again")
            with DurableFile(path, mode=status.st_mode & 0o7777) as file_:
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file_.fileno(), status.st_uid, status.st_gid)
                file_.write(self.after.encode())
                file_.publish()
        except OSError as error:
            raise ConfigError(f"can't change {self.file}: {error.strerror}") from None


def rename(path: str, old: str, new: str) -> Edit:
    """What is to be changed for a source to be called `new`. Nothing is written.

    Raises ConfigError: there is no such source, the name is taken or none, it comes from the inventory, or stands in a
    way that can't be edited without a person.
    """
    first: list[str] = []

    def change(assembly: Assembly) -> None:
        sources: Any = assembly.data["sources"]
        first.append(_renamed(sources, old, new))

    assembly = assemble(path, {})
    file, document = assembly.owners.get(("sources", old), ("", Document()))
    if not file:
        raise ConfigError(f"no file of {path} has the source {old}", hint=_BY_INVENTORY.format(old=old, new=new))
    if ("sources", new) in assembly.owners:
        raise ConfigError(f"there is a source {new} already")
    loader.load_changed(path, change)
    with open(file, encoding="utf-8", newline="") as opened:
        before = opened.read()
    after = edited(before, document, old, new)
    if after is None:
        line = document.line(("sources", old))
        raise ConfigError(
            f"{file}:{line}: source {old} stands in a way that is not edited by a program",
            hint=f"Call it {new} there, and give it `formerly: {first[0]}`",
        )
    return Edit(file, before, after)


_BY_INVENTORY = "One of the inventory is renamed there: called {new}, with `formerly: {old}`"


def edited(text: str, document: Document, old: str, new: str) -> str | None:
    """The text with the source renamed; None where that is not sure to be what is meant."""
    lines = text.splitlines(keepends=True)
    number = document.lines.get(("sources", old), 0) - 1
    if not 0 <= number < len(lines):
        return None
    key = re.compile(rf"""(?P<before>^\s*|[{{,]\s*)(?P<quote>["']?){re.escape(old)}(?P=quote)(?P<colon>\s*:(?=\s|$))""")
    found = list(key.finditer(lines[number]))
    wanted: Any = parse(text).data
    source = wanted["sources"][old]
    if len(found) != 1 or not isinstance(source, dict) or not source:
        return None
    match = found[0]
    rest = lines[number][match.end() :]
    add = "" if source.get("formerly") else f"formerly: {old}"
    if add and rest.lstrip().startswith("{"):
        rest = rest.replace("{", f"{{{add}, ", 1)
    elif add:
        at = document.lines.get(("sources", old, next(iter(source))), 0) - 1
        if rest.strip() and not rest.lstrip().startswith("#"):
            return None
        if not number < at < len(lines):
            return None
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        end = "\r\n" if lines[at].endswith("\r\n") else "\n"
        lines[at] = f"{indent}{add}{end}{lines[at]}"
    lines[number] = lines[number][: match.start()] + f"{match['before']}{new}{match['colon']}" + rest
    after = "".join(lines)
    _renamed(wanted["sources"], old, new)
    reread = parse(after)
    return after if not reread.problems and reread.data == wanted else None


def _renamed(sources: dict[str, Any], old: str, new: str) -> str:
    """Rename one in place; its first name."""
    source = sources.pop(old)
    if not isinstance(source, dict):
        raise ConfigError(f"source {old} says nothing")
    first = str(source.get("formerly") or old)
    sources[new] = {**source, "formerly": first}
    return first
