"""What goes to a terminal: our colours pass, and nothing that anybody else wrote steers it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.app import App
from cli.terminal import shown, shown_json, style

ROOT = Path(__file__).parents[2]
NASTY = "a\x1b[31mb\x9b2J\u202ec\r\x00\udcff\x1b]0;t\x07"
# Where something is written to a terminal by other means: `dump` and completions write for programs.
OTHERS = {"cli/terminal.py", "cli/app.py", "cli/main.py", "cli/commands/dump.py", "cli/commands/completion.py"}


def test_sequences_of_somebody_else_are_shown_escaped() -> None:
    """Escape sequences, C1 controls, marks of direction, broken bytes; also inside a text that is ours to colour."""
    escaped = "a\\x1b[31mb\\x9b2J\\u202ec\\r\\x00\\udcff\\x1b]0;t\\x07"
    assert shown(NASTY) == escaped
    assert click.unstyle(shown(style(NASTY, "red"))) == escaped


def test_our_own_colours_pass() -> None:
    """As click writes them."""
    assert (
        shown(f"x {style('failed', 'red', bold=True)} y\n\tz") == f"x {click.style('failed', 'red', bold=True)} y\n\tz"
    )


def test_json_says_the_same_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be shown is escaped as JSON does."""
    App(json=True).result({"name": NASTY, "city": "Zürich"})
    said = capsys.readouterr().out
    assert json.loads(said) == {"name": NASTY, "city": "Zürich"}
    assert "Zürich" in said
    assert all(char.isprintable() or char == "\n" for char in said)


def test_lines_and_warnings_go_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a command says."""
    app = App()
    app.say(NASTY)
    app.result({}, NASTY)
    app.warn(NASTY)
    said = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in said.out + said.err)


@given(st.text(alphabet=st.characters()))
def test_no_text_gets_through(text: str) -> None:
    """Whatever it is made of."""
    assert all(char.isprintable() or char in "\n\t" for char in shown(text))
    assert json.loads(shown_json(json.dumps(text, ensure_ascii=False))) == text


def test_nothing_else_writes_colours_or_lines() -> None:
    """One place says which characters go to a terminal; a test holds the commands to it."""
    found = set()
    for path in sorted((ROOT / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"click.style", "click.echo", "click.secho"}:
                found.add(str(path.relative_to(ROOT)))
    assert found <= OTHERS
