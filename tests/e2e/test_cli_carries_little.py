"""What a command with `--direct` carries through its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import environment, open_shop

# Runs a command line, then says which modules of these its process has.
PROGRAM = """
import sys
from cli.main import main
code = main(sys.argv[1:])
print(code, *sorted({"pydantic", "yaml", "celery", "kombu", "redis", "minio", "structlog", "rich"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("backup", "data", "--direct"),
        ("restore", "data", "--direct"),
        ("verify", "data", "--direct"),
        ("restore-test", "data", "--direct"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_engine_does_not_carry_what_reads_the_configuration(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """No pydantic, YAML, Celery, Redis or S3: they are 10 MB and more, and its helpers would carry them too."""
    shop = open_shop(tmp_path)
    shop.run("backup", "data", "--direct")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=shop.conf,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "0"
