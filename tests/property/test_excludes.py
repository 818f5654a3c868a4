"""Exclude patterns against git itself, which defined them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from workers.backup.engine.selection import Filter
from workers.backup.spec import Selection

FILES = ["a", "b.x", "c.y", "d/a", "d/b.x", "d/e/a", "d/e/b.x", "e/c.y", "e/d/a", "e/d/e/b.x", "x y/a", ".h/a", "[z]"]
part = st.sampled_from(["a", "d", "e", "*", "**", "*.x", "?", "b.*", "[a-c]", "[!d]*", ".h", "x y", "c.y", "\\[z\\]"])
pattern = st.builds(
    lambda negated, anchored, parts, slash: f"{negated}{anchored}{'/'.join(parts)}{slash}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(part, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
).filter(lambda made: not made.endswith("**/"))  # which pathspec takes for `**`, and git for directories alone


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty git repository with these files."""
    root = tmp_path_factory.mktemp("checkout")
    subprocess.run(["git", "init", "-q", root], check=True)
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def by_git(root: Path, patterns: list[str]) -> set[str]:
    """The files that git does not ignore."""
    listed = root / ".git" / "patterns"
    listed.write_text("\n".join(patterns) + "\n")
    command = ["git", "-C", str(root), "ls-files", "-z", "--others", f"--exclude-from={listed}"]
    return {
        name for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0") if name
    }


def by_us(root: Path, patterns: list[str]) -> set[str]:
    """The files that a scan keeps, directory by directory."""
    rules = Filter(Selection([str(root)], excludes=patterns))

    def kept(folder: str) -> Iterator[str]:
        names = [os.fsencode(name) for name in os.listdir(folder) if name != ".git"]
        out = rules.excluded(
            os.fsencode(folder), names, lambda name: os.path.isdir(os.path.join(os.fsencode(folder), name))
        )
        for name in set(names) - out:
            path = os.path.join(folder, os.fsdecode(name))
            if os.path.isdir(path):
                yield from kept(path)
            else:
                yield os.path.relpath(path, root)

    return set(kept(str(root)))


@settings(
    max_examples=150,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(patterns=st.lists(pattern, min_size=1, max_size=4))
@example(patterns=["*", "!*/", "!*.x"])
@example(patterns=["d/*", "!d/e", "d/e/a"])
@example(patterns=["d", "!d/a"])
@example(patterns=["d/**", "!d/e/"])
def test_what_is_kept_is_what_git_keeps(checkout: Path, patterns: list[str]) -> None:
    """Negations, anchors, stars, sets, directories alone, in any order."""
    assert by_us(checkout, patterns) == by_git(checkout, patterns)
