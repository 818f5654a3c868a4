"""docs/logs.md lists every event that is logged, with its level, logger and fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from shared.messaging.names import TASK_HEAR, TASK_RUN, TASK_TICK
from shared.observability import logs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/logs.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
PROGRAMS = [path for folder in ("shared", "workers", "scheduler", "cli") for path in (ROOT / folder).rglob("*.py")]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call of a method of something that is named as a logger is: the method's name and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            what = node.func.value
            name = what.attr if isinstance(what, ast.Attribute) else what.id if isinstance(what, ast.Name) else ""
            if name in {"_log", "log", "logger", "_logger"} and node.func.attr in LEVELS:
                yield node.func.attr, node


def logged(path: Path) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Event, level, logger and fields of each line that a module logs."""
    tree = ast.parse(path.read_text())
    for method, call in calls(tree):
        said = call.args[0]
        assert isinstance(said, ast.Constant), f"{path}:{call.lineno}: an event is a text, what varies is a field"
        fields = [str(keyword.arg) for keyword in call.keywords]
        level = "error" if method == "exception" else method
        fields += ["exception"] if method == "exception" else []
        (name,) = re.findall(r'get_logger\("([\w.]+)"\)', path.read_text())
        yield str(said.value), level, name, tuple(fields)


def test_every_event_is_documented_as_it_is_logged() -> None:
    """The table has each with its level, logger and fields, and none that is not there."""
    rows = re.findall(r"^\| (.+) \| (info|warning|error) \| `(.+?)` \| (.+?) \| .+ \|$", PAGE, re.MULTILINE)
    documented = [(event, level, name, tuple(re.findall(r"`(\w+)`", fields))) for event, level, name, fields in rows]
    assert sorted(documented) == sorted(line for path in PROGRAMS for line in logged(path))


def test_the_fields_of_a_line_are_documented() -> None:
    """Those that are bound to every line about a run, and the names of tasks and loggers."""
    about = logs.about_run.__kwdefaults__ or {}
    assert about == {}  # none may be left out
    bound = [name for name in logs.about_run.__annotations__ if name != "return"]
    assert ", ".join(f"`{name}`" for name in bound) in PAGE
    loggers = {name for path in PROGRAMS for name in re.findall(r'get_logger\("([\w.]+)"\)', path.read_text())}
    assert [name for name in (*loggers, TASK_RUN, TASK_TICK, TASK_HEAR) if f"`{name}`" not in PAGE] == []


def test_a_run_is_bound_in_one_place() -> None:
    """No module binds the fields of a run by hand: `about_run` asks for all of them."""
    by_hand = re.compile(r"(?:_log|logger)\.bind\(|bind_contextvars|bound_contextvars")
    found = [path for path in PROGRAMS if by_hand.search(path.read_text())]
    assert found == [ROOT / "shared/observability/logs.py"]
