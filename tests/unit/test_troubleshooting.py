"""docs/troubleshooting.md quotes messages that exist, and has a section for each exit code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
CODES = (ROOT / "docs/exit-codes.md").read_text()
LEAST = 5  # letters of a quoted part that are looked for


@cache
def messages() -> list[str]:
    """Every text of the program; what varies in one is a line's end."""
    found: list[str] = []
    for folder in ("cli", "scheduler", "shared", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def quoted() -> list[str]:
    """The messages of the page: what stands in backticks in the first column."""
    rows = re.findall(r"^\| (`.+?`) \| .* \| .* \|$", PAGE, re.MULTILINE)
    return [text for row in rows for text in row.removeprefix("`").removesuffix("`").split("`, `")]


@pytest.mark.parametrize("text", quoted())
def test_a_quoted_message_is_in_the_code(text: str) -> None:
    """All its fixed parts, in their order, in one text of the program; a single word is a text of its own."""
    parts = [part.strip(" :") for part in text.split("...")]
    known = [part for part in parts if len(part) >= LEAST]
    word = text.removesuffix(": ...")
    if word.isalpha():
        assert word in messages()
        return
    pattern = re.compile(".*".join(re.escape(part) for part in known), re.DOTALL)
    assert known
    assert any(pattern.search(message) for message in messages())


def test_each_exit_code_has_a_section() -> None:
    """With the name of its class, and no other code has one."""
    rows = re.findall(r"^\| (\d+) \|(?: `(\w+)`)? \|", CODES, re.MULTILINE)
    documented = [f"{code} {name}".strip() for code, name in rows if code != "0"]
    assert re.findall(r"^## (\d+(?: \w+)?)$", PAGE, re.MULTILINE) == documented
