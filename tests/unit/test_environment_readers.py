"""Only the configuration and the command line read the environment."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAY_READ = ("shared/config/", "cli/")
# Each exception and why.
EXCEPTIONS: dict[str, str] = {}
READERS = {"environ", "environb", "getenv", "getenvb"}


def environment_reads(path: Path) -> list[int]:
    """The lines on which a module touches the environment through `os`."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in READERS:
            if isinstance(node.value, ast.Name) and node.value.id == "os":
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for name in node.names if name.name in READERS]
    return lines


def test_only_config_and_cli_read_the_environment() -> None:
    """A setting that any module could look up is a setting that nobody can list."""
    found = {}
    for package in ("cli", "scheduler", "shared", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(MAY_READ) and name not in EXCEPTIONS and (lines := environment_reads(path)):
                found[name] = lines
    assert found == {}


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    """Each way of reading the environment is seen."""
    path = tmp_path / "module.py"
    path.write_text("import os\nfrom os import getenv\nos.environ['A']\nos.getenv('A')\n")
    assert environment_reads(path) == [2, 3, 4]


def test_every_exception_is_needed() -> None:
    """An exception that nothing uses any more goes."""
    assert [name for name in EXCEPTIONS if not environment_reads(ROOT / name)] == []
