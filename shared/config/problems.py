"""What is wrong with a configuration file: every problem at once, each with file, line, key, expected and found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from shared.errors import ConfigError

Path: TypeAlias = tuple[str | int, ...]

SHOWN_AT_MOST = 20
_FOUND_AT_MOST = 60  # characters of a value that an error repeats


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the key's path, its line (from 1; 0 where no line can be named) and the reason.

    `file`: where it stands, if not in the file that was named.
    """

    path: Path
    line: int
    reason: str
    file: str = ""

    def render(self, file: str) -> str:
        """`fleet.yaml:41: policies.web.full: expected ...`; `file` is the one that was named."""
        file = self.file or file
        place = f"{file}:{self.line}" if self.line else file
        return ": ".join(part for part in (place, dotted(self.path), self.reason) if part)


class ConfigInvalid(ConfigError):
    """A configuration with problems, which its message lists by file and line, at most 20 of them."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        listed = list(problems)
        order = {file: 0}
        for problem in listed:
            order.setdefault(problem.file or file, len(order))
        self.problems: tuple[Problem, ...] = tuple(sorted(listed, key=lambda one: (order[one.file or file], one.line)))
        lines = [problem.render(file) for problem in self.problems[:SHOWN_AT_MOST]]
        left = len(self.problems) - len(lines)
        if left:
            lines.append(f"{file}: and {left} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[Self], tuple[str, tuple[Problem, ...]]]:
        """Let it pass to another process whole."""
        return type(self), (self.file, self.problems)


def dotted(path: Sequence[str | int]) -> str:
    """The way a person would write a key's place: `sources.web1.paths[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def found(value: object) -> str:
    """A value as an error repeats it: short, and in the words of YAML rather than of Python."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _FOUND_AT_MOST else f'{text[:_FOUND_AT_MOST]}..."'


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean "keep_daily"?)`, or nothing where no known word is near."""
    import difflib

    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{matches[0]}"?)' if matches else ""
