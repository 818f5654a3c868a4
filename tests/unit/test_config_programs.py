"""What of a source's command is looked at before it ever runs."""

from __future__ import annotations

import pytest

from shared.config.programs import hides_failures

HIDES = [
    ["sh", "-c", "pg_dump orders | gzip"],
    ["/bin/bash", "-ec", "pg_dump orders|gzip"],
    ["sudo", "-u", "postgres", "bash", "-lc", "pg_dump orders |& gzip"],
    ["sh", "-c", "a || b\nc | d"],
]
DOES_NOT = [
    ["pg_dump", "orders"],
    ["bash", "-o", "pipefail", "-c", "pg_dump orders | gzip"],
    ["bash", "-c", "set -euo pipefail; pg_dump orders | gzip"],
    ["sh", "-ec", "mktemp -d || exit 1; cat x"],
    ["sh", "-c", "grep -c 'a|b' \"c|d\" e\\|f # | g"],
    ["sh", "-c", "dump >| file; cat file"],
    ["sh", "script.sh", "a|b"],
    ["dump", "--separator", "|"],
]


@pytest.mark.parametrize("argv", HIDES, ids=" ".join)
def test_a_shells_pipe_hides_failures(argv: list[str]) -> None:
    """Unless it says pipefail, the shell ends as its last program does."""
    assert hides_failures(argv)


@pytest.mark.parametrize("argv", DOES_NOT, ids=" ".join)
def test_what_is_no_pipe_or_says_pipefail_hides_nothing(argv: list[str]) -> None:
    """Alternatives, quotes, comments, redirections, and other programs' arguments."""
    assert not hides_failures(argv)
