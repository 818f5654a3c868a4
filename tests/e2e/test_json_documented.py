"""docs/json.md is what the commands say with --json: each key, its type, and whether it is always there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import COMMANDS
from tests.support.spoken import Samples, Speaker

PAGE = (Path(__file__).parents[2] / "docs/json.md").read_text()
PLAIN: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
}
MUTE = {"up", "scheduler", "failover-worker", "restic"}  # `up` has documents for its options alone


@dataclass(frozen=True, slots=True)
class Row:
    """One key of a section."""

    type: str
    optional: bool


def sections() -> dict[str, dict[str, Row]]:
    """The page's tables by heading: dotted keys with what is said of each."""
    found: dict[str, dict[str, Row]] = {}
    for part in PAGE.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        rows = re.findall(r"^\| `([\w.]+)(\?)?` \| ([\w ]+?) \|", text, re.MULTILINE)
        found[title] = {key: Row(kind, bool(mark)) for key, mark, kind in rows}
    return found


SECTIONS = sections()
ORDERS = dict.fromkeys(
    (f"sites {name}" for name in ("pause", "resume", "acknowledge", "maintenance", "accept")), "orders"
)
MOVES = dict.fromkeys(("failover", "switchover", "failback", "sites add", "sites remove"), "move")
SHAPES = {
    "runs show": "run",
    "runs follow": "run",
    "version": "holdfast version",
    **MOVES,
    **ORDERS,
}  # a command's section, else its own


class Comparison:
    """Says what differs between samples and the page, and which keys were met."""

    def __init__(self) -> None:
        self.wrong: set[str] = set()
        self.met: set[tuple[str, str]] = set()

    def look(self, section: str, value: Any, where: str, below: str = "") -> None:
        """One object, described by the rows of a section that begin with `below`."""
        rows = {
            key.removeprefix(below): row
            for key, row in SECTIONS[section].items()
            if key.startswith(below) and "." not in key.removeprefix(below)
        }
        self.wrong.update(f"{where}.{key} is not documented" for key in value if key not in rows)
        for key, row in rows.items():
            if key not in value:
                self.wrong.update([f"{where}.{key} is missing"] if not row.optional else [])
                continue
            self.met.add((section, below + key))
            self._kind(row.type, value[key], f"{where}.{key}", (section, f"{below}{key}."))

    def _kind(self, kind: str, value: Any, where: str, here: tuple[str, str]) -> None:
        if kind.startswith("list of "):
            if value is None and kind.endswith(" or null"):
                return
            if not isinstance(value, list):
                self.wrong.add(f"{where} is no list")
                return
            for one in value:
                self._kind(kind.removeprefix("list of ").removesuffix(" or null"), one, where, here)
        elif kind in SECTIONS and kind not in PLAIN:
            self.look(kind, value, where)
        elif not any(self._fits(word, value) for word in kind.split(" or ")):
            self.wrong.add(f"{where} is {value!r}, not {kind}")
        elif isinstance(value, dict) and any(key.startswith(here[1]) for key in SECTIONS[here[0]]):
            self.look(here[0], value, where, here[1])

    @staticmethod
    def _fits(word: str, value: Any) -> bool:
        return isinstance(value, PLAIN[word]) and (word == "boolean" or not isinstance(value, bool))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """What each command said."""
    return Speaker(tmp_path_factory.mktemp("shop")).speak()


def test_every_type_on_the_page_is_one() -> None:
    """A plain one, or the name of a section; of a list, of each in it."""
    kinds = {row.type.removeprefix("list of ") for rows in SECTIONS.values() for row in rows.values()}
    assert [kind for kind in kinds if kind not in SECTIONS and not set(kind.split(" or ")) <= set(PLAIN)] == []
    assert [title for title, rows in SECTIONS.items() if not rows] == []


def test_what_is_said_is_what_is_documented(samples: Samples) -> None:
    """No key that the page lacks, none of another type, none missing that is always there; and every key was met."""
    compared = Comparison()
    for command, said in samples.items():
        section = SHAPES.get(command, command)
        for one in said:
            compared.look(section, one, command)
    assert sorted(compared.wrong) == []
    documented = {(section, key) for section, rows in SECTIONS.items() for key in rows}
    assert sorted(documented - compared.met) == []


def test_every_command_is_asked(samples: Samples) -> None:
    """A new command is sampled too, or is named as one that writes no document."""
    asked = {words.split()[0] for words in samples} - {"error"}
    assert set(COMMANDS) - asked - MUTE == set()


def every_result(value: Any) -> Iterator[Any]:
    """The results of runs, wherever they stand."""
    for run in value["runs"]:
        if run["result"]:
            yield run["kind"], run["result"]


def test_the_result_of_a_run_is_as_of_its_command(samples: Samples) -> None:
    """The free `result` of a run has the keys of `backup`, `restore` or `verify`."""
    shapes = {"backup-full": "backup", "backup-incremental": "backup"}
    compared = Comparison()
    found = [one for said in samples["runs list"] for one in every_result(said)]
    for kind, result in found:
        compared.look(shapes.get(kind, kind), result, kind)
    assert sorted(compared.wrong) == []
    assert {kind for kind, _ in found} >= {"backup-incremental", "restore", "verify", "forget", "restore-test"}
