"""docs/commands.md says what `holdfast status` says."""

from __future__ import annotations

import re
from pathlib import Path

from cli.status.judge import Condition

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text()


def test_every_condition_is_documented_with_its_exit_code() -> None:
    """In the order of their badness."""
    rows = re.findall(r"^\| `([a-z]+)` \| ([0-9]) \|", PAGE, re.MULTILINE)
    assert rows == [(condition.value, str(int(condition.level))) for condition in Condition]
