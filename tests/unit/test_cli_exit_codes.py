"""docs/exit-codes.md says what the code does."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import cli
import scheduler
import shared
import workers
from shared.errors import HoldfastError

ROOT = Path(__file__).parents[2]


def leaves(parent: type[HoldfastError]) -> Iterator[type[HoldfastError]]:
    """A class and all below it."""
    yield parent
    for child in parent.__subclasses__():
        yield from leaves(child)


def codes() -> dict[int, str]:
    """Each code and the class that introduces it; a class that has its parent's code needs no line."""
    for package in (shared, workers, scheduler, cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    own = [error for error in leaves(HoldfastError) if "exit_code" in vars(error)]
    return {error.exit_code: error.__name__ for error in own if error.__module__.split(".")[0] != "tests"}


def documented() -> dict[int, str]:
    """The rows of the table that name a class."""
    text = (ROOT / "docs/exit-codes.md").read_text()
    return {int(code): name for code, name in re.findall(r"^\| ([0-9]+) \| `([A-Za-z]+)` \|", text, re.MULTILINE)}


def test_every_exit_code_is_documented() -> None:
    """No class ends a command with a code that the page does not explain, and the page invents none."""
    assert documented() == codes()


def test_no_two_classes_share_a_code_of_their_own() -> None:
    """A script can tell from the code which error it was."""
    codes()
    own = [error.exit_code for error in leaves(HoldfastError) if "exit_code" in vars(error)]
    assert sorted(own) == sorted(set(own))


def test_the_tree_in_the_errors_module_is_right() -> None:
    """The drawing at the top of shared/errors.py names each class that it draws with its code."""
    text = (ROOT / "shared/errors.py").read_text()
    drawn = re.findall(r"^[│├└─ ]*([A-Z][A-Za-z]+) +([0-9]+)  ", text, re.MULTILINE)
    known = codes()
    assert [(name, int(code)) for name, code in drawn if known.get(int(code)) != name] == []
